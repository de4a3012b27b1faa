"""What a run writes while it trains: `metrics.csv` and TensorBoard events, one row per logged iteration."""

import csv
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pg_experiments.tensorboard_summaries import custom_layout, experiment, session

FLUSH_SECONDS = 1.0
SWEEP_EVENTS = "events.out.tfevents.*.sweep"  # in a sweep's folder: what `reports/sweep_events.py` writes


class RunRecords:
    """The open files of one run's folder.

    TensorBoard's events are written directly, one event with all scalars per row: without a writer thread per run, and
    in a fraction of the time.

    Args:
        run_dir: the run's folder.
        tensorboard: whether to write events as well.
    """

    def __init__(self, run_dir: Path, tensorboard: bool) -> None:
        self._run_dir = run_dir
        self._csv_file = (run_dir / "metrics.csv").open("w", newline="")
        self._csv: csv.DictWriter[str] | None = None
        self._events = EventFile(run_dir) if tensorboard else None
        self._flushed = time.monotonic()

    def write(self, iteration: int, env_steps: int, metrics: Mapping[str, float]) -> None:
        """Add one row; TensorBoard's step is `env_steps`."""
        row = {"iteration": iteration, "env_steps": env_steps, **metrics}
        if self._csv is None:
            columns = dict.fromkeys([*row, "evaluation/return_mean"])
            self._csv = csv.DictWriter(self._csv_file, list(columns), restval="", extrasaction="ignore")
            self._csv.writeheader()
        self._csv.writerow(row)
        if self._events:
            self._events.add_scalars(metrics, env_steps)
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def final_evaluation(self, env_steps: int, return_mean: float) -> None:
        """Give the HParams tab the metric of the finished run."""
        if self._events:
            self._events.add_scalars({"evaluation/return_mean": return_mean}, env_steps)

    def hyperparameters(self, values: Mapping[str, Any]) -> None:
        """Put the run's config into TensorBoard's HParams tab, with the final evaluation as its metric.

        `env.default_...` is left out: it acts only through the keys that take its value, which are there. The columns
        are described here unless the run's sweep has described them already: of several descriptions TensorBoard
        takes any.
        """
        if self._events:
            described = any(any(folder.glob(SWEEP_EVENTS)) for folder in self._run_dir.resolve().parents[:2])
            for summary in (custom_layout(), *([] if described else [experiment(values)]), *session(values)):
                self._events.add_summary(summary)

    def flush(self) -> None:
        """Hand everything to the operating system."""
        self._csv_file.flush()
        if self._events:
            self._events.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Flush and close; once more does nothing."""
        if self._csv_file.closed:
            return
        self.flush()
        self._csv_file.close()
        if self._events:
            self._events.close()


class EventFile:
    """A TensorBoard event file.

    Args:
        folder: where it is made.
        suffix: of its name.
    """

    def __init__(self, folder: Path, suffix: str = "") -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}{suffix}"
        self._event = Event
        self._file = (folder / name).open("wb")
        self._records = RecordWriter(self._file)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def add_scalars(self, scalars: Mapping[str, float], step: int) -> None:
        """One event with a value for every tag."""
        event = self._event(wall_time=time.time(), step=step)
        for tag, number in scalars.items():
            event.summary.value.add(tag=tag, simple_value=number)
        self._write(event)

    def add_summary(self, summary: Any) -> None:
        """One event with a summary that describes the run, such as those of `tensorboard_summaries.py`."""
        self._write(self._event(wall_time=time.time(), summary=summary))

    def flush(self) -> None:
        self._records.flush()

    def close(self) -> None:
        self._records.close()

    def _write(self, event: Any) -> None:
        self._records.write(event.SerializeToString())
