"""A device for tests where there is no other than the CPU: its numbers are the CPU's, and it lets nothing cross over.

`far:0` is torch's place for a backend of others. A `Far` tensor has a CPU tensor inside, on which every operation is
computed, and an operation that takes a far and a near tensor raises, as with CUDA: but for copies, for indices on the
CPU, and for near tensors of no dimension. Generators are near.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "far"
_setup_privateuseone_for_python_backend(NAME)
COPIES = ("aten::_to_copy", "aten::copy_")  # they may take from the one and give to the other
INDEXED = ("aten::index", "aten::index_put_", "aten::_index_put_impl_")  # with indices from the CPU too


class Far(Tensor):
    """A tensor elsewhere. `inner` is where its numbers really are."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Far":
        with torch.inference_mode(False):  # torch's inference mode knows no views of subclasses
            return torch.Tensor._make_wrapper_subclass(
                cls,
                inner.shape,
                strides=inner.stride(),
                storage_offset=inner.storage_offset(),
                dtype=inner.dtype,
                device=torch.device(NAME, 0),
            )

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Far({self.inner})"

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def tolist(self) -> Any:
        return self.inner.tolist()

    def numpy(self, *arguments: Any, **named: Any) -> Any:
        raise TypeError("can't convert a far tensor to numpy. Use Tensor.cpu()")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class _Operations(TorchDispatchMode):
    """Sees operations that make a tensor from none."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class _Literals(TorchFunctionMode):
    """Sees what torch makes of Python's numbers and NumPy's arrays, with code that knows no subclass."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and _is_far(kwargs.get("device")):
            return func(*args, **(kwargs | {"device": "cpu"})).to(NAME)
        if func is torch.Tensor.new_tensor and isinstance(args[0], Far):
            return args[0].inner.new_tensor(*args[1:], **kwargs).to(NAME)
        if func is torch.Tensor.__getitem__ and isinstance(args[0], Far) and isinstance(args[1], list):
            return args[0][torch.tensor(args[1], dtype=torch.long, device="cpu").to(NAME)]
        return func(*args, **kwargs)


@contextmanager
def far_device() -> Iterator[str]:
    """Let there be the device; gives its name."""
    with _Literals(), _Operations():
        yield f"{NAME}:0"


def _is_far(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def _computed(func: Any, args: Any, kwargs: Any) -> Any:
    name = func.name().partition(".")[0]
    far: dict[int, Far] = {}
    near: list[Tensor] = []

    def inside(value: Any) -> Any:
        if isinstance(value, Far):
            far[id(value.inner)] = value
            return value.inner
        if isinstance(value, Tensor) and value.dim():
            near.append(value)
        return value

    near_args, near_kwargs = tree_map(inside, (args, kwargs))
    indices = near_args[1] if name in INDEXED else ()
    mixed = [part for part in near if not any(part is index for index in indices)]
    if far and name not in COPIES and (mixed or (near and not isinstance(args[0], Far))):
        raise RuntimeError(f"far and near tensors in {name}: {[tuple(part.shape) for part in near]}")
    to = kwargs.get("device")
    if kwargs.get("generator") is not None and (far or _is_far(to)):
        raise RuntimeError(f"far tensors and a generator of the CPU in {name}")
    if to is not None:
        near_kwargs["device"] = torch.device("cpu")
    result = func(*near_args, **near_kwargs)
    stays = isinstance(args[0], Far) if name == "aten::copy_" else bool(far) if to is None else _is_far(to)

    def outside(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return far[id(value)] if id(value) in far else Far(value)

    return tree_map(outside, result) if stays else result
