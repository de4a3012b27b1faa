"""`device`: where the tensors of a training are. Random numbers and everything that is kept are on the CPU.

A training is one program on any device: its tensors are made under `on(device)`, so that no part of it names one.
Three things stay on the CPU and cross over: noise and first parameters, which are drawn from the runs' own generators,
so that they are the same numbers everywhere; NumPy's arrays; and states, from which checkpoints, results, videos and
policies are made, so that these need no device. On the CPU itself none of this does anything.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from pg_experiments.errors import ConfigError

CPU = "cpu"
T = TypeVar("T")
_CPU = torch.device(CPU)
_entered = threading.local()  # the device of `on`: torch takes 20 µs to say what its own context is


def check_device(device: str) -> None:
    """Refuse a device that this machine does not have.

    Args:
        device: as `config.py` allows it: `cpu`, `cuda` (torch's current one, the first) or `cuda:N`.

    Raises:
        ConfigError: names what there is.
    """
    if not device.startswith("cuda"):
        return
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        built = torch.version.cuda or getattr(torch.version, "hip", None)
        why = "torch finds no CUDA device" if built else f"torch {torch.__version__} is built without CUDA"
        raise ConfigError("device", device, f"is not there: {why}; must be cpu here")
    if device != "cuda" and int(device.partition(":")[2]) >= count:
        there = [CPU, "cuda", *(f"cuda:{index}" for index in range(count))]
        raise ConfigError("device", device, f"is not there; must be one of {', '.join(there)}. Did you mean 'cuda'?")


@contextmanager
def on(device: str | torch.device) -> Iterator[None]:
    """Let tensors that are made in here be on the device, unless they say otherwise."""
    before, wanted = here(), torch.device(device)
    if wanted == before:  # torch's own context costs time at every call of torch
        yield
        return
    _entered.device = wanted
    try:
        with wanted:
            yield
    finally:
        _entered.device = before


def here() -> torch.device:
    """The device of `on`."""
    device: torch.device = getattr(_entered, "device", _CPU)
    return device


def drawn(draw: Callable[[], T]) -> T:
    """What `draw` takes from generators, which are on the CPU: made there, and moved to where tensors are made here."""
    device = here()
    if device.type == CPU:
        return draw()
    with on(CPU):
        return moved(draw(), device)


def from_numpy(array: NDArray[Any]) -> Tensor:
    """An array as a tensor where tensors are made here; on the CPU it shares its memory."""
    device, tensor = here(), torch.from_numpy(array)
    return tensor if device.type == CPU else tensor.to(device)


def moved(tree: T, device: torch.device) -> T:
    """Tensors, and dicts of them to any depth, on the device; everything else stays as it is."""
    moving: Any = tree
    if isinstance(moving, Tensor):
        moving = moving if moving.device == device else moving.to(device)
    elif isinstance(moving, dict):
        moving = {key: moved(value, device) for key, value in moving.items()}
    return moving
