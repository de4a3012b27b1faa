"""The training loop: from first states to results, one program for all runs."""

import math
import signal
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pg_experiments.account import Account
from pg_experiments.algorithms.interface import Iteration
from pg_experiments.backend_config import taken
from pg_experiments.batch import Batch, OneOf, State, joined, parameters_of, what_they_raise
from pg_experiments.config import Config, config_sha256
from pg_experiments.envs.hanging import failed_first
from pg_experiments.errors import EnvError, reason_of
from pg_experiments.evaluating.of_training import Ended, Evaluations
from pg_experiments.evaluation import Evaluation
from pg_experiments.interruption import Stop, unbroken
from pg_experiments.monitoring import broken_numbers
from pg_experiments.policies.module import PolicyModule
from pg_experiments.progress import Display, make_display
from pg_experiments.recording import EVALUATION, Errors, Recording, together
from pg_experiments.results import Interrupted, RunResult, parameters_sha256
from pg_experiments.resume import env_steps_of, iterations_of
from pg_experiments.run_folder import FolderError
from pg_experiments.surroundings import surroundings

WAITING_SECONDS = 10.0  # runs that have ended wait so long for others, to be evaluated as one program


class Training:
    """One call of `train`: the batch, and for every run (its index into the configs) its folder and its result.

    `self.good[run]` is the run's last state that was whole, of one row: what a failure or an interruption at any moment
    falls back to.
    """

    def __init__(
        self, configs: Sequence[Config], run_dirs: Sequence[str | Path] | None, display: Display | None
    ) -> None:
        self.account = Account(configs)
        self.configs = configs
        self.batch = Batch(configs)
        self.evaluations = Evaluations(configs, self.batch.parts)
        state = self.batch.state()
        self.good: dict[int, State] = {run: OneOf(state, run) for run in range(len(configs))}
        self.retried: list[int] | None = None  # the iterations of the runs when no run alone raised what the batch had
        self.waiting: list[Ended] = []
        self.waiting_since = 0.0
        self.results: dict[int, RunResult] = {}
        paths = [Path(folder) for folder in run_dirs] if run_dirs is not None else None
        self.recording = Recording(configs, paths)
        self.display = display
        self.surroundings = surroundings()
        self._resume()

    def _resume(self) -> None:
        """Put every run that is to be resumed where its folder says that it was."""
        for run, result in self.recording.complete.items():
            self.results[run] = result
            self.batch.end(run)
        for run, point in self.recording.points.items():
            self.good[run] = point.state
        if self.recording.points:
            self._go_on_from_good(self.batch.active)
        for run in self.recording.points:
            if self._has_used_its_steps(run):
                self.batch.end(run)
                self.waiting.append(Ended(run, self.good[run]))
        self.resumed_steps = self._env_steps()

    def _go_on_from_good(self, active: list[int]) -> None:
        """A new batch, with new copies of the environment, in which these runs go on."""
        self.batch = Batch(self.configs, joined([self.good[run] for run in range(len(self.configs))]))
        self.batch.active = active
        self.evaluations = Evaluations(self.configs, self.batch.parts)

    def run(self) -> list[RunResult]:
        """Iterate until every run has ended."""
        self.display = self.display or make_display(self.configs[0].logging.progress)
        try:
            for run in range(len(self.configs)) if self.recording.paths else []:
                if run not in self.results:
                    self._open(run)
            with failed_first(self._fail_all):
                while self.batch.active or self.waiting:
                    if self.batch.active:
                        self._iterate()
                    self._evaluate_the_waiting()
        except KeyboardInterrupt as stop:
            left = [Ended(run, state) for run, state in self.good.items() if run not in self.results]
            together(lambda ended: self._finish(ended, "interrupted"), left)
            number = stop.number if isinstance(stop, Stop) else signal.SIGINT
            raise Interrupted([self.results[run] for run in range(len(self.configs))], number) from None
        finally:
            self.display.close()
            self.recording.close()
        return [self.results[run] for run in range(len(self.configs))]

    def _open(self, run: int) -> None:
        """Begin or continue a run's folder; one among many that cannot be written fails alone."""
        try:
            self.recording.open(run)
        except FolderError as error:
            if len(self.configs) == 1:
                raise
            self._finish(Ended(run, self.good[run]), "failed", str(error))
            self.waiting = [ended for ended in self.waiting if ended.run != run]
            if run in self.batch.active:
                self.batch.end(run)

    def _iterate(self) -> None:
        """One iteration of some runs of the batch, and what follows from it for each of them."""
        begin = time.perf_counter()
        try:
            runs, iteration = self.batch.iterate()
        except Exception as error:  # of a part, such as an environment: any kind
            self._leave_out_who_raises(error)
            return
        errors = dict(zip(runs, broken_numbers(iteration, self.batch.finite(runs)), strict=True))
        learned = self.batch.state(runs)
        states = {run: OneOf(learned, row) for row, run in enumerate(runs)}
        self.account.training_seconds += time.perf_counter() - begin
        columns = self.account.columns(runs, iteration)
        evaluations = self._evaluate_on_the_way(states, errors)
        videos = {run: self.evaluations.video(Ended(run, states[run])) for run in evaluations if not errors[run]}
        with unbroken():  # the records of a run say what its state is
            last = [run for run in runs if self._has_used_its_steps(run)]
            counts = {run: (self.batch.iterations[run], self.batch.env_steps[run]) for run in runs}
            self.recording.rows(columns, evaluations, counts, last, errors, videos)
            self.recording.consider_all(columns, evaluations, self.good, states, errors)
            going = {run: state for run, state in (self.good | states).items() if run in self.batch.active}
            whole = {run: state for run, state in going.items() if not errors.get(run)}
            errors |= self.recording.checkpoints(states, whole, self._seconds)
            for run, problem in errors.items():
                if problem:  # what it had before the numbers broke
                    self._finish(Ended(run, self.good[run]), "failed", problem)
                else:
                    self.good[run] = states[run]
                if problem or run in last:
                    self.batch.end(run)
            completed = [run for run in last if not errors[run]]
            if completed and not self.waiting:
                self.waiting_since = time.monotonic()
            self.waiting += [Ended(run, states[run]) for run in completed]
        self._show(runs, iteration)

    def _leave_out_who_raises(self, error: Exception) -> None:
        """Play the iterations again, each run alone: those that raise fail, the others go on from where they were.

        Where the environment's copy says whose it is, nothing is played again: a step that hangs would hang once more.
        """
        active, iterations = self.batch.active, list(self.batch.iterations)
        reason = reason_of(error)
        configs, states = [self.configs[run] for run in active], [self.good[run] for run in active]
        if isinstance(error, EnvError) and error.certain:
            reasons = [reason if run == error.run else None for run in active]
        else:
            reasons = what_they_raise(configs, states) if len(active) > 1 else [reason]
        if not any(reasons) and self.retried == iterations:
            reasons = [reason] * len(active)  # twice in the batch, and never alone: nobody can say whose part it is
        self.retried = None if any(reasons) else iterations
        details = "".join(traceback.format_exception(error))
        for run, why in zip(active, reasons, strict=True):
            if why:
                self._finish(Ended(run, self.good[run]), "failed", why, details)
        staying = [run for run, why in zip(active, reasons, strict=True) if not why]
        if staying:
            self._go_on_from_good(staying)
        else:
            self.batch.active = []

    def _fail_all(self, reason: str, details: str) -> list[RunResult]:
        """Fail what still trains, because the process is ended while a step hangs; called by another thread."""
        if self.display:
            self.display.close()
        left = [Ended(run, state) for run, state in self.good.items() if run not in self.results]
        for ended in left:
            self._finish(ended, "failed", reason, details)
        return [self.results[ended.run] for ended in left]

    def _has_used_its_steps(self, run: int) -> bool:
        return self.batch.env_steps[run] >= self.configs[run].total_env_steps

    def _seconds(self, run: int) -> dict[str, float]:
        """See `Account.seconds`."""
        return self.account.seconds(self.recording.points.get(run))

    def _evaluate_the_waiting(self) -> None:
        """Evaluate and finish the runs that have ended, many at a time: together they cost little more than one."""
        if not self.waiting or (self.batch.active and time.monotonic() - self.waiting_since < WAITING_SECONDS):
            return
        outcomes = self.evaluations.of(self.waiting)
        pairs = list(zip(self.waiting, outcomes, strict=True))
        videos = {ended.run: self._final_video(ended, outcome) for ended, outcome in pairs}

        def finish(ended: Ended, outcome: Evaluation | str) -> None:
            if isinstance(outcome, str):
                self._finish(ended, "failed", outcome)
                return
            if self.configs[ended.run].evaluation.every:
                self.recording.consider(ended.run, outcome.return_mean, EVALUATION, ended.state)
            self._finish(ended, "completed", evaluation=outcome, video=videos[ended.run])

        with unbroken():
            together(lambda pair: finish(*pair), pairs)
            self.waiting = []

    def _final_video(self, ended: Ended, outcome: Evaluation | str) -> Any:
        """Of the last evaluation, where that of the last iteration has not been the same."""
        every = self.configs[ended.run].evaluation.every
        was_shown = every and iterations_of(ended.state) % every == 0
        return (
            None
            if was_shown or isinstance(outcome, str) or ended.run not in self.recording
            else self.evaluations.video(ended)
        )

    def _finish(
        self,
        ended: Ended,
        status: str,
        error: str | None = None,
        details: str = "",
        evaluation: Evaluation | None = None,
        video: Any = None,
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
            episodes=int(state["episodes"][0]),
            wall_seconds=seconds["wall"],
            env_steps_per_second=env_steps / max(seconds["training"], 1e-9),
            runs_in_batch=len(self.configs),
            parameters_sha256=parameters_sha256(parameters_of(state)),
            evaluation=evaluation._asdict() if evaluation else None,
            config_sha256=config_sha256(self.configs[run]),
            env_backend=taken(self.configs[run].env),
            **self.surroundings,
            run_dir=self.recording.paths[run] if self.recording.paths else None,
            policy=PolicyModule(self.evaluations.policy, state["policy"]["parameters"], self.batch.parts.env),
        )
        if run in self.recording:
            problem = self.recording.finish(run, result, state, seconds, details, video)
            if problem and status == "completed":
                result.status, result.error = "failed", problem
        elif details:
            print(details)
        self.results[run] = result

    def _evaluate_on_the_way(self, states: Mapping[int, State], errors: Errors) -> dict[int, float]:
        """The mean returns of the runs for which `evaluation.every` says that it is time."""
        every = self.configs[0].evaluation.every
        due = [run for run in states if run in self.recording and every and self.batch.iterations[run] % every == 0]
        if not due:
            return {}
        outcomes = dict(zip(due, self.evaluations.of([Ended(run, states[run]) for run in due]), strict=True))
        for run, outcome in outcomes.items():
            errors[run] = errors[run] or (outcome if isinstance(outcome, str) else None)
        return {run: math.nan if isinstance(one, str) else one.return_mean for run, one in outcomes.items()}

    def _env_steps(self) -> int:
        """Played so far, by all runs."""
        played = sum(env_steps_of(state) for run, state in self.good.items() if run not in self.results)
        return played + sum(result.env_steps for result in self.results.values())

    def _show(self, runs: Sequence[int], iteration: Iteration) -> None:
        """Hand the display where every run is."""
        assert self.display is not None
        self.display.show(
            self.account.status(
                runs,
                iteration,
                self.results,
                iterations=self.batch.iterations,
                env_steps=self._env_steps(),
                resumed_steps=self.resumed_steps,
                running=len(self.batch.active) + len(self.waiting),
            )
        )
