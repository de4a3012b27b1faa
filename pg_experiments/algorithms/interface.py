"""What an algorithm is to this package: from what was played to one iteration's change of the parameters."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Generator, Tensor

from pg_experiments.baselines.history import History
from pg_experiments.optimizers import Learner
from pg_experiments.policies.interface import Policy
from pg_experiments.rollout import Episodes, Trajectory

Metrics = dict[str, Tensor]  # one number per run, [runs], by TensorBoard tag


class Iteration(NamedTuple):
    """What one iteration did, per run. `metrics` holds one number per run by TensorBoard tag.

    `env_problems` says of runs whose numbers broke whether their environment's numbers had been broken before; it is
    empty where all are finite.
    """

    env_steps: list[int]
    episodes: Episodes
    metrics: Metrics
    env_problems: Sequence[str | None] = ()


@runtime_checkable
class Algorithm(Protocol):
    """A frozen dataclass, made from its config; per-run numbers arrive as tensors `[runs]`.

    One with an attribute `rollout_steps` learns from fixed rollouts of so many steps in every copy, in which episodes
    go on from iteration to iteration, and its baseline has to be a `ValueFunction`; any other one from whole episodes,
    one in every copy. One with a method `check(policy, optimizer_settings)` is asked before any work, and raises a
    `ConfigError` for what it cannot use. One with `shares_network = True` trains policy and value together, as
    `SharedValue` needs.
    """

    def learn(
        self,
        policy: Policy,
        policy_learner: Learner,
        baseline: Any,
        baseline_learner: Learner | History | None,
        episodes: Episodes,
        trajectory: Trajectory,
        progress: Float[Tensor, " runs"],
        generators: Sequence[Generator],
    ) -> Iteration:
        """Change the learners in place.

        Args:
            baseline: a `Baseline`, or of one with fixed rollouts a `ValueFunction`.
            episodes: what the iteration reports of finished episodes.
            trajectory: what is learned from.
            progress: fraction of each run that is over, for the schedules.
            generators: one per run, for what the algorithm draws.
        """
        ...


def rollout_steps_of(algorithm: Algorithm) -> int | None:
    """Steps of a fixed rollout; None for an algorithm that learns from whole episodes."""
    return getattr(algorithm, "rollout_steps", None)
