"""Which keys a composed config has, against those that its schemas have. Imports no torch."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pg_experiments.config import COMMON_KEYS
from pg_experiments.errors import ConfigError, nearest


def lacking_keys(node: DictConfig) -> Iterator[tuple[DictConfig, str, Any]]:
    """What a user's own part, which has no schema, lacks of the keys of every part of its group: part, key, value."""
    for name in node:
        part = node._get_node(name)
        if not isinstance(part, DictConfig) or part._is_none() or part._is_missing():
            continue
        schema = COMMON_KEYS.get(str(name))
        if schema is not None and not is_dataclass(OmegaConf.get_type(part)):
            yield from (
                (part, field.name, getattr(schema(), field.name)) for field in fields(schema) if field.name not in part
            )
        yield from lacking_keys(part)


def refuse_added_keys(node: DictConfig, prefix: str = "") -> None:
    """A `+key=value` that no schema has, and that nothing would read, is an error; a part without schema is free."""
    schema = OmegaConf.get_type(node)
    keys = list(node)
    if is_dataclass(schema):
        known = [field.name for field in fields(schema)]
        for name in known:
            if name not in keys:  # `in node` is False for ??? as well
                raise ConfigError(f"{prefix}{name}", None, "is required, and cannot be taken away with ~")
        for key in keys:
            if key not in known:
                near = nearest(str(key), [name for name in known if name != "_target_"])
                raise ConfigError(f"{prefix}{key!s}", node._get_node(key), f"there is no such key.{near}")
    for key in keys:
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_missing() and not child._is_none():
            refuse_added_keys(child, f"{prefix}{key!s}.")
