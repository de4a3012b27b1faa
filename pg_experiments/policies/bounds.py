"""From the scale on which a policy draws its actions to the bounds of a box."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from pg_experiments.envs.interface import BoxActions


@dataclass(frozen=True)
class Bounds:
    """(low + high) / 2 + a · (high - low) / 2, clipped: [-1, 1] spans the bounds of a box, dimension by dimension.

    A dimension with an infinite bound is only clipped.
    """

    actions: BoxActions

    def __call__(self, action: Float[Tensor, "*samples action"]) -> Float[Tensor, "*samples action"]:
        """The environment's action for one on the scale of [-1, 1]."""
        offset, scale, low, high = self._scaling[action.dtype]
        return (offset + action * scale).clamp(low, high)

    def scale(self, dtype: torch.dtype) -> Float[Tensor, " action"]:
        """(high - low) / 2; 1 for a dimension with an infinite bound."""
        return self._scaling[dtype][1]

    @cached_property
    @torch.inference_mode(False)  # it is kept
    def _scaling(self) -> dict[torch.dtype, tuple[Tensor, Tensor, Tensor, Tensor]]:
        low, high = (torch.tensor(bound, dtype=torch.float64) for bound in (self.actions.low, self.actions.high))
        bounded = torch.isfinite(low) & torch.isfinite(high)
        offset = torch.where(bounded, 0.5 * (low + high), 0.0)
        scale = torch.where(bounded, 0.5 * (high - low), 1.0)
        return {
            dtype: (offset.to(dtype), scale.to(dtype), low.to(dtype), high.to(dtype))
            for dtype in (torch.float32, torch.float64)
        }
