"""From the spaces of Gymnasium to what policies here work with: observations as vectors, actions as they are listed.

| observation space | numbers in the vector |
|---|---|
| `Box` | its own, flattened row by row |
| `Box` of uint8 or bool with 2 or 3 dimensions: an image | (pixel - low) / (high - low), channel by channel |
| `Discrete` | one-hot |
| `MultiDiscrete` | one one-hot vector after the other |
| `MultiBinary` | 0 or 1, flattened row by row |
| `Dict`, `Tuple`, nested as well | those of its parts, one after the other, in the order of `space.spaces` |

But for images, that is what `gymnasium.spaces.utils.flatten` makes. Gymnasium sorts the keys of a `Dict` that is made
from a plain dict, and keeps the order of one made from pairs or an OrderedDict.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from pg_experiments.envs.checks import REAL_NUMBERS, WHOLE_NUMBERS, box_problem, described, state_problem
from pg_experiments.errors import ConfigError

ImageShape = tuple[int, int, int]  # channels, height, width
Put = Callable[[Any, Any], str | None]  # (zeros to write into, observation) -> what is wrong with it
OBSERVATIONS = "Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of these"


@dataclass(frozen=True)
class Observations:
    """How the observations of a space become vectors.

    Attributes:
        size: numbers in one vector.
        put: writes one observation into a vector of zeros, NumPy float64 `[size]`, and gives None; of an observation
            that the space does not allow it says what it is and what was expected. The bounds of a Box do not count.
        num_states: of a Discrete space; otherwise None.
        image_shape: of an image; otherwise None. Its vector is `[channels, height, width]`, flattened.
    """

    size: int
    put: Put
    num_states: int | None = None
    image_shape: ImageShape | None = None

    def vector(self, observation: Any) -> Any:
        """The vector of one observation, NumPy float64 `[size]`, such as a loaded policy takes it.

        Raises:
            ValueError: says how the observation differs from what the space allows.
        """
        into = np.zeros(self.size)
        if problem := self.put(into, observation):
            raise ValueError(problem)
        return into


def observations_of(id: str, space: Any) -> Observations:
    """How to read the observations of an environment.

    Args:
        id: of the environment, for the message.
        space: its observation space.

    Raises:
        ConfigError: for a space that is none of those above, or holds one, or has no numbers at all.

    Example:
        >>> observations_of("My-v0", spaces.Tuple([spaces.Discrete(3), spaces.Box(-1, 1, (2, 2))])).size
        7
    """
    size, put = _vector(id, space, "observation")
    if size == 0:
        raise ConfigError("env.id", id, f"an observation must hold a number, but the observation space is {space}")
    states = int(space.n) if isinstance(space, spaces.Discrete) else None
    return Observations(size, put, states, image_shape_of(space))


def order_of(space: Any) -> str:
    """In words, which numbers of a vector are which part of a Dict or Tuple; empty for other spaces.

    Example:
        >>> order_of(spaces.Dict({"speed": spaces.Box(-1, 1, (2,)), "gear": spaces.Discrete(5)}))
        'gear (5 numbers), speed (2)'
    """
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        return ""
    named = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
    sizes = [(name, _vector("", part, str(name))[0]) for name, part in named]
    return ", ".join(f"{name} ({size}{' numbers' * (place == 0)})" for place, (name, size) in enumerate(sizes))


def image_shape_of(space: Any) -> ImageShape | None:
    """Channels, height and width of an image, a Box of uint8 or bool with 2 or 3 dimensions; None for all else.

    Two dimensions are height and width. Of three, the smaller one of the first and the last is the channels: the last
    where they are equal, as in Gymnasium's own images.

    Example:
        >>> image_shape_of(spaces.Box(0, 255, (210, 160, 3), np.uint8))
        (3, 210, 160)
    """
    if not isinstance(space, spaces.Box) or space.dtype not in (np.uint8, np.bool_) or len(space.shape) not in (2, 3):
        return None
    if len(space.shape) == 2:
        return (1, *space.shape)
    first, second, third = space.shape
    return (first, second, third) if _channels_first(space.shape) else (third, first, second)


def _vector(id: str, space: Any, name: str) -> tuple[int, Put]:
    """Size, and what writes; `name` is how messages call it, such as `observation['level']`."""
    shown = "an observation" if name == "observation" else name
    if isinstance(space, spaces.Dict):
        parts = {key: _vector(id, part, f"{name}[{key!r}]") for key, part in space.spaces.items()}
        return sum(size for size, _ in parts.values()), _put_mapping(parts, shown)
    if isinstance(space, spaces.Tuple):
        row = [_vector(id, part, f"{name}[{place}]") for place, part in enumerate(space.spaces)]
        return sum(size for size, _ in row), _put_sequence(row, shown)
    if isinstance(space, spaces.Discrete):
        return int(space.n), _put_state(int(space.start), int(space.n), shown)
    if isinstance(space, spaces.MultiDiscrete):
        return sum(space.nvec.ravel().tolist()), _put_states(space, shown)
    if isinstance(space, spaces.MultiBinary):
        return len(np.zeros(space.shape).ravel()), _put_flags(space.shape, shown)
    if isinstance(space, spaces.Box):
        size = len(space.low.ravel())
        return size, _put_image(space, shown) if image_shape_of(space) else _put_numbers(space, shown)
    where = "observations" if name == "observation" else name
    raise ConfigError("env.id", id, f"{where} must be {OBSERVATIONS}, but {'are' if where != name else 'is'} {space}")


def _put_numbers(space: spaces.Box, name: str) -> Put:
    shape, whole = space.shape, bool(np.dtype(space.dtype).kind in WHOLE_NUMBERS)
    kinds = WHOLE_NUMBERS if whole else REAL_NUMBERS

    def put(into: Any, observation: Any) -> str | None:
        known = isinstance(observation, np.ndarray) and observation.dtype.kind in kinds
        if not known or observation.shape != shape:
            if problem := box_problem(observation, shape, name, whole):
                return problem
            observation = np.asarray(observation)
        into[:] = observation.ravel()
        return None

    return put


def _put_image(space: spaces.Box, name: str) -> Put:
    numbers = _put_numbers(space, name)
    low, high = min(space.low.ravel().tolist()), max(space.high.ravel().tolist())
    span = float(high - low) or 1.0
    channels_last = len(space.shape) == 3 and not _channels_first(space.shape) and space.shape[2] > 1

    def put(into: Any, observation: Any) -> str | None:
        if problem := numbers(into, observation):
            return problem
        if channels_last:
            into[:] = into.reshape(space.shape).transpose(2, 0, 1).ravel()
        into -= low
        into /= span
        return None

    return put


def _channels_first(shape: tuple[int, ...]) -> bool:
    return shape[0] < shape[2]


def _put_state(first: int, count: int, name: str) -> Put:
    def put(into: Any, observation: Any) -> str | None:
        if problem := state_problem(observation, first, count, name):
            return problem
        into[int(observation) - first] = 1.0
        return None

    return put


def _put_states(space: spaces.MultiDiscrete, name: str) -> Put:
    first, count = np.asarray(space.start).ravel(), space.nvec.ravel()
    before = np.cumsum(count, axis=0) - count

    def put(into: Any, observation: Any) -> str | None:
        if problem := box_problem(observation, space.shape, name, whole=True):
            return problem
        own = np.asarray(observation).ravel().astype(np.int64) - first
        for place in np.flatnonzero((own < 0) | (own >= count)).tolist():
            low, given = first[place], own[place] + first[place]
            return f"{name} with {given} at place {place}, expected {low} to {low + count[place] - 1}"
        into[before + own] = 1.0
        return None

    return put


def _put_flags(shape: tuple[int, ...], name: str) -> Put:
    def put(into: Any, observation: Any) -> str | None:
        if problem := box_problem(observation, shape, name, whole=True):
            return problem
        into[:] = np.asarray(observation).ravel()
        for place in np.flatnonzero((into != 0) & (into != 1)).tolist():
            return f"{name} with {into[place]:g} at place {place}, expected 0 or 1"
        return None

    return put


def _put_mapping(parts: Mapping[str, tuple[int, Put]], name: str) -> Put:
    row = _put_sequence(list(parts.values()), name)

    def put(into: Any, observation: Any) -> str | None:
        if not isinstance(observation, Mapping):
            return f"{name} of {described(observation)}, expected a dict with {', '.join(map(str, parts))}"
        if set(observation) != set(parts):
            given = ", ".join(map(str, observation)) or "nothing"
            return f"{name} with the keys {given}, expected {', '.join(map(str, parts))}"
        return row(into, tuple(observation[key] for key in parts))

    return put


def _put_sequence(parts: list[tuple[int, Put]], name: str) -> Put:
    def put(into: Any, observation: Any) -> str | None:
        if not isinstance(observation, tuple | list) or len(observation) != len(parts):
            return f"{name} of {described(observation)}, expected a tuple of {len(parts)} parts"
        start = 0
        for (size, own), part in zip(parts, observation, strict=True):
            if problem := own(into[start : start + size], part):
                return problem
            start += size
        return None

    return put
