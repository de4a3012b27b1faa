"""From a dotted name in a config to the class or function."""

import importlib
from typing import Any

from pg_experiments.errors import FOLDER_OR_INSTALL, ConfigError, nearest


def locate(key: str, path: Any) -> Any:
    """The class or function at `package.module.Name`.

    Raises:
        ConfigError: when there is none, with the nearest name in that module.
    """
    module_name, _, name = str(path).rpartition(".")
    try:
        absolute = module_name and not module_name.startswith(".")
        module = importlib.import_module(module_name) if absolute else None
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}.")
        hint = f"; {FOLDER_OR_INSTALL}" if missing else ""
        raise ConfigError(key, path, f"cannot import {module_name}: {error}{hint}") from error
    if module is None or not hasattr(module, name):
        raise ConfigError(key, path, f"must name a class as package.module.Name.{nearest(name, dir(module))}")
    return getattr(module, name)
