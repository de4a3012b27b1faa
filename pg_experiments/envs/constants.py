"""An environment's numbers as tensors, made once: a step of few copies takes as long as its operations are many."""

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor


@cache
@torch.inference_mode(False)  # it is kept
def constants(dtype: torch.dtype, device: torch.device, *numbers: float) -> tuple[Float[Tensor, ""], ...]:
    """Each number without dimensions, for reading only.

    Of a Python number torch makes such a tensor anew in every operation, which takes longer than to add a thousand
    numbers to it. The results are the same.

    Example:
        >>> constants(torch.float32, torch.device("cpu"), 0.5, 2.0)
        (tensor(0.5000), tensor(2.))
    """
    return torch.tensor(numbers, dtype=dtype, device=device).unbind(0)
