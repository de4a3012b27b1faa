"""Steps of torch's optimizers that do not import torch's compiler."""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch


def _spare_the_compiler() -> None:
    """Let torch's optimizers be made without importing torch's compiler, which takes a second and is not used.

    `torch._disable_dynamo` imports it on the first call of what it wraps, only to find out how not to compile it; it
    looks for an answer kept on the function first. Where a release of torch does otherwise, nothing happens.
    """
    function = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    setattr(function, "__dynamo_disable", function)


_spare_the_compiler()


@torch.no_grad()
def one_step(optimizer: torch.optim.Optimizer) -> None:
    """One step, without the wrappers around `step`, which import torch's compiler too."""
    kind: Any = type(optimizer)
    _unwrapped(kind.step)(optimizer)


_unwrapped: Callable[[Any], Any] = cache(inspect.unwrap)
