"""The training loop: configs in, one program for all runs, results out."""

import math
import signal
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pg_experiments.algorithms.interface import Iteration
from pg_experiments.backend_config import taken
from pg_experiments.batch import Batch, State, joined, parameters_of, rows_of, what_they_raise
from pg_experiments.config import Config, config_sha256, evaluation_seed
from pg_experiments.devices import CPU, check_device, here, moved, on
from pg_experiments.envs.hanging import failed_first
from pg_experiments.errors import EnvError, UserError, reason_of
from pg_experiments.evaluating.on_the_way import video_of
from pg_experiments.evaluation import Evaluation, evaluate_each
from pg_experiments.interruption import Stop, heard, unbroken
from pg_experiments.memory import keep_freed_memory
from pg_experiments.monitoring import broken_numbers, columns_of
from pg_experiments.policies.module import PolicyModule
from pg_experiments.progress import Display, Status, make_display
from pg_experiments.recording import EVALUATION, Errors, Recording, together
from pg_experiments.results import RunResult, parameters_sha256
from pg_experiments.resume import env_steps_of, iterations_of
from pg_experiments.run_folder import FolderError
from pg_experiments.runs import DTYPES, Parts, build, stack
from pg_experiments.surroundings import surroundings

WAITING_SECONDS = 10.0  # runs that have ended wait so long for others, to be evaluated as one program


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended the training.

    Attributes:
        results: what every run had reached; their checkpoints are written. Empty when no run had begun, with nothing
            written, and after a second signal, which leaves at once, with whatever was written before.
        number: of the signal.
    """

    def __init__(self, results: list[RunResult], number: int = signal.SIGINT) -> None:
        super().__init__("training was interrupted")
        self.results = results
        self.number = number


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
    folders = {Path(folder).resolve() for folder in run_dirs or []}
    if run_dirs is not None and not len(run_dirs) == len(folders) == len(configs):
        raise UserError(f"train needs one folder per run: {len(configs)} configs, {len(folders)} different folders")
    check_device(configs[0].device)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # with more, sums are split by size and a run would depend on its neighbours
    keep_freed_memory()
    try:
        with heard(), on(configs[0].device):
            try:
                return _Training(configs, run_dirs, display).run()
            except Stop as stop:  # before there was anything to save, or for the second time
                raise Interrupted([], stop.number) from None
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
        paths = [Path(folder) for folder in run_dirs] if run_dirs is not None else None
        self.recording = Recording(configs, paths)
        self.display = display
        self.surroundings = surroundings()
        self.training_seconds = 0.0
        self._parts_on_cpu: Parts | None = None
        self._resume()

    @property
    def parts_on_cpu(self) -> Parts:
        """What policies and pictures of the states are made with, which are on the CPU."""
        if torch.device(self.configs[0].device).type == CPU:
            return self.batch.parts
        if self._parts_on_cpu is None:
            with on(CPU):
                self._parts_on_cpu = build(stack(self.configs[:1]))
        return self._parts_on_cpu

    def _resume(self) -> None:
        """Put every run that is to be resumed where its folder says that it was."""
        for run, result in self.recording.complete.items():
            self.results[run] = result
            self.batch.end(run)
        for run, point in self.recording.points.items():
            self.good[run] = point.state
        if self.recording.points:
            active = self.batch.active
            self.batch = Batch(self.configs, joined([self.good[run] for run in range(len(self.configs))]))
            self.batch.active = active
        for run in self.recording.points:
            if self._has_used_its_steps(run):
                self.batch.end(run)
                self.waiting.append(Ended(run, self.good[run]))
        self.resumed_steps = self._env_steps()

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
        states = {run: rows_of(learned, [row]) for row, run in enumerate(runs)} if len(runs) > 1 else {runs[0]: learned}
        self.training_seconds += time.perf_counter() - begin
        columns = self._columns_of(runs, iteration)
        evaluations = self._evaluate_on_the_way(states, errors)
        videos = {run: self._video(Ended(run, states[run])) for run in evaluations if not errors[run]}
        with unbroken():  # the records of a run say what its state is
            last = [run for run in runs if self._has_used_its_steps(run)]
            counts = {run: (self.batch.iterations[run], self.batch.env_steps[run]) for run in runs}
            self.recording.rows(columns, evaluations, counts, last, errors, videos)
            self._consider(columns, evaluations, states, errors)
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
            self.batch = Batch(self.configs, joined([self.good[run] for run in range(len(self.configs))]))
        self.batch.active = staying

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

    def _consider(
        self,
        columns: Mapping[int, Mapping[str, float]],
        evaluations: Mapping[int, float],
        states: Mapping[int, State],
        errors: Errors,
    ) -> None:
        """Let every folder remember the run's best state: by evaluations where they are on the way, else by returns.

        The returns of an iteration were played with the parameters from before it.
        """
        by_evaluation = self.configs[0].evaluation.every > 0
        for run, numbers in columns.items():
            if errors[run]:
                continue
            if not by_evaluation:
                if math.isnan(numbers["episode/return_mean"]):  # no episode has finished
                    continue
                self.recording.consider(run, numbers["episode/return_mean"], "episode/return_mean", self.good[run])
            elif run in evaluations:
                self.recording.consider(run, evaluations[run], EVALUATION, states[run])

    def _seconds(self, run: int) -> dict[str, float]:
        """What a run has taken so far, of the clock and of training, before an interruption and after."""
        points = self.recording.points
        before = points[run].seconds if run in points else {"wall": 0.0, "training": 0.0}
        return {
            "wall": before["wall"] + time.perf_counter() - self.start,
            "training": before["training"] + self.training_seconds,
        }

    def _evaluate_the_waiting(self) -> None:
        """Evaluate and finish the runs that have ended, many at a time: together they cost little more than one."""
        if not self.waiting or (self.batch.active and time.monotonic() - self.waiting_since < WAITING_SECONDS):
            return
        outcomes = self._evaluate(self.waiting)
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

    def _evaluate(self, ended: Sequence[Ended]) -> list[Evaluation | str]:
        """The deterministic evaluation of each run, from random numbers of its own; what it raised, if it did."""
        states = [moved(state["policy"]["parameters"], here()) for _, state in ended]
        seeds, config = [evaluation_seed(self.configs[run]) for run, _ in ended], self.configs[0]
        parts, episodes = self.batch.parts, config.evaluation.episodes
        return evaluate_each(parts.policy, states, parts.env, seeds, episodes, DTYPES[config.dtype])

    def _video(self, ended: Ended) -> Any:
        """Of one episode of a run's evaluation, if it is asked for; or why there is none."""
        config, parts = self.configs[ended.run], self.parts_on_cpu
        with on(CPU):
            return video_of(config, parts.policy, ended.state["policy"]["parameters"], parts.env)

    def _final_video(self, ended: Ended, outcome: Evaluation | str) -> Any:
        """Of the last evaluation, where that of the last iteration has not been the same."""
        every = self.configs[ended.run].evaluation.every
        was_shown = every and iterations_of(ended.state) % every == 0
        return None if was_shown or isinstance(outcome, str) or ended.run not in self.recording else self._video(ended)

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
            policy=PolicyModule(self.parts_on_cpu.policy, state["policy"]["parameters"]),
        )
        if run in self.recording:
            problem = self.recording.finish(run, result, state, seconds, details, video)
            if problem and status == "completed":
                result.status, result.error = "failed", problem
        elif details:
            print(details)
        self.results[run] = result

    def _columns_of(self, runs: Sequence[int], iteration: Iteration) -> dict[int, dict[str, float]]:
        """Per run its numbers by tag."""
        now = time.perf_counter()
        columns = columns_of(iteration, [now - self.learned[run] for run in runs])
        for row, run in enumerate(runs):
            self.learned[run] = now
            if iteration.episodes.finished[row].any():
                self.returns[run] = columns["episode/return_mean"][row]
        return {run: {tag: values[row] for tag, values in columns.items()} for row, run in enumerate(runs)}

    def _evaluate_on_the_way(self, states: Mapping[int, State], errors: Errors) -> dict[int, float]:
        """The mean returns of the runs for which `evaluation.every` says that it is time."""
        every = self.configs[0].evaluation.every
        due = [run for run in states if run in self.recording and every and self.batch.iterations[run] % every == 0]
        if not due:
            return {}
        outcomes = dict(zip(due, self._evaluate([Ended(run, states[run]) for run in due]), strict=True))
        for run, outcome in outcomes.items():
            errors[run] = errors[run] or (outcome if isinstance(outcome, str) else None)
        return {run: math.nan if isinstance(one, str) else one.return_mean for run, one in outcomes.items()}

    def _env_steps(self) -> int:
        """Played so far, by all runs."""
        played = sum(env_steps_of(state) for run, state in self.good.items() if run not in self.results)
        return played + sum(result.env_steps for result in self.results.values())

    def _show(self, runs: Sequence[int], iteration: Iteration) -> None:
        """Hand the display where every run is."""
        known = [self.returns[run] for run in runs if not math.isnan(self.returns[run])]
        played = self._env_steps()
        failed = {run: result for run, result in self.results.items() if result.status == "failed"}
        lost = sum(self.configs[run].total_env_steps - result.env_steps for run, result in failed.items())
        assert self.display is not None
        self.display.show(
            Status(
                iteration=sorted(self.batch.iterations)[len(self.configs) // 2],
                env_steps=played,
                total_env_steps=sum(config.total_env_steps for config in self.configs) - lost,
                returns=[math.nan if run in failed else value for run, value in enumerate(self.returns)],
                running=len(self.batch.active) + len(self.waiting),
                failed=len(failed),
                return_mean=sum(known) / len(known) if known else math.nan,
                entropy=float(iteration.metrics["policy/entropy"].mean(0)),
                env_steps_per_second=(played - self.resumed_steps) / max(self.training_seconds, 1e-9),
            )
        )
