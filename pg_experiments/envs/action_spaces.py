"""Gymnasium's action spaces as the actions of a spec, and the way back from numbers to what a space holds."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from gymnasium import spaces

from pg_experiments.envs.interface import (
    Actions,
    BoxActions,
    DiscreteActions,
    MixedActions,
    MultiBinaryActions,
    MultiDiscreteActions,
    Part,
    action_width,
)

KINDS = "Discrete, Box, MultiDiscrete, MultiBinary, or a Tuple or Dict of these"


def actions_of(space: spaces.Space[Any]) -> Actions | None:
    """The actions of a space; None when it is of a kind that no policy here can act in.

    A Tuple or Dict becomes its parts in Gymnasium's order, nested ones one after the other.
    """
    if not isinstance(space, spaces.Tuple | spaces.Dict):
        return _part(space)
    parts = [_part(leaf) for leaf in _leaves(space)]
    known = [part for part in parts if part is not None]
    return MixedActions(tuple(known)) if known and len(known) == len(parts) else None


def converter(space: spaces.Space[Any]) -> Callable[[Any], Any]:
    """From one copy's action, a NumPy array or number, to what the space holds: right type, shape and start.

    Args:
        space: one that `actions_of` knows.
    """
    if isinstance(space, spaces.Tuple | spaces.Dict):
        return lambda action: _filled(space, iter(np.split(action, _edges(space))))
    if isinstance(space, spaces.Discrete):
        start = space.start
        return lambda action: int(action) + start
    shape, dtype = space.shape, space.dtype
    if isinstance(space, spaces.MultiDiscrete):
        first = space.start.ravel()
        return lambda action: (action.astype(dtype) + first).reshape(shape).astype(dtype)
    if np.issubdtype(dtype, np.integer):
        return lambda action: np.rint(action).reshape(shape).astype(dtype)
    return lambda action: action.reshape(shape).astype(dtype)


def counts_from_zero(space: spaces.Space[Any]) -> bool:
    """Whether every numbered choice of a space does, as a policy's own do; `converter` adds the start of the others."""
    numbered = [leaf for leaf in _leaves(space) if isinstance(leaf, spaces.Discrete | spaces.MultiDiscrete)]
    return not any(np.count_nonzero(leaf.start) for leaf in numbered)


def _part(space: spaces.Space[Any]) -> Part | None:
    if isinstance(space, spaces.Discrete):
        return DiscreteActions(int(space.n))
    if isinstance(space, spaces.Box):
        return BoxActions(tuple(space.low.flatten().tolist()), tuple(space.high.flatten().tolist()))
    if isinstance(space, spaces.MultiDiscrete):
        return MultiDiscreteActions(tuple(space.nvec.flatten().tolist()))
    if isinstance(space, spaces.MultiBinary):
        return MultiBinaryActions(int(np.prod(space.shape)))
    return None


def _leaves(space: spaces.Space[Any]) -> Iterator[spaces.Space[Any]]:
    if isinstance(space, spaces.Tuple | spaces.Dict):
        for child in space.values() if isinstance(space, spaces.Dict) else space:
            yield from _leaves(child)
    else:
        yield space


def _edges(space: spaces.Space[Any]) -> Any:
    """Where one part ends and the next begins, in the row of numbers of a whole action."""
    parts = [_part(leaf) for leaf in _leaves(space)]
    return np.cumsum([action_width(part) for part in parts if part is not None])[:-1]


def _filled(space: spaces.Space[Any], pieces: Iterator[Any]) -> Any:
    """The space's own structure, with the next piece for each leaf."""
    if isinstance(space, spaces.Dict):
        return {name: _filled(child, pieces) for name, child in space.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_filled(child, pieces) for child in space)
    piece = next(pieces)
    return converter(space)(piece[0] if isinstance(space, spaces.Discrete) else piece)
