"""Distributions over actions, one per sample. A draw is a function of (parameters, noise): nothing here is random."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64, Num
from torch import Generator, Tensor

from pg_experiments.exact import log_softmax


@runtime_checkable
class Distribution(Protocol):
    """π(· | observation) for every sample of every run; the dimensions of one action are already summed."""

    def sample(self, noise: Float[Tensor, "runs samples noise"]) -> Num[Tensor, "runs samples *action"]:
        """The action that the noise stands for."""
        ...

    def log_prob(self, action: Num[Tensor, "runs samples *action"]) -> Float[Tensor, "runs samples"]:
        """log π(action)."""
        ...

    def entropy(self) -> Float[Tensor, "runs samples"]:
        """-E[log π(action)], in nats."""
        ...

    def kl(self, other: Any) -> Float[Tensor, "runs samples"]:
        """KL(self ‖ other) = E[log π(action) - log π_other(action)] in nats; `other` is of the same kind."""
        ...

    def mode(self) -> Num[Tensor, "runs samples *action"]:
        """The most probable action: what a deterministic evaluation plays."""
        ...


@dataclass(frozen=True)
class Categorical:
    """One of K actions with probability softmax(logits): pᵢ = exp(zᵢ) / Σⱼ exp(zⱼ).

    Attributes:
        logits: any real numbers; -inf for an action of probability 0.
    """

    logits: Float[Tensor, "runs samples actions"]

    @staticmethod
    def draw_noise(
        generator: Generator, shape: tuple[int, ...], actions: int, dtype: torch.dtype
    ) -> Float[Tensor, "*shape actions"]:
        """Standard Gumbel noise, -log(-log u) with u uniform in [0, 1): what `sample` takes.

        That of u = 0, once in 16 million draws, is not infinite but the lowest number: an action of probability 0,
        whose logit is -inf, must lose even to that.
        """
        noise = torch.rand(*shape, actions, generator=generator, dtype=dtype).log_().neg_().log_().neg_()
        return noise.clamp_(min=torch.finfo(dtype).min)

    def sample(self, noise: Float[Tensor, "runs samples actions"]) -> Int64[Tensor, "runs samples"]:
        """argmaxᵢ(zᵢ + gᵢ). Source: Gumbel (1954); Maddison, Tarlow and Minka (2014), arXiv:1411.0030."""
        return _argmax(self.logits + noise)

    def log_prob(self, action: Int64[Tensor, "runs samples"]) -> Float[Tensor, "runs samples"]:
        return self._log_probs.gather(-1, action[..., None])[..., 0]

    def entropy(self) -> Float[Tensor, "runs samples"]:
        log_probs = self._log_probs
        # an action of probability 0 has log-probability -inf and adds 0
        return -(self._probs * log_probs.clamp(min=torch.finfo(log_probs.dtype).min)).sum(-1)

    def kl(self, other: "Categorical") -> Float[Tensor, "runs samples"]:
        """Σᵢ pᵢ (log pᵢ - log qᵢ); an action of probability 0 adds 0, and one that only `other` excludes, infinity."""
        ratio = self._log_probs - other._log_probs
        possible = self._log_probs > -math.inf
        return (self._probs * torch.where(possible, ratio, 0.0)).sum(-1)

    def objective_gradient(
        self,
        action: Int64[Tensor, "runs samples"],
        weight: Float[Tensor, "runs samples"],
        coefficient: Float[Tensor, "runs 1"] | None,
    ) -> Float[Tensor, "runs samples actions"]:
        """Gradient of Σ w log π(a) + c H for the logits, in closed form: w (1ₐ - p) - c p (log p + H).

        Args:
            action, weight: a and w of every sample.
            coefficient: c of each run; None: 0 of all.
        """
        log_probs = self._log_probs
        probabilities = self._probs
        gradient = probabilities * -weight[..., None]
        if coefficient is not None:
            surprise = log_probs.clamp(min=torch.finfo(log_probs.dtype).min) + self.entropy()[..., None]
            gradient = gradient - coefficient[..., None] * probabilities * surprise
        return gradient.scatter_add_(-1, action[..., None], weight[..., None])

    def mode(self) -> Int64[Tensor, "runs samples"]:
        return _argmax(self.logits)

    @cached_property
    def _log_probs(self) -> Float[Tensor, "runs samples actions"]:
        return log_softmax(self.logits)

    @cached_property
    def _probs(self) -> Float[Tensor, "runs samples actions"]:
        return self._log_probs.exp()


def _argmax(x: Float[Tensor, "runs samples actions"]) -> Int64[Tensor, "runs samples"]:
    if x.shape[-1] == 2:  # the same answer as below, several times as fast
        first, second = x.unbind(-1)
        return (second > first).long()
    return x.contiguous().argmax(-1)


@dataclass(frozen=True)
class DiagonalGaussian:
    """Independent normal numbers, one per action dimension: aᵢ = meanᵢ + stdᵢ · noiseᵢ.

    Attributes:
        mean: of each dimension.
        log_std: natural logarithm of the standard deviation; one for all samples, or one per sample.
    """

    mean: Float[Tensor, "runs samples action"]
    log_std: Float[Tensor, "runs #samples action"]

    @staticmethod
    def draw_noise(
        generator: Generator, shape: tuple[int, ...], size: int, dtype: torch.dtype
    ) -> Float[Tensor, "*shape size"]:
        """Standard normal noise: what `sample` takes."""
        return torch.randn(*shape, size, generator=generator, dtype=dtype)

    def sample(self, noise: Float[Tensor, "runs samples action"]) -> Float[Tensor, "runs samples action"]:
        return self.mean + self.log_std.exp() * noise

    def log_prob(self, action: Float[Tensor, "runs samples action"]) -> Float[Tensor, "runs samples"]:
        """Σᵢ -½ ((aᵢ - meanᵢ) / stdᵢ)² - log stdᵢ - ½ log 2π."""
        standardised = (action - self.mean) * torch.exp(-self.log_std)
        each = -0.5 * standardised.square() - self.log_std - 0.5 * math.log(2 * math.pi)
        return each.sum(-1)

    def entropy(self) -> Float[Tensor, "runs samples"]:
        """Σᵢ log stdᵢ + ½ log 2πe."""
        each = self.log_std + 0.5 * math.log(2 * math.pi * math.e)
        return each.sum(-1).expand(self.mean.shape[:-1])

    def kl(self, other: "DiagonalGaussian") -> Float[Tensor, "runs samples"]:
        """Σᵢ ½ (rᵢ² - 1) - log rᵢ + ½ ((meanᵢ - other.meanᵢ) / other.stdᵢ)² with rᵢ = stdᵢ / other.stdᵢ."""
        log_ratio = self.log_std - other.log_std
        distance = (self.mean - other.mean) * torch.exp(-other.log_std)
        each = 0.5 * (torch.expm1(2 * log_ratio) + distance.square()) - log_ratio
        return each.sum(-1)

    def mode(self) -> Float[Tensor, "runs samples action"]:
        return self.mean
