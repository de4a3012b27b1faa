"""`evaluation.video`: one episode of a run's evaluation for TensorBoard, while it trains.

What is played and drawn here is made anew for it, with a generator of its own: of the run nothing is changed.
"""

from typing import Any

from pg_experiments.config import Config, evaluation_seed
from pg_experiments.envs.interface import Env
from pg_experiments.errors import reason_of
from pg_experiments.evaluating.playing import Episodes, frames_per_second, played
from pg_experiments.policies.interface import Policy
from pg_experiments.policies.networks import Parameters
from pg_experiments.tensorboard_summaries import animation

KEY = "evaluation.video"


def check_video(config: Config, env: Env) -> None:
    """Raise a `ConfigError` when videos are asked for and the environment cannot be shown."""
    if config.evaluation.video:
        frames_per_second(env, KEY)


def video_of(config: Config, policy: Policy, parameters: Parameters, env: Env) -> Any:
    """The first episode of a run's evaluation as a summary for TensorBoard.

    Returns:
        The summary; None when none is asked for; or, in words, what the environment raised while it was drawn, which
        is no reason to fail a run.
    """
    if not config.evaluation.video:
        return None
    from pg_experiments.evaluating.video import gif_of  # here, so that Pillow is loaded by those only who look

    try:
        of = config.evaluation.episodes
        episodes = Episodes(config, policy, parameters, env, evaluation_seed(config), of, 1)
        return animation(*gif_of(played(episodes, KEY), frames_per_second(env, KEY)))
    except Exception as error:  # of a user's environment: any kind
        return reason_of(error)
