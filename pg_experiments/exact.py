"""Tensor operations whose result for one run does not depend, in any bit, on the other runs of the batch.

On a CPU most operations of torch already are like that, but not all: some element-wise functions use other code for the
last elements of a tensor than for the rest, and matrix kernels are chosen by shape and by the address of their slices.
What is written here replaces those; `tests/test_runs_are_independent.py` measures it, and forbids the unsafe ones in
the package.
"""

from collections.abc import Callable
from functools import cache, reduce
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

LANE = 4  # a slice of 4k x 4m float32 or float64 numbers fills whole cache lines of 64 bytes
NARROW = 16  # up to this output width the transposed product is the faster one
WHOLE_VECTORS = 32  # numbers in a row: torch's code for the last numbers of a tensor has nothing to do then


def pad_to_lane(x: Tensor, dim: int) -> Tensor:
    """Append zeros until the size of `dim` (-1 or -2) is a multiple of `LANE`.

    A matrix product of runs whose slices all begin on a cache line and have such sizes is computed by the same kernel
    for every number of runs.
    """
    missing = -x.shape[dim] % LANE
    if missing == 0:
        return x
    return torch.constant_pad_nd(x, (0, missing) if dim == -1 else (0, 0, 0, missing))


def crop(x: Tensor, dim: int, size: int) -> Tensor:
    """Undo `pad_to_lane`: the first `size` entries of `dim`."""
    return x if x.shape[dim] == size else x.narrow(dim, 0, size)


def prepared_product(
    weight: Float[Tensor, "runs in out"], bias: Float[Tensor, "runs out"]
) -> Callable[[Float[Tensor, "runs samples in"]], Float[Tensor, "runs samples out"]]:
    """x -> x · weight + bias, one matrix product a run; every size a multiple of 4.

    Few outputs are computed as (weightᵀ · xᵀ)ᵀ: four to five times as fast as the plain product, and laid out with the
    samples innermost, so that what follows (a softmax over few actions) runs over long vectors.
    """
    if weight.shape[-1] <= NARROW:
        transposed, column = weight.mT, bias[:, :, None]
        return lambda x: torch.baddbmm(column, transposed, x.mT).mT
    row = bias[:, None]
    return lambda x: torch.baddbmm(row, x, weight)


def product(
    x: Float[Tensor, "runs samples in"], weight: Float[Tensor, "runs in out"], bias: Float[Tensor, "runs out"]
) -> Float[Tensor, "runs samples out"]:
    """`prepared_product`, for one x."""
    return prepared_product(weight, bias)(x)


def product_gradients(
    gradient: Float[Tensor, "runs samples output"],
    x: Float[Tensor, "runs samples in"],
    weight: Float[Tensor, "runs in out"],
    for_x: bool,
) -> tuple[Float[Tensor, "runs samples in"] | None, Float[Tensor, "runs in out"], Float[Tensor, "runs out"]]:
    """Gradients of `product` for x (where asked for), weight and bias; every size a multiple of 4.

    Only the gradient may have fewer columns than `out`: zeros are appended.
    """
    if weight.shape[-1] <= NARROW:
        columns = pad_to_lane(gradient.mT, -2).contiguous()
        gradient_x = torch.bmm(columns.mT, weight.mT) if for_x else None
        return gradient_x, torch.bmm(columns, x).mT, columns.sum(-1)
    gradient = pad_to_lane(gradient, -1)
    gradient_x = torch.bmm(gradient, weight.mT) if for_x else None
    return gradient_x, torch.bmm(x.mT, gradient), gradient.sum(1)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x)), element by element."""
    return 1 / (1 + torch.exp(-x))


def tanh_(x: Tensor) -> Tensor:
    """tanh(x), element by element, in place.

    Of float32 in rows of whole vectors it is 2 / (1 + exp(-2 x)) - 1, three to five times as fast as torch's own; it is
    off by at most 2e-7, where torch's is off by 3e-8. The width of the rows decides, which all runs of a batch share.

    Args:
        x: `[..., width]`, of any real type; it is changed. The same bits for every run need one thread, as in training.
    """
    return tanh_of_half_(x.add_(x)) if has_fast_tanh(x) and x.stride(-1) == 1 else torch.tanh_(x)


def has_fast_tanh(x: Tensor) -> bool:
    """Whether `tanh_` of a tensor of this type and width is not torch's own."""
    return x.dtype == torch.float32 and not x.shape[-1] % WHOLE_VECTORS and x.device.type == "cpu"


def tanh_of_half_(x: Tensor) -> Tensor:
    """tanh(x / 2) = 2 / (1 + exp(-x)) - 1, element by element, in place: where `has_fast_tanh`, `tanh_` of x / 2."""
    torch.sigmoid(x, out=x)
    return torch.add(_minus_one(), x, alpha=2, out=x)


@cache
@torch.inference_mode(False)  # it is kept
def _minus_one() -> Tensor:
    """As a tensor, because torch makes a new one of a Python number in every sum."""
    return torch.tensor(-1.0, dtype=torch.float32, device="cpu")


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|)), element by element, without overflow."""
    return torch.relu(x) + torch.log1p(torch.exp(-x.abs()))


def _narrow_log_softmax(x: Tensor) -> Tensor:
    shifted = x - reduce(torch.maximum, x.unbind(-1))[..., None]
    return shifted.sub_(reduce(torch.add, shifted.exp().unbind(-1)).log()[..., None])


class _NarrowLogSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        value = _narrow_log_softmax(x)
        ctx.save_for_backward(value)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (value,), (gradient,) = ctx.saved_tensors, gradients
        return gradient - value.exp() * reduce(torch.add, gradient.unbind(-1))[..., None]


def log_softmax(x: Float[Tensor, "*samples outputs"]) -> Float[Tensor, "*samples outputs"]:
    """xᵢ - log Σⱼ exp(xⱼ), over the last dimension.

    torch's own takes each sample for a vector; over few outputs, laid out with the samples innermost as
    `prepared_product` gives them, vectors of samples are three times as fast.
    """
    if x.shape[-1] > NARROW:
        return torch.log_softmax(x, -1)
    needs_graph = torch.is_grad_enabled() and x.requires_grad
    return _NarrowLogSoftmax.apply(x) if needs_graph else _narrow_log_softmax(x)


def per_run(number: Shaped[Tensor, " runs"], like: Tensor) -> Tensor:
    """Reshape one number per run to `[runs, 1, 1, ...]`, to be broadcast against `like`."""
    return number.reshape(-1, *(1,) * (like.ndim - 1))
