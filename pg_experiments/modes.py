"""How torch computes where no gradient is wanted: in its inference mode, as long as nobody else's code is called there.

In inference mode an operation on small tensors takes a tenth less time, because autograd does not count its changes and
views. But no tensor that is made there can ever be saved in a graph, and only there it can be changed in place. This
package knows where its tensors go. A policy, network, environment or optimizer of somebody else may keep what it made,
or ask for a gradient of its own; what calls such a part does so as under `torch.no_grad()`. The numbers are the same.

Source: PyTorch's documentation, Autograd mechanics, "Inference mode".
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

LIBRARIES = ("pg_experiments", "builtins", "envpool", "functools", "numpy", "torch")  # whose code keeps no such tensors

Mode = Callable[[], AbstractContextManager[None]]
MOST_KNOWN = 32
_KNOWN: dict[tuple[int, ...], tuple[tuple[Any, ...], Mode]] = {}
P = ParamSpec("P")
R = TypeVar("R")


def mode_of(*parts: Any) -> Mode:
    """Inference mode where all parts are of this package, and made of nothing else; no_grad otherwise."""
    own = all(_is_own(part, set()) for part in parts)
    return torch.inference_mode if own else torch.no_grad


def known_mode_of(*parts: Any) -> Mode:
    """`mode_of` parts that are asked for again and again, such as in every iteration: to look at all takes 0.2 ms."""
    key = tuple(map(id, parts))
    if key not in _KNOWN:
        if len(_KNOWN) >= MOST_KNOWN:
            _KNOWN.clear()
        _KNOWN[key] = parts, mode_of(*parts)  # as long as they are here, their ids are nobody else's
    return _KNOWN[key][1]


def in_mode(method: Callable[P, R]) -> Callable[P, R]:
    """A method that is called in its object's `mode`."""

    @wraps(method)
    def called(*arguments: P.args, **named: P.kwargs) -> R:
        owner: Any = arguments[0]
        with owner.mode():
            return method(*arguments, **named)

    return called


def learning(learn: Callable[P, R]) -> Callable[P, R]:
    """A method `learn` of an algorithm, see there, that is called in the mode of the algorithm and all it is handed."""

    @wraps(learn)
    def called(*arguments: P.args, **named: P.kwargs) -> R:
        given: tuple[Any, ...] = arguments
        algorithm, policy, policy_learner, baseline, baseline_learner, *_ = given
        optimizers = (learner.settings.torch_class for learner in (policy_learner, baseline_learner))
        with known_mode_of(algorithm, policy, baseline, *optimizers)():
            iteration: Any = learn(*arguments, **named)
        return iteration._replace(metrics={name: recordable(part) for name, part in iteration.metrics.items()})

    return called


@contextmanager
def recorded() -> Iterator[None]:
    """What is done in here is recorded for autograd, also from inference mode."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def recordable(x: Tensor) -> Tensor:
    """`x` as a graph can keep it, and as it can be changed in place anywhere: a copy of what inference mode made."""
    if not x.is_inference():
        return x
    with torch.inference_mode(False):
        return x.clone()


def _is_own(value: Any, seen: set[int]) -> bool:
    """Whether the kind of a value, and of everything in it, is of `LIBRARIES`."""
    if id(value) in seen or value is None:
        return True
    seen.add(id(value))
    kind = value if isinstance(value, type) or hasattr(value, "__qualname__") else type(value)
    library = (kind.__module__ or "builtins").partition(".")[0]
    if library not in LIBRARIES:
        return False
    if isinstance(value, Mapping):
        parts = [*value.values()]
    elif isinstance(value, list | tuple | set | frozenset):
        parts = [*value]
    elif isinstance(value, partial):
        parts = [value.func, *value.args, *value.keywords.values()]
    else:
        parts = [*vars(value).values()] if library == "pg_experiments" and not isinstance(value, type) else []
    return all(_is_own(part, seen) for part in parts)
