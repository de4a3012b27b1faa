"""The training loop: configs in, one program for all runs, results out."""

import math
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pg_experiments.algorithms.reinforce import Iteration
from pg_experiments.batch import Batch, State, parameters_of, rows_of, what_they_raise
from pg_experiments.config import Config, config_sha256
from pg_experiments.errors import UserError, first_line
from pg_experiments.evaluation import Evaluation, evaluate_each
from pg_experiments.interruption import Stop, heard, unbroken
from pg_experiments.memory import keep_freed_memory
from pg_experiments.monitoring import broken_numbers, columns_of
from pg_experiments.policies.module import PolicyModule
from pg_experiments.progress import Display, Status, make_display
from pg_experiments.results import RunResult, git_commit, parameters_sha256, versions
from pg_experiments.resume import (
    Point,
    completed_result,
    env_steps_of,
    find,
    has_begun,
    is_complete,
    iterations_of,
    joined,
)
from pg_experiments.run_folder import RunFolder, problem_of
from pg_experiments.runs import DTYPES

SHARE = 0.01  # of the time may go into checkpoints that are due by `checkpoint.seconds`
WRITERS = 16  # threads that wait for the disk: it sees many files safe in little more time than one
WAITING_SECONDS = 10.0  # runs that have ended wait so long for others, to be evaluated as one program


EVALUATION = "evaluation/return_mean"


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended the training.

    Attributes:
        results: what every run had reached; their checkpoints are written.
        number: of the signal.
    """

    def __init__(self, results: list[RunResult], number: int = signal.SIGINT) -> None:
        super().__init__("training was interrupted")
        self.results = results
        self.number = number


class Ended(NamedTuple):
    """A run that has left the batch, as an index into the configs, and its last state."""

    run: int
    state: State


def train(
    configs: Sequence[Config], run_dirs: Sequence[str | Path] | None = None, display: Display | None = None
) -> list[RunResult]:
    """Train runs of equal structure as one program. Each run is, bit for bit, the run it would be alone.

    Args:
        configs: from `compose`; they may differ in seed, learning rate and every other per-run number.
        run_dirs: one folder per run, made if need be, for metrics, events, log, checkpoints and `result.json`; None
            writes nothing. With `checkpoint.resume`, a run goes on where its folder says that it was; one that is
            complete is not trained again.
        display: shows the progress; None: as the first config's `logging.progress` says.

    Returns:
        One result per config, in their order. A run whose loss, gradient or parameters are no longer finite, whose own
        part raises or whose folder cannot be written leaves the batch with status `failed`; the others go on unchanged.

    Raises:
        UserError: before any work, when a config cannot be used.
        Interrupted: on Ctrl-C or SIGTERM (when called in the main thread), with the results so far.

    While it runs, the process computes on one thread; what it keeps of freed memory, it keeps (see `memory.py`).

    Example:
        >>> from pg_experiments import compose
        >>> configs = [compose("policy=gaussian", "env=pendulum", f"seed={seed}") for seed in range(10)]
        >>> results = train(configs)  # doctest: +SKIP
    """
    if not configs:
        raise UserError("train needs at least one config")
    if run_dirs is not None and len({Path(folder).resolve() for folder in run_dirs}) != len(configs):
        raise UserError(f"train needs one folder per run: {len(configs)} configs, {len(set(run_dirs))} folders")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # with more, sums are split by size and a run would depend on its neighbours
    keep_freed_memory()
    try:
        with heard():
            return _Training(configs, run_dirs, display).run()
    finally:
        torch.set_num_threads(threads)


class _Training:
    """One call of `train`: the batch, and for every run its folder and its result.

    `self.ids[row]` is the run that row `row` of the batch belongs to, as an index into the configs. `self.good` is the
    last state that was whole, with the ids of its rows: what a failure or an interruption at any moment falls back to.
    `self.later` are resumed runs that are further than the batch, the nearest first; they join when it is there.
    """

    def __init__(
        self, configs: Sequence[Config], run_dirs: Sequence[str | Path] | None, display: Display | None
    ) -> None:
        self.start = time.perf_counter()
        self.configs = configs
        self.batch = Batch(configs)
        self.ids = list(range(len(configs)))
        self.good = (self.ids, self.batch.state())
        self.retried = -1  # the iteration that was played again because no run alone raised in it
        self.waiting: list[Ended] = []
        self.waiting_since = 0.0
        self.later: list[Ended] = []
        self.results: dict[int, RunResult] = {}
        self.returns = [math.nan] * len(configs)
        self.paths = [Path(folder) for folder in run_dirs] if run_dirs is not None else None
        self.points: dict[int, Point] = {}
        self.resumed_steps = 0
        self.next_save = time.monotonic() + configs[0].checkpoint.seconds
        self.folders: dict[int, RunFolder] = {}
        self.display = display
        self.versions, self.git_commit = versions(), git_commit()
        self.training_seconds = 0.0
        self._look_for_points()

    def _look_for_points(self) -> None:
        """Find out which runs are to be resumed, and from where."""
        for run, path in enumerate(self.paths or []):
            config = self.configs[run]
            if not config.checkpoint.resume or not has_begun(path):
                continue
            if is_complete(path, config):
                self.results[run] = completed_result(path)
                self.resumed_steps += self.results[run].env_steps
            elif point := find(path, config):
                self.points[run] = point
                self.resumed_steps += env_steps_of(point.state)
        if not self.points and not self.results:
            return
        _, first = self.good
        for run, config in enumerate(self.configs):
            if run not in self.results:
                state = self.points[run].state if run in self.points else rows_of(first, [run])
                over = env_steps_of(state) >= config.total_env_steps
                (self.waiting if over else self.later).append(Ended(run, state))
        self.later.sort(key=lambda ended: iterations_of(ended.state))
        self.ids = []
        self.good = ([], first)

    def _join(self) -> None:
        """Take in the resumed runs that the batch has caught up with."""
        now = iterations_of(self.later[0].state) if self.later and not self.ids else self.batch.iterations
        joining = [ended for ended in self.later if iterations_of(ended.state) == now]
        if joining:
            states = [self.batch.state()] * bool(self.ids) + [ended.state for ended in joining]
            self.ids = [*self.ids, *(ended.run for ended in joining)]
            self.batch = Batch([self.configs[run] for run in self.ids], joined(states))
            self.good = (self.ids, self.batch.state())
            self.later = self.later[len(joining) :]

    def run(self) -> list[RunResult]:
        """Iterate until every run has left the batch."""
        self.display = self.display or make_display(self.configs[0].logging.progress)
        try:
            for run, path in enumerate(self.paths or []):
                about = f"as run {run} of {len(self.configs)} in one program, process {os.getpid()}"
                if run not in self.results:
                    self.folders[run] = RunFolder(path, self.configs[run], about, self.points.get(run))
            self._join()
            while self.ids or self.waiting:
                if self.ids:
                    self._iterate()
                    self._join()
                self._evaluate_the_waiting()
        except KeyboardInterrupt as stop:
            left = [ended for ended in [*self.waiting, *self._all_rows(), *self.later] if ended.run not in self.results]
            together([lambda ended=ended: self._finish(ended, "interrupted") for ended in left])  # type: ignore[misc]
            number = stop.number if isinstance(stop, Stop) else signal.SIGINT
            raise Interrupted([self.results[run] for run in range(len(self.configs))], number) from None
        finally:
            self.display.close()
            for folder in self.folders.values():
                problem_of(folder.close)
        return [self.results[run] for run in range(len(self.configs))]

    def _iterate(self) -> None:
        """One iteration of the batch, and what follows from it for every run."""
        begin = time.perf_counter()
        try:
            iteration = self.batch.iterate()
        except Exception as error:  # of a part, such as an environment: any kind
            self._leave_out_who_raises(error)
            return
        errors = broken_numbers(iteration, self.batch.finite())
        state = self.batch.state()
        self.training_seconds += time.perf_counter() - begin
        columns = columns_of(iteration, time.perf_counter() - begin)
        evaluating = self._evaluate_on_the_way(state, columns, errors)
        with unbroken():  # the records of a run say what its state is
            self._record(columns, evaluating, errors)
            self._consider(columns, evaluating, state, errors)
            self._save(state, errors)
            for row, run in enumerate(self.ids):
                if errors[row]:  # what it had before the numbers broke
                    self._finish(Ended(run, rows_of(self.good[1], [row])), "failed", errors[row])
            completed = [row for row in range(len(self.ids)) if not errors[row] and self._has_used_its_steps(row)]
            if completed and not self.waiting:
                self.waiting_since = time.monotonic()
            self.good = (self.ids, state)
            self.waiting += [Ended(self.ids[row], rows_of(state, [row])) for row in completed]
            self._keep([row for row, reason in enumerate(errors) if not reason and row not in completed])
        self._show(iteration)

    def _keep(self, rows: Sequence[int]) -> None:
        """Go on with the given rows only."""
        if len(rows) < len(self.ids):
            self.ids = [self.ids[row] for row in rows]
            if rows:
                self.batch.keep(rows)
                self.good = (self.ids, self.batch.state())

    def _leave_out_who_raises(self, error: Exception) -> None:
        """Play the iteration again, each run alone: those that raise fail, the others go on from where they were."""
        ended = self._all_rows()
        configs = [self.configs[run] for run in self.ids]
        reason = f"{type(error).__name__}: {first_line(error)}"
        reasons = what_they_raise(configs, self.good[1]) if len(configs) > 1 else [reason]
        if not any(reasons) and self.retried == self.batch.iterations:
            reasons = [reason] * len(configs)  # twice in the batch, and never alone: nobody can say whose part it is
        self.retried = self.batch.iterations
        details = "".join(traceback.format_exception(error))
        for one, why in zip(ended, reasons, strict=True):
            if why:
                self._finish(one, "failed", why, details)
        staying = [row for row, why in enumerate(reasons) if not why]
        state = rows_of(self.good[1], staying)
        self.ids = [self.ids[row] for row in staying]
        self.good = (self.ids, state)
        if staying:
            self.batch = Batch([self.configs[run] for run in self.ids], state)

    def _all_rows(self) -> list[Ended]:
        """Every row at its last whole state."""
        ids, state = self.good
        return [Ended(run, rows_of(state, [row])) for row, run in enumerate(ids)]

    def _has_used_its_steps(self, row: int) -> bool:
        return self.batch.env_steps[row] >= self.batch.configs[row].total_env_steps

    def _save(self, state: State, errors: list[str | None]) -> None:
        """Checkpoint the runs, when it is time for it; what prevents that is the run's error."""
        settings, begin = self.configs[0].checkpoint, time.monotonic()
        by_time = settings.seconds > 0 and begin >= self.next_save

        def is_due(row: int, folder: RunFolder) -> bool:
            iteration = iterations_of(state, row)
            by_count = settings.every > 0 and iteration % settings.every == 0
            return not errors[row] and iteration != folder.saved and (by_time or by_count)

        due = [row for row, run in enumerate(self.ids) if run in self.folders and is_due(row, self.folders[run])]

        def save(row: int) -> str | None:
            run, own = self.ids[row], rows_of(state, [row])
            return problem_of(lambda: self.folders[run].save(own, self._seconds(run)))

        for row, problem in zip(due, together([lambda row=row: save(row) for row in due]), strict=True):  # type: ignore[misc]
            errors[row] = problem
        if by_time:
            end = time.monotonic()
            self.next_save = end + max(settings.seconds, (end - begin) / SHARE)

    def _consider(
        self, columns: dict[str, list[float]], evaluating: bool, state: State, errors: list[str | None]
    ) -> None:
        """Let every folder remember the run's best state: by evaluations where they are on the way, else by returns.

        The returns of an iteration were played with the parameters from before it.
        """
        by_evaluation = self.configs[0].evaluation.every > 0
        tag = EVALUATION if by_evaluation else "episode/return_mean"
        played_by = state if by_evaluation else self.good[1]
        if by_evaluation and not evaluating:
            return
        for row, run in enumerate(self.ids):
            if run in self.folders and not errors[row]:
                self.folders[run].consider(columns[tag][row], tag, lambda row=row: rows_of(played_by, [row]))  # type: ignore[misc]

    def _seconds(self, run: int) -> dict[str, float]:
        """What a run has taken so far, of the clock and of training, before an interruption and after."""
        before = self.points[run].seconds if run in self.points else {"wall": 0.0, "training": 0.0}
        return {
            "wall": before["wall"] + time.perf_counter() - self.start,
            "training": before["training"] + self.training_seconds,
        }

    def _evaluate_the_waiting(self) -> None:
        """Evaluate and finish the runs that have ended, many at a time: together they cost little more than one."""
        if not self.waiting or (self.ids and time.monotonic() - self.waiting_since < WAITING_SECONDS):
            return
        outcomes = self._evaluate(self.waiting)

        def finish(ended: Ended, outcome: Evaluation | str) -> None:
            if isinstance(outcome, str):
                self._finish(ended, "failed", outcome)
                return
            if ended.run in self.folders and self.configs[ended.run].evaluation.every:
                self.folders[ended.run].consider(outcome.return_mean, EVALUATION, lambda: ended.state)
            self._finish(ended, "completed", evaluation=outcome)

        with unbroken():
            pairs = zip(self.waiting, outcomes, strict=True)
            together([lambda pair=pair: finish(*pair) for pair in pairs])  # type: ignore[misc]
            self.waiting = []

    def _evaluate(self, ended: Sequence[Ended]) -> list[Evaluation | str]:
        """The deterministic evaluation of each run, from random numbers of its own; what it raised, if it did."""
        states = [state["policy"]["parameters"] for _, state in ended]
        seeds, config = [self.configs[run].seed for run, _ in ended], self.configs[0]
        parts, episodes = self.batch.parts, config.evaluation.episodes
        return evaluate_each(parts.policy, states, parts.env, seeds, episodes, DTYPES[config.dtype])

    def _finish(
        self,
        ended: Ended,
        status: str,
        error: str | None = None,
        details: str = "",
        evaluation: Evaluation | None = None,
    ) -> None:
        """Make a run's result and write its checkpoint and `result.json`."""
        run, state = ended
        env_steps, iterations, seconds = env_steps_of(state), iterations_of(state), self._seconds(run)
        result = RunResult(
            status=status,
            error=error,
            seed=self.configs[run].seed,
            env_steps=env_steps,
            iterations=iterations,
            episodes=iterations * self.batch.num_envs,
            wall_seconds=seconds["wall"],
            env_steps_per_second=env_steps / max(seconds["training"], 1e-9),
            runs_in_batch=len(self.configs),
            parameters_sha256=parameters_sha256(parameters_of(state)),
            evaluation=evaluation._asdict() if evaluation else None,
            config_sha256=config_sha256(self.configs[run]),
            versions=self.versions,
            git_commit=self.git_commit,
            run_dir=self.paths[run] if self.paths else None,
            policy=PolicyModule(self.batch.parts.policy, state["policy"]["parameters"]),
        )
        if run in self.folders:
            folder = self.folders[run]
            if details:
                problem_of(lambda: folder.log(details))
            problem = problem_of(lambda: folder.finish(result, state, seconds))
            if problem and status == "completed":
                result.status, result.error = "failed", problem
        elif details:
            print(details)
        self.results[run] = result

    def _evaluate_on_the_way(self, state: State, columns: dict[str, list[float]], errors: list[str | None]) -> bool:
        """Evaluate all runs when `evaluation.every` says so, and add that to the columns."""
        every = self.configs[0].evaluation.every
        if not self.folders or not every or self.batch.iterations % every:
            return False
        outcomes = self._evaluate([Ended(run, rows_of(state, [row])) for row, run in enumerate(self.ids)])
        for row, outcome in enumerate(outcomes):
            errors[row] = errors[row] or (outcome if isinstance(outcome, str) else None)
        columns[EVALUATION] = [math.nan if isinstance(outcome, str) else outcome.return_mean for outcome in outcomes]
        return True

    def _record(self, columns: dict[str, list[float]], evaluating: bool, errors: list[str | None]) -> None:
        """One row of metrics for every run for which it is time; always for the last iteration of a run."""
        iterations = self.batch.iterations
        for row, run in enumerate(self.ids):
            self.returns[run] = columns["episode/return_mean"][row]
            if run not in self.folders:
                continue
            due = evaluating or iterations % self.configs[run].logging.every == 0
            if due or errors[row] or self._has_used_its_steps(row):
                numbers = {tag: values[row] for tag, values in columns.items()}
                folder, env_steps = self.folders[run], self.batch.env_steps[row]
                problem = problem_of(lambda: folder.write(iterations, env_steps, numbers))  # noqa: B023 - called at once
                errors[row] = errors[row] or problem

    def _show(self, iteration: Iteration) -> None:
        """Hand the display where every run is."""
        played = sum(self.batch.env_steps) if self.ids else 0
        played += sum(env_steps_of(ended.state) for ended in [*self.waiting, *self.later])
        played += sum(result.env_steps for result in self.results.values())
        assert self.display is not None
        self.display.show(
            Status(
                iteration=self.batch.iterations,
                env_steps=played,
                total_env_steps=sum(config.total_env_steps for config in self.configs),
                returns=list(self.returns),
                running=len(self.ids) + len(self.later),
                failed=sum(result.status == "failed" for result in self.results.values()),
                return_mean=float(iteration.episodes.episode_return.mean((0, 1))),
                entropy=float(iteration.metrics["policy/entropy"].mean(0)),
                env_steps_per_second=(played - self.resumed_steps) / max(self.training_seconds, 1e-9),
            )
        )


def together(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """Do what waits for the disk at the same time; what every call returned, in their order."""
    if len(calls) < 2:
        return [call() for call in calls]
    with ThreadPoolExecutor(min(WRITERS, len(calls))) as pool:
        return list(pool.map(lambda call: call(), calls))
