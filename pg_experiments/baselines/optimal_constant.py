"""The constant that makes the variance of the gradient estimate smallest."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from pg_experiments.baselines.history import History, weighted_mean
from pg_experiments.baselines.interface import Experience
from pg_experiments.exact import per_run
from pg_experiments.policies.interface import Policy
from pg_experiments.policies.networks import Parameters
from pg_experiments.score_moments import ScoreMoments


@dataclass(frozen=True)
class OptimalConstant:
    """b = E[X · S] / E[|S|²], or for every coordinate i of the gradient its own, bᵢ = E[Xᵢ Sᵢ] / E[Sᵢ²].

    S = Σₜ ∇log π(aₜ | sₜ) is the score of an episode, and X = Σₜ ∇log π(aₜ | sₜ) Gₜ its gradient without a baseline. Of
    all constants b this one gives X - b S the smallest variance: that of X less E[X · S]² / E[|S|²].
    With `reward_to_go: false` X is S G, and b the known E[|S|² G] / E[|S|²].

    The expectations are means over the episodes of earlier iterations, 0 / 0 at first, which counts as 0: so the
    expected gradient is exact, and b is that of policies a little older. What it is subtracted from is what the
    algorithm multiplies by: with `normalize_advantage`, normalised returns.

    It needs the gradient of each episode by itself, which is two more passes over the policy with blocks that are less
    full: with episodes of twenty steps, an iteration takes three times as long as with no baseline. It keeps two
    numbers for a run; with `per_coordinate`, two for every parameter of the policy.

    Source: Weaver and Tao (2001), arXiv:1301.2315; Greensmith, Bartlett and Baxter (2004); for every coordinate: Peters
    and Schaal (2008), "Reinforcement learning of motor skills with policy gradients".

    Attributes:
        policy: whose gradient it is.
        decay: what an iteration weighs less than the one after it, in [0, 1], per run; 1: the mean of all.
        per_coordinate: see above.
    """

    policy: Policy
    decay: Float[Tensor, " runs"]
    per_coordinate: bool

    def init(self, generators: Sequence[Generator], dtype: torch.dtype) -> History:
        kept: Parameters = {"constant": torch.zeros(len(generators), 1, dtype=dtype)}
        if self.per_coordinate:
            kept = self.policy.init([Generator() for _ in generators], dtype)  # for the shapes: no run's own generator
        sums = ("product", "square")
        return History({f"{one}.{name}": torch.zeros_like(part) for one in sums for name, part in kept.items()})

    def values_then_learn(
        self, learner: History, experience: Experience, progress: Float[Tensor, " runs"]
    ) -> tuple[Float[Tensor, " samples"], dict[str, Float[Tensor, " runs"]]]:
        return torch.zeros_like(experience.returns), {}

    def correct_then_learn(
        self, learner: History, gradient: Parameters, moments: ScoreMoments
    ) -> tuple[Parameters, dict[str, Float[Tensor, " runs"]]]:
        """The gradient of the loss, which is minus the mean of X, becomes minus the mean of X - b S."""
        kept, product, square = learner.parameters, moments.product, moments.square
        metrics = {}
        if self.per_coordinate:
            constant = {name: weighted_mean(kept[f"product.{name}"], kept[f"square.{name}"]) for name in gradient}
        else:
            one = weighted_mean(kept["product.constant"], kept["square.constant"])[:, 0]
            constant = {name: per_run(one, part) for name, part in gradient.items()}
            product, square = {"constant": _total(product)}, {"constant": _total(square)}
            metrics = {"baseline/constant": one}
        corrected = {name: part + constant[name] * moments.score[name] for name, part in gradient.items()}
        learner.add(self.decay, {f"product.{name}": part for name, part in product.items()})
        learner.add(self.decay, {f"square.{name}": part for name, part in square.items()})
        return corrected, metrics


def _total(parts: Parameters) -> Float[Tensor, "runs 1"]:
    """The sum over all coordinates."""
    return reduce(torch.add, [part.flatten(1).sum(1, keepdim=True) for part in parts.values()])
