"""One copy of a Gymnasium environment from its id, or one line that says why there is none."""

import importlib
import inspect
import re
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.envs import registration

from pg_experiments.errors import FOLDER_OR_INSTALL, ConfigError, first_line, nearest, needs_extra

UNEXPECTED = re.compile(r"got an unexpected keyword argument '(\w+)'")
MISSING = re.compile(r"missing \d+ required .*?argument.*?: '(\w+)'")
EXTRAS = ("box2d", "mujoco")  # of Gymnasium, and of this package


def make_copy(id: str, kwargs: Mapping[str, Any], max_episode_steps: int | None) -> gymnasium.Env[Any, Any]:
    """`gymnasium.make`, after importing the module that the id names.

    Args:
        id: registered id, or `module:id`.
        kwargs: for the environment's constructor.
        max_episode_steps: limit of an episode; None takes the environment's own.

    Raises:
        ConfigError: for a module that cannot be imported, an id that nobody has registered, keywords that the
            constructor does not take, a constructor that raises, or a class that is no Gymnasium environment.
    """
    module, colon, name = id.partition(":")
    if colon:
        _import(id, module)
    name = name if colon else id
    _check_render_mode(name, kwargs)
    try:
        return gymnasium.make(name, max_episode_steps=max_episode_steps, disable_env_checker=True, **kwargs)
    except gymnasium.error.DependencyNotInstalled as error:
        if extra := next((extra for extra in EXTRAS if f"[{extra}]" in str(error)), None):
            raise needs_extra("env.id", id, extra) from error
        raise ConfigError("env.id", id, str(error)) from error
    except ImportError as error:
        raise ConfigError("env.id", id, f"its entry_point cannot be imported: {error}; {FOLDER_OR_INSTALL}") from error
    except gymnasium.error.Error as error:
        if name in registration.registry:
            raise ConfigError("env.id", id, first_line(error)) from error
        raise ConfigError("env.id", id, _not_registered(module if colon else "", name)) from error
    except Exception as error:  # an environment's constructor may raise anything
        raise _of_constructor(id, name, kwargs, error) from error


def place_of(error: BaseException) -> str:
    """Where an error was raised, such as `tank.py, line 12`: in the user's own code, where the way went through it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename]
    frame = (own or frames)[-1]
    return f"{Path(frame.filename).name}, line {frame.lineno}"


def _import(id: str, module: str) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        own = error.name is not None and f"{module}.".startswith(f"{error.name}.")
        hint = f"; {FOLDER_OR_INSTALL}.{nearest(module, _modules_here())}" if own else f" ({place_of(error)})"
        raise ConfigError("env.id", id, f"cannot import {module}: {error}{hint}") from error
    except (ImportError, TypeError, ValueError) as error:
        raise ConfigError("env.id", id, f"cannot import {module}: {first_line(error)}") from error
    except Exception as error:  # a module may raise anything
        where = "" if isinstance(error, SyntaxError) else f" ({place_of(error)})"
        reason = f"importing {module} raised {type(error).__name__}: {first_line(error)}{where}"
        raise ConfigError("env.id", id, reason) from error


def _modules_here() -> list[str]:
    return [path.stem for path in Path().glob("*.py")]


def _not_registered(module: str, name: str) -> str:
    near = nearest(name, registration.registry)
    if module:
        question = near.replace("'", f"'{module}:", 1)
        return f"there is no such environment: {module} was imported, and registers none of that name.{question}"
    return f"there is no such environment.{near or ' One of your own is given as env.id=its_module:Its-v0'}"


def _creator(name: str) -> Any:
    """The class or function that makes a registered environment; None where there is none that can be imported."""
    spec = registration.registry.get(name)
    try:
        if spec is None or spec.entry_point is None or callable(spec.entry_point):
            return spec and spec.entry_point
        return registration.load_env_creator(spec.entry_point)
    except (ImportError, AttributeError):  # told when the environment is made
        return None


def _check_render_mode(name: str, kwargs: Mapping[str, Any]) -> None:
    """Refuse a picture that the environment does not draw; Gymnasium would warn, and go on."""
    mode = kwargs.get("render_mode")
    metadata = getattr(_creator(name), "metadata", None)
    modes = metadata.get("render_modes") if isinstance(metadata, Mapping) else None
    if mode is None or modes is None or (mode == "human" and {"rgb_array", "rgb_array_list"} & set(modes)):
        return
    if mode not in modes and str(mode).removesuffix("_list") not in modes:
        allowed = f"must be one of {', '.join(modes)}" if modes else "cannot be: this environment draws no picture"
        raise ConfigError("env.kwargs.render_mode", mode, f"{allowed}.{nearest(str(mode), modes)}")


def _of_constructor(id: str, name: str, kwargs: Mapping[str, Any], error: Exception) -> ConfigError:
    """What the constructor raised, with the key that it is about."""
    text = first_line(error).partition(" was raised from the environment creator")[0]
    if "must inherit from the gymnasium.Env class" in text or "Gym is incompatible with Gymnasium" in text:
        return ConfigError("env.id", id, text.partition(". See")[0])
    unexpected, missing = UNEXPECTED.search(text), MISSING.search(text)
    if unexpected and unexpected[1] in kwargs:
        word = unexpected[1]
        known = _keywords(name)
        has = f"it has {', '.join(known)}" if known else "it has none"
        return ConfigError(f"env.kwargs.{word}", kwargs[word], f"{id} takes no {word}; {has}.{nearest(word, known)}")
    key, value = ("env.kwargs", dict(kwargs)) if kwargs else ("env.id", id)
    hint = f"; give it as env.kwargs.{missing[1]}=..." if missing else ""
    return ConfigError(key, value, f"{type(error).__name__}: {text}{hint}")


def _keywords(name: str) -> list[str]:
    """What a registered environment's constructor takes."""
    taken = inspect.signature(_creator(name)).parameters
    return [word for word, each in taken.items() if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
