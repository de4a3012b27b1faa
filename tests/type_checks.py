"""Shapes and types are checked at every call of the package; with small tensors that takes longer than the work.

A function inside of a function is made anew at every call of the outer one, and to let it be checked takes 0.7 ms each
time. So of every such function the first one of a test is checked, and none where nothing is.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FunctionType
from typing import Any

import jaxtyping

_jaxtyped: Callable[..., Any] = jaxtyping.jaxtyped
_checked: set[CodeType] = set()  # in this test, of the functions inside of functions


def _sparing(*arguments: Any, **options: Any) -> Any:
    """In the place of jaxtyping's decorator, which its import hook looks up wherever a function is defined."""
    decorator = _jaxtyped(*arguments, **options)
    if arguments:
        return decorator

    def decorate(defined: Any) -> Any:
        if isinstance(defined, FunctionType) and "<locals>" in defined.__qualname__:
            if jaxtyping.config.jaxtyping_disable or defined.__code__ in _checked:
                return defined
            _checked.add(defined.__code__)
        return decorator(defined)

    return decorate


def spare_functions_inside_of_functions() -> None:
    """Before the package is imported."""
    jaxtyping.jaxtyped = _sparing


def begin_a_test() -> None:
    """Check the first function of each kind anew."""
    _checked.clear()


@contextmanager
def without_type_checks() -> Iterator[None]:
    """For what only repeats, with other numbers, calls that are checked elsewhere."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)
