"""Shapes and types are checked at every call of the package; with small tensors that takes longer than the work."""

from collections.abc import Iterator
from contextlib import contextmanager

import jaxtyping


@contextmanager
def without_type_checks() -> Iterator[None]:
    """For what only repeats, with other numbers, calls that are checked elsewhere."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)
