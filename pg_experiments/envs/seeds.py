"""From the noise of a reset to a seed, for environments that draw their random numbers themselves."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def seeds_of(noise: Float[Tensor, "runs envs 2"]) -> Int64[Tensor, "runs envs"]:
    """A seed below 2³¹ per copy, of its two uniform random numbers in [0, 1): 16 bits of the first, 15 of the second.

    Example:
        >>> seeds_of(torch.tensor([[[0.0, 0.5], [0.5, 0.0]]])).tolist()
        [[16384, 1073741824]]
    """
    high, low = (noise.double() * torch.tensor([2.0**16, 2.0**15])).long().unbind(-1)
    return high * 2**15 + low
