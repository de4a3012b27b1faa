"""What a person sees while runs train."""

import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

PLAIN_SECONDS = 2.0


def rounded(value: float, size: float | None = None) -> str:
    """A return as a person reads it: the smaller it (or `size`, of what it is compared with), the more digits.

    Example:
        >>> rounded(-149.34), rounded(0.684), rounded(0.5, size=200.0)
        ('-149.3', '0.684', '0.5')
    """
    if math.isnan(value):
        return "?"  # of no episode yet
    return f"{value:.1f}" if abs(value if size is None else size) >= 10 else f"{value:.3f}"


@dataclass(frozen=True)
class Status:
    """Where a batch of runs is.

    Attributes:
        iteration: that half of the runs have completed.
        env_steps, total_env_steps: of all runs together.
        returns: per run of the batch, the latest mean episode return; NaN before the first.
        running, failed: how many runs still train or wait for their evaluation, and how many have failed.
        return_mean: mean episode return of the latest iteration, over the runs that it was of; of a run that
            finished no episode in it, that of an earlier one. NaN before any finished.
        entropy: of the policies, nats per action.
        env_steps_per_second: of all runs together, since the start.
    """

    iteration: int
    env_steps: int
    total_env_steps: int
    returns: Sequence[float]
    running: int
    failed: int
    return_mean: float
    entropy: float
    env_steps_per_second: float

    @property
    def runs(self) -> int:
        """In the batch from its beginning."""
        return len(self.returns)

    @property
    def seconds_left(self) -> float:
        """At the speed so far."""
        return max(0, self.total_env_steps - self.env_steps) / max(self.env_steps_per_second, 1e-9)

    def line(self) -> str:
        """Everything in one line."""
        runs = f"{self.running} of {self.runs} runs | " if self.runs > 1 else ""
        return (
            f"{runs}iteration {self.iteration} | {self.env_steps:,} of {self.total_env_steps:,} env steps | "
            f"return {rounded(self.return_mean)} | entropy {self.entropy:.2f} nats | "
            f"{self.env_steps_per_second:,.0f} env steps/s | {duration(self.seconds_left)} left"
        )


@runtime_checkable
class Display(Protocol):
    """Shows one `Status` after another."""

    def show(self, status: Status) -> None: ...

    def close(self) -> None: ...


class NoDisplay:
    """Shows nothing."""

    def show(self, status: Status) -> None:
        pass

    def close(self) -> None:
        pass


class PlainDisplay:
    """A line every two seconds, for logs and pipes."""

    def __init__(self) -> None:
        self._next = 0.0
        self._last: Status | None = None

    def show(self, status: Status) -> None:
        self._last = status
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + PLAIN_SECONDS
            self._print(status.line())
            self._last = None

    def close(self) -> None:
        if self._last is not None:
            self._print(self._last.line())

    def _print(self, line: str) -> None:
        say(line)


class RichDisplay:
    """A bar and a line of numbers, drawn in place; both fit into 80 columns."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("iteration {task.fields[iteration]}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[left]} left"),
            expand=True,
        )
        self._task = self._bar.add_task("", total=1, iteration=0, left="?")
        self._live = Live(self._bar, refresh_per_second=8)
        self._live.start()

    def show(self, status: Status) -> None:
        self._bar.update(
            self._task,
            completed=min(status.env_steps, status.total_env_steps),
            total=status.total_env_steps,
            iteration=status.iteration,
            left=duration(status.seconds_left),
        )
        runs = f"{status.running} of {status.runs} runs  " if status.runs > 1 else ""
        self._live.update(
            Group(
                self._bar,
                f"{runs}return [bold]{rounded(status.return_mean)}[/bold]  entropy {status.entropy:.2f} nats  "
                f"{count(status.env_steps)} env steps  {count(status.env_steps_per_second)} env steps/s",
            )
        )

    def close(self) -> None:
        self._live.stop()


def make_display(kind: str) -> Display:
    """`auto` is `rich` on a terminal and `plain` elsewhere."""
    if kind == "none":
        return NoDisplay()
    if kind == "rich" or (kind == "auto" and sys.stdout.isatty()):
        return RichDisplay()
    return PlainDisplay()


def duration(seconds: float) -> str:
    """Seconds as `42 s`, `3 min 20 s` or `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def count(number: float) -> str:
    """A number of steps as `950`, `12k` or `3.40M`."""
    if number < 999.5:
        return f"{number:.0f}"
    return f"{number / 1e3:.0f}k" if number < 999_500 else f"{number / 1e6:.2f}M"


def say(text: str) -> None:
    """Print a line at once; when nobody reads on, as behind `| head`, the work goes on without a word."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
