"""What a person sees while a sweep trains: one display for all of its runs."""

import json
import math
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from pg_experiments.progress import count, duration, rounded, say
from pg_experiments.sweeps.jobs import Job
from pg_experiments.sweeps.worker import Task

FIRST_LINE_SECONDS, PLAIN_SECONDS = 1.0, 5.0  # until the first plain line, and between two
MOST_ROWS = 20  # settings that the display shows


@dataclass
class SweepStatus:
    """Where a sweep is.

    Attributes:
        jobs, kept: to train in this launch, and complete from an earlier one.
        finished, running, failed: of the jobs.
        env_steps, total_env_steps: of all jobs.
        seconds, steps_before: since the first report of a worker, and the env steps of that report, so that neither
            the start of the workers nor what an earlier launch has played counts as speed. Until the second report:
            since the launch, and 0.
        returns: per setting, the latest mean episode return of every run of it that has one.
    """

    jobs: int
    kept: int
    finished: int = 0
    running: int = 0
    failed: int = 0
    env_steps: int = 0
    total_env_steps: int = 1
    seconds: float = 0.0
    steps_before: int = 0
    returns: dict[str, list[float]] = field(default_factory=dict)

    @property
    def env_steps_per_second(self) -> float:
        """Of all workers together, in `seconds`."""
        return (self.env_steps - self.steps_before) / max(self.seconds, 1e-9)

    @property
    def seconds_left(self) -> float:
        """At the speed so far."""
        return max(0, self.total_env_steps - self.env_steps) / max(self.env_steps_per_second, 1e-9)

    def line(self) -> str:
        """Everything but the settings in one line."""
        kept = f"{self.kept} kept, " if self.kept else ""
        known = self.steps_before or self.env_steps >= self.total_env_steps
        left = duration(self.seconds_left) if known else "?"
        return (
            f"{kept}{self.finished} of {self.jobs} runs finished, {self.running} running, {self.failed} failed | "
            f"{count(self.env_steps)} of {count(self.total_env_steps)} env steps | "
            f"{count(self.env_steps_per_second) if known else '?'} env steps/s | {left} left"
        )

    def settings(self) -> list[tuple[str, float, float]]:
        """Per setting that has a return: label, best and median; the best median first."""
        rows = [(label, max(values), statistics.median(values)) for label, values in self.returns.items() if values]
        return sorted(rows, key=lambda row: -row[2])


def status_of(
    jobs: Sequence[Job], kept: int, running: Mapping[Task, Sequence[Job]], results: Mapping[int, Any], begin: float
) -> SweepStatus:
    """Put together what the workers report.

    Args:
        jobs: of the launch.
        kept: complete from an earlier launch.
        running: the batches that are being trained.
        results: of the jobs that are through, by their number.
        begin: `time.monotonic()` of the launch.
    """
    status = SweepStatus(len(jobs), kept, total_env_steps=sum(job.config.total_env_steps for job in jobs))
    status.returns = {job.setting: [] for job in jobs}
    status.seconds = time.monotonic() - begin
    for job in jobs:
        result = results.get(job.number)
        if result is not None:
            status.env_steps += result.get("env_steps", 0)
            status.failed += result["status"] == "failed"
            status.finished += result["status"] == "completed"
            if result["status"] != "completed":  # what it has not played will not be played
                status.total_env_steps -= job.config.total_env_steps - result.get("env_steps", 0)
            if result.get("evaluation"):
                status.returns[job.setting].append(result["evaluation"]["return_mean"])
    for task, batch in running.items():
        try:
            report = json.loads(task.report.read_text())
        except (OSError, ValueError):
            status.running += len(batch)
            continue
        status.env_steps += report["env_steps"]
        status.failed += report["failed"]
        status.running += report["running"]
        status.finished += len(batch) - report["running"] - report["failed"]
        for job, value in zip(batch, report["returns"], strict=True):
            if math.isfinite(value):
                status.returns[job.setting].append(value)
    return status


class SweepDisplay:
    """Draws in place on a terminal (`rich`), or prints a line now and then (`plain`), or nothing (`none`)."""

    def __init__(self, kind: str) -> None:
        self._live = Live(refresh_per_second=4) if kind == "rich" or (kind == "auto" and sys.stdout.isatty()) else None
        self._plain = self._live is None and kind != "none"
        self._next = time.monotonic() + FIRST_LINE_SECONDS
        if self._live:
            self._live.start()

    def show(self, status: SweepStatus) -> None:
        if self._live:
            self._live.update(_drawn(status))
        elif self._plain and time.monotonic() >= self._next:
            self._next = time.monotonic() + PLAIN_SECONDS
            say(self._text(status))

    def close(self, status: SweepStatus) -> None:
        """Show the last status and let go of the terminal."""
        if self._live:
            self._live.update(_drawn(status))
            self._live.stop()
        elif self._plain:
            say(self._text(status))

    def _text(self, status: SweepStatus) -> str:
        best = status.settings()[:1]
        of = f"best so far {best[0][0]}: " if best and best[0][0] else ""
        leader = f" | {of}median return {rounded(best[0][2])}" if best else ""
        return status.line() + leader


def _drawn(status: SweepStatus) -> RenderableType:
    bar = Table.grid(expand=True)  # a bar alone ends without a new line
    bar.add_row(
        ProgressBar(total=max(status.total_env_steps, 1), completed=min(status.env_steps, status.total_env_steps))
    )
    runs, _, numbers = status.line().partition(" | ")
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("setting")
    for name in ("runs", "best return", "median return"):
        table.add_column(name, justify="right")
    rows = status.settings()
    for label, best, median in rows[:MOST_ROWS]:
        table.add_row(label or "all", str(len(status.returns[label])), rounded(best), rounded(median))
    if len(rows) > MOST_ROWS:
        table.add_row(f"and {len(rows) - MOST_ROWS} more", "", "", "")
    return Group(bar, runs, numbers.replace(" | ", "   "), *([table] if rows else []))
