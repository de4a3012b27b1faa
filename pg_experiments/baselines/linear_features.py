"""A linear function of the observation and the time, fitted to the returns by ridge regression."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor

from pg_experiments.baselines.history import History
from pg_experiments.baselines.interface import Experience
from pg_experiments.envs.interface import EnvSpec
from pg_experiments.errors import ConfigError
from pg_experiments.exact import pad_to_lane, per_run

CLIP = 10.0  # of an observation
MOST_OBSERVED = 2000  # numbers of an observation: the normal equations have the square of twice as many
ATTEMPTS = 12  # at normal equations that rounding makes indefinite, each with a ridge ten times as large


@dataclass(frozen=True)
class LinearFeatures:
    """b = w · φ with φ = (o, o², t/100, (t/100)², (t/100)³, 1), the observation o clipped to [-10, 10].

    w minimises Σ (w · φ - G)² + ridge |w|² over the samples of the iteration before, so the expected gradient is exact;
    in the first iteration it is 0. The normal equations are solved in float64, run by run; where rounding makes them
    indefinite, with a ridge ten times as large, as often as need be.

    Source: Duan et al. (2016), arXiv:1604.06778, the linear feature baseline of their experiments and of rllab.

    Attributes:
        ridge: > 0, per run.
    """

    spec: EnvSpec
    ridge: Float[Tensor, " runs"]

    def __post_init__(self) -> None:
        if self.spec.observation_size > MOST_OBSERVED:
            raise ConfigError(
                "baseline",
                "linear_features",
                f"takes observations of at most {MOST_OBSERVED} numbers, and this environment's have "
                f"{self.spec.observation_size}; value_network takes any",
            )

    @property
    def size(self) -> int:
        """Number of features."""
        return 2 * self.spec.observation_size + 4

    def init(self, generators: Sequence[Generator], dtype: torch.dtype) -> History:
        return History({"weights": torch.zeros(len(generators), self.size, dtype=torch.float64)})

    def values_then_learn(
        self, learner: History, experience: Experience, progress: Float[Tensor, " runs"]
    ) -> tuple[Float[Tensor, " samples"], dict[str, Float[Tensor, " runs"]]]:
        returns, packing = experience.returns, experience.packing
        weights = pad_to_lane(learner.parameters["weights"], -1)
        moments = weights.new_zeros(len(weights), weights.shape[1], weights.shape[1])
        products = torch.zeros_like(weights)
        values = torch.zeros_like(returns)
        for blocks in packing.passes:
            features = pad_to_lane(_features(blocks.of(experience.observation), blocks.of(packing.step)), -1)
            values_now = (features * weights[blocks.rows, None]).sum(-1)
            blocks.of(values).copy_(values_now)
            counted = (features * blocks.of(packing.weight)[..., None]).mT.contiguous()
            moments.index_add_(0, blocks.rows, torch.bmm(counted, features))
            products.index_add_(0, blocks.rows, (counted * blocks.of(returns)[:, None]).sum(-1))
        learner.parameters["weights"].copy_(_solved(moments, products, self.ridge)[:, : self.size])
        return values, {"loss/baseline": packing.mean((values - returns).square())}


def _features(
    observation: Float[Tensor, "blocks size observation"], step: Int64[Tensor, "blocks size"]
) -> Float[Tensor, "blocks size features"]:
    seen = observation.double().clamp(-CLIP, CLIP)
    time = (step.double() / 100)[..., None]
    return torch.cat([seen, seen.square(), time, time.square(), time**3, torch.ones_like(time)], -1)


def _solved(
    moments: Float[Tensor, "runs features features"],
    products: Float[Tensor, "runs features"],
    ridge: Float[Tensor, " runs"],
) -> Float[Tensor, "runs features"]:
    """w of (Σ φ φᵀ + ridge) w = Σ φ G, each run by itself."""
    identity = torch.eye(moments.shape[-1], dtype=moments.dtype)
    rounding = torch.finfo(moments.dtype).eps * moments.diagonal(dim1=1, dim2=2).sum(1)
    for _ in range(ATTEMPTS):
        factor, failed = torch.linalg.cholesky_ex(moments + per_run(ridge, moments) * identity)
        if not sum(failed.tolist()):
            break
        ridge = torch.where(failed > 0, torch.maximum(10 * ridge, rounding), ridge)
    found = torch.cholesky_solve(products[..., None], factor)[..., 0]
    return torch.where(failed[:, None] > 0, torch.nan, found)  # of what is not finite: its run is ended as failed
