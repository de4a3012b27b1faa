"""Ctrl-C and SIGTERM: both end a training soon, but never in the middle of what belongs together.

The first signal raises `Stop`, a `KeyboardInterrupt`, where the program is, or at the end of an `unbroken` part. The
second one raises at once, wherever that is. Imports no torch.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop(KeyboardInterrupt):
    """A signal asks the program to end; `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class _Heard:
    """What has been heard in this process."""

    first: int | None = None  # the number of the first signal
    waits: bool = False  # whether it is still to be raised
    depth: int = 0  # of unbroken parts


def hear(number: int, frame: Any) -> None:
    """The handler of both signals."""
    again = _Heard.first is not None
    _Heard.first = number if _Heard.first is None else _Heard.first
    if _Heard.depth and not again:
        _Heard.waits = True
        return
    _Heard.waits = False
    raise Stop(number)


def forget() -> None:
    """Let the next signal be the first one."""
    _Heard.first, _Heard.waits = None, False


def exit_code() -> int:
    """What a shell expects of a process that was ended by the signal that was heard: 130 or 143."""
    return 128 + (_Heard.first or signal.SIGINT)


@contextmanager
def heard() -> Iterator[None]:
    """Hear both signals in here, each unless somebody else hears it already; in the main thread only."""
    ours: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            before = signal.getsignal(number)
            if before in (signal.default_int_handler, signal.SIG_DFL):
                ours[number] = before
    if ours:
        forget()
    for number in ours:
        signal.signal(number, hear)
    try:
        yield
    finally:
        for number, before in ours.items():
            signal.signal(number, before)


@contextmanager
def unbroken() -> Iterator[None]:
    """A first signal in here is raised at the end."""
    _Heard.depth += 1
    try:
        yield
    finally:
        _Heard.depth -= 1
        if _Heard.waits and not _Heard.depth:
            _Heard.waits = False
            raise Stop(_Heard.first or signal.SIGINT)
