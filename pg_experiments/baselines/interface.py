"""What a baseline is to this package: what is subtracted from a return before it weighs a log-probability."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from pg_experiments.baselines.history import History
from pg_experiments.optimizers import Learner
from pg_experiments.packing import Packing
from pg_experiments.policies.networks import Network, Parameters
from pg_experiments.score_moments import ScoreMoments


class Experience(NamedTuple):
    """What a baseline may look at: one iteration of a batch of runs.

    Attributes:
        observation: of every sample.
        returns: of every sample, what b is subtracted from: its reward-to-go, or the whole return of its episode.
        returns_grid: the same on the grid, zero where an episode was over.
        running: True where a step was played.
        packing: how samples and grid belong together.
    """

    observation: Float[Tensor, "samples observation"]
    returns: Float[Tensor, " samples"]
    returns_grid: Float[Tensor, "runs steps envs"]
    running: Bool[Tensor, "runs steps envs"]
    packing: Packing


@runtime_checkable
class Baseline(Protocol):
    """b in the gradient estimate Σₜ ∇log π(aₜ | sₜ) (Gₜ - b).

    It leaves the expected gradient as it is when b may depend on the state and on other trajectories, but not on the
    action aₜ or on what followed it. Source: Williams (1992), theorem 1; Sutton and Barto (2018), eq. 13.10.
    """

    def init(self, generators: Sequence[Generator], dtype: torch.dtype) -> Learner | History | None:
        """What it learns, with first parameters drawn from each run's generator, or keeps; None: nothing."""
        ...

    def values_then_learn(
        self, learner: Learner | History | None, experience: Experience, progress: Float[Tensor, " runs"]
    ) -> tuple[Float[Tensor, " samples"], dict[str, Float[Tensor, " runs"]]]:
        """b for every sample, from what was known *before* this experience; then learn from it.

        Args:
            learner: from `init`; changed in place.
            experience: of this iteration.
            progress: fraction of each run that is over, for a learning-rate schedule.

        Returns:
            b, and metrics by tag: the same tags in every iteration. A tag under `loss/` or `gradient/` that is not a
            finite number ends its run as failed.
        """
        ...


@runtime_checkable
class GradientBaseline(Baseline, Protocol):
    """A baseline that is subtracted in the gradient, behind `values_then_learn`: it may differ between coordinates."""

    def correct_then_learn(
        self, learner: Any, gradient: Parameters, moments: ScoreMoments
    ) -> tuple[Parameters, dict[str, Float[Tensor, " runs"]]]:
        """The gradient with what was known *before* this iteration; then learn from its moments.

        Args:
            learner: from `init`; changed in place.
            gradient: of the loss.
            moments: of the iteration's episodes.

        Returns:
            The gradient that is stepped along, and metrics as of `values_then_learn`.
        """
        ...


@runtime_checkable
class ValueFunction(Protocol):
    """The output of a network for one observation: a cut rollout can be continued by its value.

    It is all that fixed rollouts need of a baseline; one that is a `Baseline` as well serves whole episodes, too.
    """

    updates_per_iteration: int

    def init(self, generators: Sequence[Generator], dtype: torch.dtype) -> Learner:
        """What it learns, with first parameters drawn from each run's generator: the network's, or a part of them."""
        ...

    @property
    def network(self) -> Network:
        """V(s), one number."""
        ...
