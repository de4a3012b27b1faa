"""The list `env.wrappers`: what it may hold, checked before any work. Imports no torch; see `config.py`.

    env.wrappers: [repeat_action, {stack_frames: {frames: 4}}, {clip_reward: {low: -1, high: 1}}, normalize_observation]

An entry is a name, or a name with its options; or a mapping with the `_target_` of a class of the user's own, which is
called with the environment and the other keys, and has to make an environment.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from pg_experiments.errors import ConfigError, nearest
from pg_experiments.schema_fields import check_value, checked

KEY = "env.wrappers"
MOST = 1000  # repeated steps, stacked frames: more is a slip of the finger


@dataclass(frozen=True)
class RepeatActionConfig:
    times: int = checked(2, at_least=2, at_most=MOST)


@dataclass(frozen=True)
class StackFramesConfig:
    frames: int = checked(4, at_least=2, at_most=MOST)


@dataclass(frozen=True)
class TimeAwarenessConfig:
    pass


@dataclass(frozen=True)
class OwnWrapperConfig:
    """A wrapper of the user's."""

    target: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ScaleRewardConfig:
    factor: float = checked(1.0, above=0)


@dataclass(frozen=True)
class ClipRewardConfig:
    low: float = checked(-1.0)
    high: float = checked(1.0)


@dataclass(frozen=True)
class NormalizeReturnConfig:
    limit: float = checked(10.0, above=0)


@dataclass(frozen=True)
class NormalizeObservationConfig:
    limit: float = checked(10.0, above=0)


OF_THE_ENVIRONMENT: dict[str, type] = {
    "repeat_action": RepeatActionConfig,
    "stack_frames": StackFramesConfig,
    "time_awareness": TimeAwarenessConfig,
}
OF_THE_REWARD: dict[str, type] = {
    "scale_reward": ScaleRewardConfig,
    "clip_reward": ClipRewardConfig,
    "normalize_return": NormalizeReturnConfig,
}
OF_THE_POLICY: dict[str, type] = {"normalize_observation": NormalizeObservationConfig}
OF_LEARNING = OF_THE_REWARD | OF_THE_POLICY
WRAPPERS = OF_THE_ENVIRONMENT | OF_LEARNING
ONCE = ("normalize_return", "normalize_observation")


def read_wrappers(value: Any) -> list[Any]:
    """The settings of every wrapper, in the order in which they are listed.

    Raises:
        ConfigError: names the entry, what is wrong with it and what is allowed.
    """
    if not isinstance(value, list):
        raise ConfigError(KEY, value, f"must be a list, such as [{', '.join(ONCE)}]")
    settings = [_read(place, entry) for place, entry in enumerate(value)]
    of_learning = [isinstance(each, tuple(OF_LEARNING.values())) for each in settings]
    for place, learning in enumerate(of_learning):
        if not learning and any(of_learning[:place]):
            before = _name_of(settings[of_learning.index(True)])
            raise ConfigError(
                f"{KEY}[{place}]",
                _name_of(settings[place]),
                f"changes the environment, and goes before {before}, which changes only what is learned from",
            )
    for name in ONCE:
        if sum(isinstance(each, WRAPPERS[name]) for each in settings) > 1:
            raise ConfigError(KEY, name, "can be listed only once")
    return settings


def _read(place: int, entry: Any) -> Any:
    key = f"{KEY}[{place}]"
    if isinstance(entry, dict) and "_target_" in entry:
        options = {str(name): value for name, value in entry.items() if name != "_target_"}
        return OwnWrapperConfig(str(entry["_target_"]), options)
    if isinstance(entry, str):
        name, options = entry, {}
    elif isinstance(entry, dict) and len(entry) == 1:
        ((name, options),) = entry.items()
    else:
        raise ConfigError(
            key, entry, "must be a name, or one name with its options, such as {stack_frames: {frames: 4}}"
        )
    if name not in WRAPPERS:
        raise ConfigError(key, name, f"must be one of {', '.join(WRAPPERS)}.{nearest(str(name), WRAPPERS)}")
    schema = WRAPPERS[name]
    known = {each.name: each for each in fields(schema)}
    if not isinstance(options, dict):
        raise ConfigError(f"{key}.{name}", options, f"must be a mapping of {', '.join(known) or 'nothing'}")
    for option, given in options.items():
        full = f"{key}.{name}.{option}"
        if option not in known:
            has = f"it has {', '.join(known)}" if known else "it has no options"
            raise ConfigError(full, None, f"there is no such option; {has}.{nearest(str(option), known)}")
        whole = known[option].type in (int, "int")
        if isinstance(given, bool) or not isinstance(given, int if whole else int | float):
            raise ConfigError(full, given, f"must be a {'whole ' if whole else ''}number")
        check_value(full, given, dict(known[option].metadata))
    settings = schema(**options)
    if isinstance(settings, ClipRewardConfig) and not settings.low < settings.high:
        raise ConfigError(f"{key}.{name}.low", settings.low, f"must be below high, which is {settings.high}")
    return settings


def _name_of(settings: Any) -> str:
    if isinstance(settings, OwnWrapperConfig):
        return settings.target
    return next(name for name, schema in WRAPPERS.items() if type(settings) is schema)
