"""A run's folder while it trains: metrics, events, log, checkpoints and, at the end, the result."""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pg_experiments import checkpoint
from pg_experiments.backend_config import described
from pg_experiments.batch import State
from pg_experiments.config import Config
from pg_experiments.errors import UserError, first_line
from pg_experiments.files import clear_run, write_atomically
from pg_experiments.records import RunRecords
from pg_experiments.results import RESULT, RunResult
from pg_experiments.resume import Point, Score, content_of, iterations_of
from pg_experiments.saved_config import SAVED, write_config
from pg_experiments.tensorboard_summaries import hyperparameters

LOG = "train.log"
LOG_SECONDS = 10.0  # between two lines of the log


class FolderError(UserError):
    """A run's folder cannot be written: no mistake of the config, and none of the other runs."""


class RunFolder:
    """Everything that one run writes.

    Args:
        folder: made if need be.
        config: of the run; with `checkpoint.resume`, what the folder holds is continued or, without a point, removed.
        about: of the training, for the log.
        point: where the run is continued.

    Raises:
        UserError: when the folder holds a run already.
        FolderError: when it cannot be written.
    """

    def __init__(self, folder: Path, config: Config, about: str, point: Point | None = None) -> None:
        self.folder = folder
        self.config = config
        held = (folder / RESULT).exists() or (folder / checkpoint.LAST).exists()
        if held and not config.checkpoint.resume:
            raise UserError(f"{folder}: holds a run already; choose another folder, or add checkpoint.resume=true")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_config(folder / SAVED, config)
            if config.checkpoint.resume and not point:
                clear_run(folder)
            self._log = (folder / LOG).open("a", buffering=1)
            self._records = RunRecords(folder, config.logging.tensorboard, point.positions if point else None)
            if not self._records.continues_events:
                self._records.hyperparameters(hyperparameters(config))
            self.saved: int | None = None  # the iteration of `last.pt`, when it is whole
            self._best: Score | None = None
            self._best_state: State | None = None  # when it is not in `best.pt` yet
            if point:
                self._continue(point)
        except OSError as error:
            raise FolderError(f"{folder}: cannot write the run's folder ({error.strerror})") from error
        self._next_line = 0.0
        for note in point.notes if point else []:
            self.log(note)
            checkpoint.say([note])
        goes_on = f"training goes on after iteration {iterations_of(point.state)}" if point else "training begins"
        self.log(described(config.env))
        self.log(f"{goes_on} {about}")

    def _continue(self, point: Point) -> None:
        """Remove what is newer than the point: damaged checkpoints, the result of the interruption, half a file."""
        (self.folder / RESULT).unlink(missing_ok=True)
        for path in self.folder.rglob(".*.tmp"):
            path.unlink(missing_ok=True)
        for path in checkpoint.candidates(self.folder):
            if path == point.path:
                break
            path.unlink(missing_ok=True)
        if point.path != self.folder / checkpoint.LAST:
            point.path.replace(self.folder / checkpoint.LAST)
        self.saved = iterations_of(point.state)
        try:
            if point.best:
                checkpoint.read(self.folder / checkpoint.BEST)
            self._best = point.best
        except UserError as error:
            checkpoint.say([f"{error}; the best one from now on will be kept"])

    def log(self, text: str) -> None:
        """One entry of `train.log`, with the time."""
        if not self._log.closed:
            self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text.rstrip()}\n")

    def write(self, iteration: int, env_steps: int, metrics: Mapping[str, float], video: Any = None) -> None:
        """A row of `metrics.csv` and TensorBoard, and now and then a line of the log.

        Args:
            iteration, env_steps, metrics: of the row.
            video: for TensorBoard, or in words why there is none.
        """
        self._records.write(iteration, env_steps, metrics, self._shown(video))
        if time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LOG_SECONDS
            return_mean = metrics["episode/return_mean"]
            found = "no episode ended in it" if math.isnan(return_mean) else f"return {return_mean:.2f}"
            self.log(f"iteration {iteration}, {env_steps:,} env steps, {found}")

    def _shown(self, video: Any) -> Any:
        """A video that there is; why there is none is said in the log."""
        if isinstance(video, str):
            self.log(f"no video of the evaluation: {video}")
            return None
        return video

    def consider(self, value: float, by: str, state: State) -> None:
        """Remember the state that had this mean return if it is the best so far; `best.pt` is written with `last.pt`.

        Args:
            value: the mean return.
            by: what was measured; see `resume.Score`.
            state: of this run alone.
        """
        if math.isfinite(value) and (self._best is None or value > self._best.value):
            self._best_state = dict(state)  # which needs nothing of other runs
            self._best = Score(value, by, iterations_of(state))

    def save(self, state: State, seconds: Mapping[str, float]) -> None:
        """Bring `checkpoints/` up to date.

        `best.pt` comes before `last.pt`, which names its score: killed in between, the run finds the same best again.
        """
        iteration = iterations_of(state)
        if self.saved == iteration and self._best_state is None:
            return
        positions = self._records.positions(iteration)
        self._records.sync()
        best = self._best
        if best and self._best_state is not None:
            checkpoint.save_best(self.folder, {**self._best_state, "score": vars(best)})
            self._best_state = None
        before = self.saved if self.saved != iteration else None
        content = content_of(state, self.config, positions, best, seconds)
        checkpoint.save(self.folder, content, before, self.config.checkpoint.keep)
        self.saved = iteration

    def finish(self, result: RunResult, state: State, seconds: Mapping[str, float], video: Any = None) -> None:
        """Checkpoint, last row, and `result.json`, whose presence says that all of it is there.

        Args:
            result, state, seconds: of the run.
            video: of its evaluation, as for `write`.
        """
        if self._records.closed:  # an interruption may find a run that is through
            return
        if result.status == "interrupted":  # in the middle of an iteration, perhaps with its row
            self._records.cut(self._records.positions(iterations_of(state)))
        if result.status == "failed":
            self._finish_failed(result, state, seconds)
            return
        self.save(state, seconds)  # before the last row: killed in between, a run must not write it twice
        if result.evaluation:
            return_mean = result.evaluation["return_mean"]
            self._records.final_evaluation(result.env_steps, return_mean, self._shown(video))
        self._log_end(result)
        if result.evaluation:
            scores = result.evaluation
            self.log(f"evaluation: mean return {scores['return_mean']:.2f} over {scores['episodes']} episodes")
        self._records.close()
        write_atomically(self.folder / RESULT, result.to_json().encode())
        self.close()

    def _finish_failed(self, result: RunResult, state: State, seconds: Mapping[str, float]) -> None:
        """As much as can be written: what has failed may be the disk."""
        tries = (
            lambda: self.save(state, seconds),
            lambda: self._log_end(result),
            self._records.close,
            lambda: write_atomically(self.folder / RESULT, result.to_json().encode()),
            self.close,
        )
        for write in tries:
            problem_of(write, self.folder)

    def _log_end(self, result: RunResult) -> None:
        reason = f": {result.error}" if result.error else ""
        self.log(f"{result.status}{reason} after {result.iterations} iterations, {result.env_steps:,} env steps")

    def close(self) -> None:
        """Flush and close, also when one of the files cannot be written any more; once more does nothing."""
        try:
            self._records.close()
        finally:
            self._log.close()


def problem_of(write: Callable[[], None], folder: Path) -> str | None:
    """Write into a run's folder; what prevented it, in words, so that one run's folder stops no other run."""
    try:
        write()
    except OSError as error:
        return f"cannot write {error.filename or folder}: {error.strerror or first_line(error)}"
    return None
