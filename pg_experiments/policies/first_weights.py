"""The weights that networks begin with."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor


def orthogonal(
    generators: Sequence[Generator], shape: tuple[int, int], gain: float, dtype: torch.dtype
) -> Float[Tensor, "runs in out"]:
    """An orthogonal matrix times `gain` for each run, drawn from its own generator.

    Source: Saxe, McClelland and Ganguli (2014), arXiv:1312.6120.
    """
    weight = torch.empty(len(generators), *shape, dtype=dtype)
    for run, generator in enumerate(generators):
        torch.nn.init.orthogonal_(weight[run], gain, generator=generator)
    return weight
