"""The training loop: configs in, one program for all runs, results out."""

import math
import os
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from pg_experiments.algorithms.reinforce import Iteration
from pg_experiments.batch import Batch, State, joined, parameters_of, rows_of, what_they_raise
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
    """A run that has ended, as an index into the configs, and its last state, of one row."""

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
    """One call of `train`: the batch, and for every run (its index into the configs) its folder and its result.

    `self.good[run]` is the run's last state that was whole, of one row: what a failure or an interruption at any moment
    falls back to.
    """

    def __init__(
        self, configs: Sequence[Config], run_dirs: Sequence[str | Path] | None, display: Display | None
    ) -> None:
        self.start = time.perf_counter()
        self.configs = configs
        self.batch = Batch(configs)
        state = self.batch.state()
        self.good = {run: rows_of(state, [run]) for run in range(len(configs))}
        self.retried: list[int] | None = None  # the iterations of the runs when no run alone raised what the batch had
        self.waiting: list[Ended] = []
        self.waiting_since = 0.0
        self.results: dict[int, RunResult] = {}
        self.returns = [math.nan] * len(configs)
        self.learned = [time.perf_counter()] * len(configs)  # when each run's last iteration was complete
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
            while self.batch.active:
                self._iterate()
                self._evaluate_the_waiting()
        except KeyboardInterrupt:
            for run, state in self.good.items():
                if run not in self.results:
                    self._finish(Ended(run, state), "interrupted")
            raise Interrupted([self.results[run] for run in range(len(self.configs))]) from None
        finally:
            self.display.close()
            for folder in self.folders.values():
                problem_of(folder.close)
        return [self.results[run] for run in range(len(self.configs))]

    def _iterate(self) -> None:
        """One iteration of some runs of the batch, and what follows from it for each of them."""
        begin = time.perf_counter()
        try:
            runs, iteration = self.batch.iterate()
        except Exception as error:  # of a part, such as an environment: any kind
            self._leave_out_who_raises(error)
            return
        errors = dict(zip(runs, broken_numbers(iteration, self.batch.finite(runs)), strict=True))
        whole = self.batch.state()
        states = {run: rows_of(whole, [run]) for run in runs}
        self.training_seconds += time.perf_counter() - begin
        self._record(runs, iteration, states, errors)
        self._save(states, errors)
        completed = [run for run in runs if not errors[run] and self._has_used_its_steps(run)]
        for run, problem in errors.items():
            if problem:  # what it had before the numbers broke
                self._finish(Ended(run, self.good[run]), "failed", problem)
            else:
                self.good[run] = states[run]
            if problem or run in completed:
                self.batch.end(run)
        if completed and not self.waiting:
            self.waiting_since = time.monotonic()
        self.waiting += [Ended(run, states[run]) for run in completed]
        self._show(iteration)

    def _leave_out_who_raises(self, error: Exception) -> None:
        """Play the iterations again, each run alone: those that raise fail, the others go on from where they were."""
        active, iterations = self.batch.active, list(self.batch.iterations)
        reason = f"{type(error).__name__}: {first_line(error)}"
        configs, states = [self.configs[run] for run in active], [self.good[run] for run in active]
        reasons = what_they_raise(configs, states) if len(active) > 1 else [reason]
        if not any(reasons) and self.retried == iterations:
            reasons = [reason] * len(active)  # twice in the batch, and never alone: nobody can say whose part it is
        self.retried = iterations
        details = "".join(traceback.format_exception(error))
        for run, why in zip(active, reasons, strict=True):
            if why:
                self._finish(Ended(run, self.good[run]), "failed", why, details)
        staying = [run for run, why in zip(active, reasons, strict=True) if not why]
        if staying:
            self.batch = Batch(self.configs, joined([self.good[run] for run in range(len(self.configs))]))
        self.batch.active = staying

    def _has_used_its_steps(self, run: int) -> bool:
        return self.batch.env_steps[run] >= self.configs[run].total_env_steps

    def _save(self, states: Mapping[int, State], errors: dict[int, str | None]) -> None:
        """Checkpoint the runs for which it is time; what prevents that is the run's error."""
        every = self.configs[0].checkpoint.every
        for run, state in states.items():
            if run in self.folders and every and self.batch.iterations[run] % every == 0 and not errors[run]:
                folder = self.folders[run]
                errors[run] = problem_of(lambda: folder.save(state))  # noqa: B023 - called at once

    def _evaluate_the_waiting(self) -> None:
        """Evaluate and finish the runs that have ended, many at a time: together they cost little more than one."""
        if not self.waiting or (self.batch.active and time.monotonic() - self.waiting_since < WAITING_SECONDS):
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
        env_steps, iterations = int(state["env_steps"][0]), int(state["iterations"][0])
        result = RunResult(
            status=status,
            error=error,
            seed=self.configs[run].seed,
            env_steps=env_steps,
            iterations=iterations,
            episodes=iterations * self.batch.num_envs,
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

    def _record(
        self,
        runs: Sequence[int],
        iteration: Iteration,
        states: Mapping[int, State],
        errors: dict[int, str | None],
    ) -> None:
        """One row of metrics for every run for which it is time; always for the last iteration of a run."""
        now = time.perf_counter()
        columns = columns_of(iteration, [now - self.learned[run] for run in runs])
        for row, run in enumerate(runs):
            self.returns[run], self.learned[run] = columns["episode/return_mean"][row], now
        if not self.folders:
            return
        every = self.configs[0].evaluation.every
        evaluating = [run for run in runs if every > 0 and self.batch.iterations[run] % every == 0]
        outcomes = self._evaluate([Ended(run, states[run]) for run in evaluating]) if evaluating else []
        evaluations = dict(zip(evaluating, outcomes, strict=True))
        for row, run in enumerate(runs):
            numbers = {tag: values[row] for tag, values in columns.items()}
            outcome = evaluations.get(run)
            if isinstance(outcome, str):
                errors[run] = errors[run] or outcome
            if outcome is not None:
                score = math.nan if isinstance(outcome, str) else outcome.return_mean
                numbers["evaluation/return_mean"] = score
            due = outcome is not None or self.batch.iterations[run] % self.configs[run].logging.every == 0
            if due or errors[run] or self._has_used_its_steps(run):
                folder, at = self.folders[run], (self.batch.iterations[run], self.batch.env_steps[run])
                problem = problem_of(lambda: folder.write(*at, numbers))  # noqa: B023 - called at once
                errors[run] = errors[run] or problem

    def _show(self, iteration: Iteration) -> None:
        """Hand the display where every run is."""
        active = self.batch.active
        played = sum(int(state["env_steps"][0]) for state in self.good.values())
        assert self.display is not None
        self.display.show(
            Status(
                iteration=sorted(self.batch.iterations)[len(self.configs) // 2],
                env_steps=played,
                total_env_steps=sum(config.total_env_steps for config in self.configs),
                returns=list(self.returns),
                running=len(active),
                failed=sum(result.status == "failed" for result in self.results.values()),
                return_mean=float(iteration.episodes.episode_return.mean((0, 1))),
                entropy=float(iteration.metrics["policy/entropy"].mean(0)),
                env_steps_per_second=played / max(self.training_seconds, 1e-9),
            )
        )
