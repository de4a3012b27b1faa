"""What a training knows of its runs besides their states: returns, seconds, and what its display shows."""

import math
import time
from collections.abc import Mapping, Sequence

from pg_experiments.algorithms.interface import Iteration
from pg_experiments.config import Config
from pg_experiments.monitoring import columns_of
from pg_experiments.progress import Status
from pg_experiments.results import RunResult
from pg_experiments.resume import Point


class Account:
    """Of the runs of one training, which are called by their index into the configs.

    Attributes:
        training_seconds: that playing and learning have taken so far, in this process.
    """

    def __init__(self, configs: Sequence[Config]) -> None:
        self.training_seconds = 0.0
        self._configs = configs
        self._start = time.perf_counter()
        self._returns = [math.nan] * len(configs)  # of each run's last iteration in which an episode finished
        self._learned = [self._start] * len(configs)  # when each run's last iteration was complete

    def columns(self, runs: Sequence[int], iteration: Iteration) -> dict[int, dict[str, float]]:
        """Per run the numbers of an iteration that is just complete, by tag."""
        now = time.perf_counter()
        columns = columns_of(iteration, [now - self._learned[run] for run in runs])
        for row, run in enumerate(runs):
            self._learned[run] = now
            if iteration.episodes.finished[row].any():
                self._returns[run] = columns["episode/return_mean"][row]
        return {run: {tag: values[row] for tag, values in columns.items()} for row, run in enumerate(runs)}

    def seconds(self, point: Point | None) -> dict[str, float]:
        """What a run has taken so far, of the clock and of training, before an interruption and after.

        Args:
            point: where it was continued; None: nowhere.
        """
        before = point.seconds if point else {"wall": 0.0, "training": 0.0}
        return {
            "wall": before["wall"] + time.perf_counter() - self._start,
            "training": before["training"] + self.training_seconds,
        }

    def status(
        self,
        runs: Sequence[int],
        iteration: Iteration,
        results: Mapping[int, RunResult],
        *,
        iterations: Sequence[int],
        env_steps: int,
        resumed_steps: int,
        running: int,
    ) -> Status:
        """Where every run is, for a display.

        Args:
            runs, iteration: the newest.
            results: of the runs that have ended.
            iterations: of all runs.
            env_steps: played by all runs, before an interruption and after.
            resumed_steps: those of them from before.
            running: how many runs have not ended.
        """
        known = [self._returns[run] for run in runs if not math.isnan(self._returns[run])]
        failed = {run: result for run, result in results.items() if result.status == "failed"}
        lost = sum(self._configs[run].total_env_steps - result.env_steps for run, result in failed.items())
        return Status(
            iteration=sorted(iterations)[len(iterations) // 2],
            env_steps=env_steps,
            total_env_steps=sum(config.total_env_steps for config in self._configs) - lost,
            returns=[math.nan if run in failed else value for run, value in enumerate(self._returns)],
            running=running,
            failed=len(failed),
            return_mean=sum(known) / len(known) if known else math.nan,
            entropy=float(iteration.metrics["policy/entropy"].mean(0)),
            env_steps_per_second=(env_steps - resumed_steps) / max(self.training_seconds, 1e-9),
        )
