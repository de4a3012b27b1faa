"""Numbers that describe an iteration, one per run."""

import torch
from jaxtyping import Float
from torch import Tensor

from pg_experiments.packing import Samples


def explained_variance(
    values: Float[Tensor, " samples"], returns: Float[Tensor, " samples"], of: Samples
) -> Float[Tensor, " runs"]:
    """1 - Var(G - b) / Var(G) over the samples of a run: 1 is a perfect baseline, 0 no better than a constant."""
    variance = of.variance(returns)
    unexplained = of.variance(returns - values)
    return torch.where(variance > 0, 1 - unexplained / variance, 0.0)
