"""A command of the package called in this process, for the tests of commands."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest


class Ended(NamedTuple):
    """What a shell would have seen."""

    code: int
    out: str
    err: str


def call(
    main: Callable[[Sequence[str]], object], capsys: pytest.CaptureFixture[str], arguments: Sequence[object]
) -> Ended:
    code = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    return Ended(code, *capsys.readouterr())
