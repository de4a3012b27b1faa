"""The training loop: configs in, one program for all runs, results out."""

import math
import os
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from pg_experiments.algorithms.reinforce import Iteration
from pg_experiments.batch import Batch, State, parameters_of, rows_of, what_they_raise
from pg_experiments.config import Config, config_sha256
from pg_experiments.errors import UserError, first_line
from pg_experiments.evaluation import Evaluation, evaluate_each
from pg_experiments.memory import keep_freed_memory
from pg_experiments.monitoring import broken_numbers, columns_of
from pg_experiments.policies.module import PolicyModule
from pg_experiments.progress import Display, Status, make_display
from pg_experiments.results import RunResult, parameters_sha256
from pg_experiments.run_folder import RunFolder, problem_of
from pg_experiments.runs import DTYPES
from pg_experiments.surroundings import surroundings

WAITING_SECONDS = 10.0  # runs that have ended wait so long for others, to be evaluated as one program


class Interrupted(KeyboardInterrupt):
    """Ctrl-C ended the training. `results` hold what every run had reached; their checkpoints are written."""

    def __init__(self, results: list[RunResult]) -> None:
        super().__init__("training was interrupted")
        self.results = results


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
        run_dirs: one folder per run, made if need be, for metrics, events, log, checkpoint and `result.json`; None
            writes nothing.
        display: shows the progress; None: as the first config's `logging.progress` says.

    Returns:
        One result per config, in their order. A run whose loss, gradient or parameters are no longer finite, whose own
        part raises or whose folder cannot be written leaves the batch with status `failed`; the others go on unchanged.

    Raises:
        UserError: before any work, when a config cannot be used.
        Interrupted: on Ctrl-C, with the results so far.

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
        return _Training(configs, run_dirs, display).run()
    finally:
        torch.set_num_threads(threads)


class _Training:
    """One call of `train`: the batch, and for every run its folder and its result.

    `self.ids[row]` is the run that row `row` of the batch belongs to, as an index into the configs. `self.good` is the
    last state that was whole, with the ids of its rows: what a failure or an interruption at any moment falls back to.
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
        self.results: dict[int, RunResult] = {}
        self.returns = [math.nan] * len(configs)
        self.paths = [Path(folder) for folder in run_dirs] if run_dirs is not None else None
        self.folders: dict[int, RunFolder] = {}
        self.display = display
        self.surroundings = surroundings()
        self.training_seconds = 0.0

    def run(self) -> list[RunResult]:
        """Iterate until every run has left the batch."""
        self.display = self.display or make_display(self.configs[0].logging.progress)
        try:
            for run, path in enumerate(self.paths or []):
                about = f"training begins as run {run} of {len(self.configs)} in one program, process {os.getpid()}"
                self.folders[run] = RunFolder(path, self.configs[run], about)
            while self.ids:
                self._iterate()
                self._evaluate_the_waiting()
        except KeyboardInterrupt:
            for ended in [*self.waiting, *self._all_rows()]:
                if ended.run not in self.results:
                    self._finish(ended, "interrupted")
            raise Interrupted([self.results[run] for run in range(len(self.configs))]) from None
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
        self._record(iteration, state, errors, time.perf_counter() - begin)
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
        every = self.configs[0].checkpoint.every
        if self.folders and every and self.batch.iterations % every == 0:
            for row, run in enumerate(self.ids):
                if not errors[row]:
                    folder, own = self.folders[run], rows_of(state, [row])
                    errors[row] = problem_of(lambda: folder.save(own))  # noqa: B023 - called at once

    def _evaluate_the_waiting(self) -> None:
        """Evaluate and finish the runs that have ended, many at a time: together they cost little more than one."""
        if not self.waiting or (self.ids and time.monotonic() - self.waiting_since < WAITING_SECONDS):
            return
        for ended, outcome in zip(self.waiting, self._evaluate(self.waiting), strict=True):
            if isinstance(outcome, str):
                self._finish(ended, "failed", outcome)
            else:
                self._finish(ended, "completed", evaluation=outcome)
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
        env_steps = int(state["env_steps"][0])
        result = RunResult(
            status=status,
            error=error,
            seed=self.configs[run].seed,
            env_steps=env_steps,
            iterations=state["iterations"],
            episodes=state["iterations"] * self.batch.num_envs,
            wall_seconds=time.perf_counter() - self.start,
            env_steps_per_second=env_steps / max(self.training_seconds, 1e-9),
            runs_in_batch=len(self.configs),
            parameters_sha256=parameters_sha256(parameters_of(state)),
            evaluation=evaluation._asdict() if evaluation else None,
            config_sha256=config_sha256(self.configs[run]),
            **self.surroundings,
            run_dir=self.paths[run] if self.paths else None,
            policy=PolicyModule(self.batch.parts.policy, state["policy"]["parameters"]),
        )
        if run in self.folders:
            folder = self.folders[run]
            if details:
                problem_of(lambda: folder.log(details))
            problem = problem_of(lambda: folder.finish(result, state))
            if problem and status == "completed":
                result.status, result.error = "failed", problem
        elif details:
            print(details)
        self.results[run] = result

    def _record(self, iteration: Iteration, state: State, errors: list[str | None], seconds: float) -> None:
        """One row of metrics for every run for which it is time; always for the last iteration of a run."""
        columns = columns_of(iteration, seconds)
        for row, run in enumerate(self.ids):
            self.returns[run] = columns["episode/return_mean"][row]
        if not self.folders:
            return
        iterations, every = self.batch.iterations, self.configs[0].evaluation.every
        evaluating = every > 0 and iterations % every == 0
        if evaluating:
            evaluations = self._evaluate([Ended(run, rows_of(state, [row])) for row, run in enumerate(self.ids)])
            for row, outcome in enumerate(evaluations):
                errors[row] = errors[row] or (outcome if isinstance(outcome, str) else None)
            columns["evaluation/return_mean"] = [
                math.nan if isinstance(outcome, str) else outcome.return_mean for outcome in evaluations
            ]
        for row, run in enumerate(self.ids):
            due = evaluating or iterations % self.configs[run].logging.every == 0
            if due or errors[row] or self._has_used_its_steps(row):
                numbers = {tag: values[row] for tag, values in columns.items()}
                folder, env_steps = self.folders[run], self.batch.env_steps[row]
                problem = problem_of(lambda: folder.write(iterations, env_steps, numbers))  # noqa: B023 - called at once
                errors[row] = errors[row] or problem

    def _show(self, iteration: Iteration) -> None:
        """Hand the display where every run is."""
        played = sum(self.batch.env_steps) if self.ids else 0
        played += sum(int(ended.state["env_steps"][0]) for ended in self.waiting)
        played += sum(result.env_steps for result in self.results.values())
        assert self.display is not None
        self.display.show(
            Status(
                iteration=self.batch.iterations,
                env_steps=played,
                total_env_steps=sum(config.total_env_steps for config in self.configs),
                returns=list(self.returns),
                running=len(self.ids),
                failed=sum(result.status == "failed" for result in self.results.values()),
                return_mean=float(iteration.episodes.episode_return.mean((0, 1))),
                entropy=float(iteration.metrics["policy/entropy"].mean(0)),
                env_steps_per_second=played / max(self.training_seconds, 1e-9),
            )
        )
