"""What a baseline without an optimizer keeps of earlier iterations."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pg_experiments.exact import per_run
from pg_experiments.policies.networks import Parameters


class History:
    """Named tensors `[runs, numbers, ...]` that are saved, selected and loaded like the parameters of a `Learner`.

    Attributes:
        parameters: changed in place.
    """

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters

    def select(self, rows: Int64[Tensor, " rows"]) -> "History":
        """A copy with the given runs only."""
        return History({name: part[rows] for name, part in self.parameters.items()})

    def copy(self) -> "History":
        """A copy with all runs."""
        return History({name: part.clone() for name, part in self.parameters.items()})

    def state(self, rows: Int64[Tensor, " rows"] | None = None) -> dict[str, Any]:
        """A copy of everything, as tensors whose rows are the runs.

        Args:
            rows: which runs; None: all.
        """
        chosen = slice(None) if rows is None else rows
        return {"parameters": {name: part[chosen].clone() for name, part in self.parameters.items()}}

    def load(self, rows: Int64[Tensor, " rows"], state: Mapping[str, Any]) -> None:
        """Let the given runs go on from what `state` gave of them."""
        for name, parameter in self.parameters.items():
            parameter[rows] = state["parameters"][name].to(parameter.device)

    def add(self, decay: Float[Tensor, " runs"], news: Parameters) -> None:
        """kept ← decay · kept + new, for every tensor.

        Args:
            decay: in [0, 1], per run.
            news: of this iteration, by name.
        """
        for name, new in news.items():
            kept = self.parameters[name]
            kept.mul_(per_run(decay.to(kept.dtype), kept)).add_(new)


def weighted_mean(total: Float[Tensor, "runs *rest"], weight: Float[Tensor, "runs *rest"]) -> Float[Tensor, "..."]:
    """total / weight, and 0 where nothing has been weighed yet.

    For sums that `History.add` made, it is the exponential moving mean with its start corrected: with weight 1 an
    iteration, (1 - decay) Σ decayᵏ xₖ / (1 - decayⁿ). Source: Kingma and Ba (2015), arXiv:1412.6980, section 3. With
    decay 1 it is the plain mean.
    """
    return torch.where(weight > 0, total / weight, 0.0)
