"""A run's folder while it trains: metrics, events, log, checkpoints and, at the end, the result."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pg_experiments import checkpoint
from pg_experiments.config import Config
from pg_experiments.errors import UserError, first_line
from pg_experiments.files import write_atomically
from pg_experiments.records import RunRecords
from pg_experiments.results import RunResult
from pg_experiments.saved_config import SAVED, write_config
from pg_experiments.tensorboard_summaries import hyperparameters

RESULT = "result.json"
LOG = "train.log"
LOG_SECONDS = 10.0  # between two lines of the log


class RunFolder:
    """Everything that one run writes.

    Args:
        folder: made if need be.
        config: of the run.
        about: first line of the log.

    Raises:
        UserError: when the folder holds a run already or cannot be written.
    """

    def __init__(self, folder: Path, config: Config, about: str) -> None:
        self.folder = folder
        if (folder / RESULT).exists() or (folder / checkpoint.LAST).exists():
            raise UserError(f"{folder}: holds a run already; choose another folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_config(folder / SAVED, config)
            self._log = (folder / LOG).open("a", buffering=1)
            self._records = RunRecords(folder, config.logging.tensorboard)
        except OSError as error:
            raise UserError(f"{folder}: cannot write the run's folder ({error.strerror})") from error
        self._records.hyperparameters(hyperparameters(config))
        self._next_line = 0.0
        self.log(about)

    def log(self, text: str) -> None:
        """One entry of `train.log`, with the time."""
        if not self._log.closed:  # an interruption may find a run that is through
            self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text.rstrip()}\n")

    def write(self, iteration: int, env_steps: int, metrics: Mapping[str, float]) -> None:
        """A row of `metrics.csv` and TensorBoard, and now and then a line of the log."""
        self._records.write(iteration, env_steps, metrics)
        if time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LOG_SECONDS
            self.log(f"iteration {iteration}, {env_steps:,} env steps, return {metrics['episode/return_mean']:.2f}")

    def save(self, state: Mapping[str, Any]) -> None:
        """The checkpoint `checkpoints/last.pt`."""
        checkpoint.save(self.folder, state)

    def finish(self, result: RunResult, state: Mapping[str, Any]) -> None:
        """Last row, checkpoint, and `result.json`, whose presence says that all of it is there."""
        if result.evaluation:
            self._records.final_evaluation(result.env_steps, result.evaluation["return_mean"])
        reason = f": {result.error}" if result.error else ""
        self.log(f"{result.status}{reason} after {result.iterations} iterations, {result.env_steps:,} env steps")
        if result.evaluation:
            scores = result.evaluation
            self.log(f"evaluation: mean return {scores['return_mean']:.2f} over {scores['episodes']} episodes")
        self._records.close()
        self.save(state)
        write_atomically(self.folder / RESULT, result.to_json().encode())
        self.close()

    def close(self) -> None:
        """Flush and close; once more does nothing."""
        self._records.close()
        self._log.close()


def problem_of(write: Callable[[], None]) -> str | None:
    """Write; what prevented it, in words, so that one run's folder stops no other run."""
    try:
        write()
    except OSError as error:
        return f"cannot write {error.filename or 'the run folder'}: {error.strerror or first_line(error)}"
    return None
