"""One episode after another, step by step with its picture: what a video is made of."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pg_experiments.config import Config
from pg_experiments.envs.checks import innermost, name_of
from pg_experiments.envs.interface import Env, HasTwin, Twin
from pg_experiments.errors import ConfigError, reason_of
from pg_experiments.policies.interface import Policy
from pg_experiments.policies.networks import Parameters
from pg_experiments.randomness import generator_for
from pg_experiments.runs import DTYPES, around
from pg_experiments.wrappers.wrapper import WrapperState


class Frame(NamedTuple):
    """What one moment of an episode looks like.

    Attributes:
        picture: red, green and blue from 0 to 255.
        episode: counted from 1.
        step: how many steps have been played, 0 after the reset.
        episode_return: sum of the rewards up to here, undiscounted.
        ended: how the episode has ended: `terminated`, `truncated`, or not yet, an empty text.
    """

    picture: NDArray[np.uint8]
    episode: int
    step: int
    episode_return: float
    ended: str


class Episodes(NamedTuple):
    """What is to be shown.

    Attributes:
        config: of the run.
        policy, parameters: of that run alone, `[1, ...]`.
        env: that it was trained in.
        seed: of the evaluation.
        of: how many episodes that evaluation has.
        shown: how many of them are shown, the first ones.
        deterministic: the policy's mode, or samples.
    """

    config: Config
    policy: Policy
    parameters: Parameters
    env: Env
    seed: int
    of: int
    shown: int
    deterministic: bool = True


def twin_of(env: Env, key: str) -> Twin:
    """How an environment is looked at.

    Args:
        env: perhaps in wrappers.
        key: what asked for it, for the message.

    Raises:
        ConfigError: when it has no twin.
    """
    base = innermost(env)
    if not isinstance(base, HasTwin):
        problem = f"env {name_of(base)} cannot be shown: it has no method twin, see {HasTwin.__module__}"
        raise ConfigError(key, None, problem)
    return base.twin()


def frames_per_second(env: Env, key: str) -> float:
    """At which an environment looks as it is meant to; see `twin_of`."""
    twin = twin_of(env, key)
    try:
        twin.close()
    except Exception as error:  # of a user's environment: any kind
        problem = f"env {name_of(innermost(env))} cannot be shown: close raised {reason_of(error)}"
        raise ConfigError(key, None, problem) from error
    return twin.frames_per_second


def played(episodes: Episodes, key: str) -> Iterator[Frame]:
    """Play, and draw after every step. The episodes begin as those of the evaluation with this seed.

    What is shown is what is played here: the state of each step is put into the twin, which only draws.

    Args:
        episodes: which.
        key: what asked for it, for a message.

    Raises:
        ConfigError: when the environment cannot be shown.
    """
    dtype = DTYPES[episodes.config.dtype]
    generator = generator_for(episodes.seed, "evaluation")
    size = episodes.env.spec.reset_noise_size
    noise = torch.rand(episodes.of, size, generator=generator, dtype=dtype)[: episodes.shown]
    for number, own in enumerate(noise, 1):
        twin = twin_of(episodes.env, key)
        try:
            yield from _episode(episodes, twin, number, own[None, None], generator)
        finally:
            twin.close()


@torch.no_grad()
def _episode(
    episodes: Episodes, twin: Twin, number: int, noise: torch.Tensor, generator: torch.Generator
) -> Iterator[Frame]:
    env, policy = around(twin.env, episodes.config), episodes.policy
    act = policy.actor(episodes.parameters)
    state, observation = env.reset(noise)
    running = torch.ones(1, 1, dtype=torch.bool)
    step, total, ended = 0, 0.0, ""
    while True:
        yield Frame(_uint8(twin.picture(_inner(state), 0, 0)), number, step, total, ended)
        if ended:
            return
        distribution = act(observation)
        if episodes.deterministic:
            action = distribution.mode()
        else:
            action = distribution.sample(policy.draw_noise(generator, (1, 1), noise.dtype))
        after = env.step(state, policy.env_action(action), running)
        state, observation = after.state, after.observation
        step += 1
        total += float(after.reward[0, 0])
        limit = step >= env.spec.max_episode_steps
        ended = "terminated" if after.terminated[0, 0] else "truncated" if limit or after.truncated[0, 0] else ""


def _inner(state: Any) -> Any:
    """The state of the environment inside all wrappers."""
    while isinstance(state, WrapperState):
        state = state.inner
    return state


def _uint8(picture: Any) -> NDArray[np.uint8]:
    return np.ascontiguousarray(picture, dtype=np.uint8)
