"""What a run writes while it trains: `metrics.csv` and TensorBoard events, one row per logged iteration."""

import csv
import io
import os
import socket
import time
from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any, BinaryIO

from pg_experiments.tensorboard_summaries import custom_layout, experiment, session

FLUSH_SECONDS = 1.0
METRICS = "metrics.csv"
SWEEP_EVENTS = "events.out.tfevents.*.sweep"  # in a sweep's folder: what `reports/sweep_events.py` writes

Positions = dict[str, Any]  # `metrics_bytes`, and of the events `events` (the file's name, or None) and `events_bytes`


def are_there(run_dir: Path, positions: Positions) -> bool:
    """Whether the files of a run are as long as they were at these positions."""
    files = {METRICS: positions["metrics_bytes"], positions["events"]: positions["events_bytes"]}
    return all(
        (run_dir / name).is_file() and (run_dir / name).stat().st_size >= length
        for name, length in files.items()
        if name and length
    )


class RunRecords:
    """The open files of one run's folder.

    TensorBoard's events are written directly, one event with all scalars per row: without a writer thread per run, and
    in a fraction of the time.

    Args:
        run_dir: the run's folder.
        tensorboard: whether to write events as well.
        positions: where an interrupted run is continued, as `positions` gave them: what is behind them is cut off.
    """

    def __init__(self, run_dir: Path, tensorboard: bool, positions: Positions | None = None) -> None:
        self._run_dir = run_dir
        start = positions or {"metrics_bytes": 0, "events": None, "events_bytes": 0}
        self._csv_file = opened(run_dir / METRICS, start["metrics_bytes"])
        self._columns = _header(run_dir / METRICS) if start["metrics_bytes"] else []
        self._events: EventFile | None = None
        self._unwritten_events = (start["events"], start["events_bytes"])  # of a run that was continued without
        self.continues_events = bool(tensorboard and start["events"])
        if tensorboard:
            self._events = EventFile(run_dir, name=start["events"], length=start["events_bytes"])
        elif start["events"]:
            opened(run_dir / start["events"], start["events_bytes"]).close()
        self._before: tuple[int, Positions] | None = None  # the latest row's iteration, and where it begins
        self._flushed = time.monotonic()

    def write(self, iteration: int, env_steps: int, metrics: Mapping[str, float], video: Any = None) -> None:
        """Add one row; TensorBoard's step is `env_steps`. What is NaN of episodes stays empty: none has finished.

        Args:
            iteration, env_steps: of the row.
            metrics: by tag.
            video: a summary that goes with them into the events.
        """
        columns = list(metrics)
        metrics = {tag: value for tag, value in metrics.items() if not (tag.startswith("episode/") and isnan(value))}
        self._before = iteration, self._here()
        row = {"iteration": iteration, "env_steps": env_steps, **metrics}
        text = io.StringIO(newline="")
        if not self._columns:
            self._columns = list(dict.fromkeys(["iteration", "env_steps", *columns, "evaluation/return_mean"]))
            csv.writer(text).writerow(self._columns)
        csv.DictWriter(text, self._columns, restval="", extrasaction="ignore").writerow(row)
        self._csv_file.write(text.getvalue().encode())
        if self._events:
            self._events.add_scalars(metrics, env_steps)
            if video is not None:
                self._events.add_summary(video, env_steps)
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def final_evaluation(self, env_steps: int, return_mean: float, video: Any = None) -> None:
        """Give the HParams tab the metric of the finished run, and a video of it where there is one."""
        if self._events:
            self._events.add_scalars({"evaluation/return_mean": return_mean}, env_steps)
            if video is not None:
                self._events.add_summary(video, env_steps)

    def hyperparameters(self, values: Mapping[str, Any]) -> None:
        """Put the run's config into TensorBoard's HParams tab, with the final evaluation as its metric.

        `env.default_...` and `algorithm.default_...` are left out: they act only through the keys that take their
        values, which are there. The columns are described here unless the run's sweep has described them already: of
        several descriptions TensorBoard takes any.
        """
        if self._events:
            described = any(any(folder.glob(SWEEP_EVENTS)) for folder in self._run_dir.resolve().parents[:2])
            for summary in (custom_layout(), *([] if described else [experiment(values)]), *session(values)):
                self._events.add_summary(summary)

    def positions(self, iteration: int) -> Positions:
        """Where the files are after the given iteration: the latest one, or the one before the latest row."""
        if self._before and self._before[0] > iteration:
            return self._before[1]
        return self._here()

    def _here(self) -> Positions:
        name, length = self._unwritten_events
        if self._events:
            name, length = self._events.name, self._events.length()
        return {"metrics_bytes": self._csv_file.tell(), "events": name, "events_bytes": length}

    def cut(self, positions: Positions) -> None:
        """Remove what is behind these positions."""
        self.flush()
        self._csv_file.seek(positions["metrics_bytes"])
        self._csv_file.truncate()
        if self._events:
            self._events.cut(positions["events_bytes"])

    def flush(self) -> None:
        """Hand everything to the operating system."""
        self._csv_file.flush()
        if self._events:
            self._events.flush()
        self._flushed = time.monotonic()

    def sync(self) -> None:
        """See everything safely on the disk: a checkpoint may only point at what is there."""
        self.flush()
        os.fsync(self._csv_file.fileno())
        if self._events:
            self._events.sync()

    @property
    def closed(self) -> bool:
        return self._csv_file.closed

    def close(self) -> None:
        """Flush and close; once more does nothing."""
        if self.closed:
            return
        try:
            self._csv_file.close()  # which flushes, and closes also when that fails
        finally:
            if self._events:
                self._events.close()


class EventFile:
    """A TensorBoard event file.

    Args:
        folder: where it is made.
        suffix: of its name.
        name: of a file that is there already, to be continued.
        length: where it is continued.
    """

    def __init__(self, folder: Path, suffix: str = "", name: str | None = None, length: int = 0) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        new = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}{suffix}"
        self.name = name or new
        self._event = Event
        self._file = opened(folder / self.name, length)
        self._records = RecordWriter(self._file)
        if not length:
            self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def add_scalars(self, scalars: Mapping[str, float], step: int) -> None:
        """One event with a value for every tag."""
        event = self._event(wall_time=time.time(), step=step)
        for tag, number in scalars.items():
            event.summary.value.add(tag=tag, simple_value=number)
        self._write(event)

    def add_summary(self, summary: Any, step: int = 0) -> None:
        """One event with a summary, such as those of `tensorboard_summaries.py`."""
        self._write(self._event(wall_time=time.time(), step=step, summary=summary))

    def length(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def cut(self, length: int) -> None:
        """Remove what is behind."""
        self._file.seek(length)
        self._file.truncate()

    def flush(self) -> None:
        self._records.flush()

    def sync(self) -> None:
        """Flush, and see it safely on the disk."""
        self.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._records.close()

    def _write(self, event: Any) -> None:
        self._records.write(event.SerializeToString())


def opened(path: Path, length: int) -> BinaryIO:
    """A file to write to from the given length on; what it had behind that is removed."""
    if not length:
        return path.open("wb")
    file = path.open("r+b")
    file.truncate(length)
    file.seek(length)
    return file


def _header(path: Path) -> Sequence[str]:
    """The columns of a `metrics.csv`."""
    with path.open(newline="") as file:
        return next(csv.reader(file), [])
