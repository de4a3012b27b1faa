"""Fields of a config schema: a default, the allowed values, and whether runs of one batch may differ in it."""

import math
import operator
import re
from collections.abc import Callable
from dataclasses import field
from typing import Any

from pg_experiments.errors import ConfigError, nearest

LARGEST_INTEGER = 2**63 - 1  # that a tensor holds
MOST_UNITS = 100_000  # of a layer: more is a slip of the finger
MOST_LAYERS = 1000
SCHEDULES = ("constant", "linear", "cosine")  # of a number over a run
ACTIVATION_NAMES = ("relu", "tanh", "elu", "sigmoid")


COMPARED: dict[str, Callable[[float, float], bool]] = {  # a number with each limit that a field may have
    "above": operator.gt,
    "at_least": operator.ge,
    "at_most": operator.le,
    "below": operator.lt,
}


def checked(
    default: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    one_of: tuple[str, ...] | None = None,
    pattern: str | None = None,
    items: tuple[int, int] | None = None,
    per_run: bool = False,
) -> Any:
    """A dataclass field whose value is checked before any work.

    Args:
        default: the value when nothing is given; a list is copied for every config.
        above, at_least, at_most, below: the range of a number (or of each number of a list).
        one_of: the allowed words.
        pattern: regular expression of what is allowed, where `one_of` only describes it.
        items: the fewest and the most items of a list.
        per_run: runs of one batch may each have their own value; it reaches the parts as a tensor `[runs]`.
    """
    metadata = {
        "above": above,
        "at_least": at_least,
        "at_most": at_most,
        "below": below,
        "one_of": one_of,
        "pattern": pattern,
        "items": items,
        "per_run": per_run,
    }
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def per_run(default: Any, **limits: Any) -> Any:
    """A number that may differ between the runs of one batch; otherwise as `checked`."""
    return checked(default, per_run=True, **limits)


def check_value(key: str, value: Any, metadata: dict[str, Any]) -> None:
    """Raise a `ConfigError` when a value is missing, outside its range or not one of its words.

    Args:
        key: dotted name, for the message.
        value: of the field; of a list, each number is checked.
        metadata: of the field, as `checked` made it.
    """
    if isinstance(value, str) and value == "???":
        raise ConfigError(key, None, f"is required; give it as {key}=...")
    for number in value if isinstance(value, list) else [value]:
        if metadata and isinstance(number, list | dict):
            raise ConfigError(key, value, "must be a flat list of numbers")
        _check_number(key, number, metadata)
    if isinstance(value, list) and (items := metadata.get("items")) and not items[0] <= len(value) <= items[1]:
        numbers = f"{items[0]}" if items[0] == items[1] else f"from {items[0]} to {items[1]}"
        raise ConfigError(key, value, f"must have {numbers} items, and has {len(value)}")
    words, pattern = metadata.get("one_of"), metadata.get("pattern")
    for word in value if isinstance(value, list) else [value]:
        if words and not (re.fullmatch(pattern, str(word)) if pattern else word in words):
            raise ConfigError(key, word, f"must be one of {', '.join(words)}.{nearest(str(word), words)}")


def _check_number(key: str, number: Any, metadata: dict[str, Any]) -> None:
    if not isinstance(number, int | float) or isinstance(number, bool):
        return
    limits = {limit: metadata.get(limit) for limit in COMPARED}
    if isinstance(number, int) and limits["at_most"] is None and number > LARGEST_INTEGER:
        limits["at_most"] = LARGEST_INTEGER
    if not math.isfinite(number):
        raise ConfigError(key, number, "must be a finite number")
    given = {limit: value for limit, value in limits.items() if value is not None}
    if not all(COMPARED[limit](number, value) for limit, value in given.items()):
        raise ConfigError(key, number, f"must be {_in_words(given)}")


def _in_words(limits: dict[str, float]) -> str:
    """`from 0 to 1`, `at least 0`, `at least 0 and below 1`."""
    if limits.keys() == {"at_least", "at_most"}:
        return f"from {limits['at_least']} to {limits['at_most']}"
    return " and ".join(f"{limit.replace('_', ' ')} {value}" for limit, value in limits.items())
