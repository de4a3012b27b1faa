"""The training loop: configs in, one program for all runs, results out."""

import math
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from pg_experiments import checkpoint
from pg_experiments.algorithms.reinforce import Iteration
from pg_experiments.batch import Batch, parameters_of, row_of
from pg_experiments.config import GROUPS, Config, walk
from pg_experiments.errors import UserError, first_line
from pg_experiments.evaluation import Evaluation, evaluate_policy
from pg_experiments.memory import keep_freed_memory
from pg_experiments.policies.module import PolicyModule
from pg_experiments.progress import Display, Status, make_display
from pg_experiments.records import RunRecords
from pg_experiments.results import RunResult, config_sha256, git_commit, parameters_sha256, versions
from pg_experiments.runs import DTYPES

State = dict[str, Any]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C ended the training. `results` hold what every run had reached; their checkpoints are written."""

    def __init__(self, results: list[RunResult]) -> None:
        super().__init__("training was interrupted")
        self.results = results


def train(configs: Sequence[Config], run_dirs: Sequence[str | Path] | None = None) -> list[RunResult]:
    """Train runs of equal structure as one program. Each run is, bit for bit, the run it would be alone.

    Args:
        configs: from `compose`; they may differ in seed, learning rate and every other per-run number.
        run_dirs: one folder per run, made if need be, for metrics, events, checkpoint and `result.json`; None writes
            nothing.

    Returns:
        One result per config, in their order. A run whose loss, gradient or parameters are no longer finite leaves the
        batch with status `failed`; the others go on unchanged.

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
        return _Training(configs, run_dirs).run()
    finally:
        torch.set_num_threads(threads)


class _Training:
    """One call of `train`: the batch, and for every run its folder, its files and its result.

    `self.ids[row]` is the run that row `row` of the batch belongs to, as an index into the configs. `self.good` is the
    last state that was whole, with the ids of its rows: what an interruption at any moment falls back to.
    """

    def __init__(self, configs: Sequence[Config], run_dirs: Sequence[str | Path] | None) -> None:
        self.start = time.perf_counter()
        self.configs = configs
        self.batch = Batch(configs)
        self.ids = list(range(len(configs)))
        self.good = (self.ids, self.batch.state())
        self.results: dict[int, RunResult] = {}
        self.folders = [Path(folder) for folder in run_dirs] if run_dirs is not None else None
        self.records: list[RunRecords] = []
        self.versions, self.git_commit = versions(), git_commit()
        self.training_seconds = 0.0

    def run(self) -> list[RunResult]:
        """Iterate until every run has left the batch."""
        display = make_display(self.configs[0].logging.progress)
        try:
            if self.folders:
                for run in self.ids:
                    self.records.append(self._open(run))
            while self.ids:
                self._iterate(display)
        except KeyboardInterrupt:
            self._finish_all("interrupted", None)
            raise Interrupted([self.results[run] for run in range(len(self.configs))]) from None
        finally:
            display.close()
            for record in self.records:
                record.close()
        return [self.results[run] for run in range(len(self.configs))]

    def _iterate(self, display: Display) -> None:
        """One iteration of the batch, and what follows from it for every run."""
        begin = time.perf_counter()
        try:
            iteration = self.batch.iterate()
        except Exception as error:  # of a part, such as an environment: nobody can say which run's
            traceback.print_exc()
            self._finish_all("failed", f"{type(error).__name__}: {first_line(error)}")
            self.ids = []
            return
        errors = self._errors(iteration)
        state = self.batch.state()
        self.training_seconds += time.perf_counter() - begin
        self._record(iteration, state, errors, time.perf_counter() - begin)
        for row, reason in enumerate(errors):
            if reason:
                self._finish([row], *self.good, "failed", reason)
        self.good = (self.ids, state)
        display.show(self._status(iteration))
        completed = [row for row, reason in enumerate(errors) if not reason and self._has_used_its_steps(row)]
        self._finish(completed, *self.good, "completed")
        self._save(state)
        staying = [row for row, run in enumerate(self.ids) if run not in self.results]
        if len(staying) < len(self.ids):
            self.ids = [self.ids[row] for row in staying]
            if staying:
                self.batch.keep(staying)
                self.good = (self.ids, self.batch.state())

    def _has_used_its_steps(self, row: int) -> bool:
        return self.batch.env_steps[row] >= self.batch.configs[row].total_env_steps

    def _save(self, state: State) -> None:
        """Checkpoint the runs that go on, when it is time for it."""
        every = self.configs[0].checkpoint.every
        if self.folders and every and self.batch.iterations % every == 0:
            for row, run in enumerate(self.ids):
                if run not in self.results:
                    checkpoint.save(self.folders[run], row_of(state, row))

    def _finish_all(self, status: str, error: str | None) -> None:
        """Finish every run that has no result yet at its last whole state."""
        ids, state = self.good
        self._finish([row for row, run in enumerate(ids) if run not in self.results], ids, state, status, error)

    def _errors(self, iteration: Iteration) -> list[str | None]:
        """Per row, the first number that is not finite, in words."""
        finite = self.batch.finite()
        metrics = {
            tag: values.tolist() for tag, values in iteration.metrics.items() if tag.startswith(("loss/", "gradient/"))
        }
        return [
            next(
                (f"{tag} became {values[row]}" for tag, values in metrics.items() if not math.isfinite(values[row])),
                None if finite[row] else "a parameter is not finite",
            )
            for row in range(len(self.ids))
        ]

    def _finish(
        self, rows: Sequence[int], ids: Sequence[int], state: State, status: str, error: str | None = None
    ) -> None:
        """Evaluate completed runs; write checkpoint and `result.json` of each. `ids` belong to the rows of `state`."""
        runs = [ids[row] for row in rows]
        evaluations = self._evaluate(rows, runs, state) if rows and status == "completed" else [None] * len(rows)
        for row, run, evaluation in zip(rows, runs, evaluations, strict=True):
            own, config = row_of(state, row), self.configs[run]
            env_steps = int(own["env_steps"][0])
            result = RunResult(
                status=status,
                error=error,
                seed=config.seed,
                env_steps=env_steps,
                iterations=own["iterations"],
                episodes=own["iterations"] * self.batch.num_envs,
                wall_seconds=time.perf_counter() - self.start,
                env_steps_per_second=env_steps / max(self.training_seconds, 1e-9),
                runs_in_batch=len(self.configs),
                parameters_sha256=parameters_sha256(parameters_of(own)),
                evaluation=evaluation._asdict() if evaluation else None,
                config_sha256=config_sha256(config),
                versions=self.versions,
                git_commit=self.git_commit,
                run_dir=self.folders[run] if self.folders else None,
                policy=PolicyModule(self.batch.parts.policy, own["policy"]["parameters"]),
            )
            if self.folders:
                if evaluation:
                    self.records[run].final_evaluation(env_steps, evaluation.return_mean)
                self.records[run].close()
                checkpoint.save(self.folders[run], own)
                checkpoint.write_atomically(self.folders[run] / "result.json", result.to_json().encode())
            self.results[run] = result

    def _evaluate(self, rows: Sequence[int], runs: Sequence[int], state: State) -> list[Evaluation]:
        """The deterministic evaluation of the given rows, from random numbers of their own."""
        parameters = {name: tensor[list(rows)] for name, tensor in state["policy"]["parameters"].items()}
        config = self.configs[0]
        return evaluate_policy(
            self.batch.parts.policy,
            parameters,
            self.batch.parts.env,
            [self.configs[run].seed for run in runs],
            config.evaluation.episodes,
            DTYPES[config.dtype],
        )

    def _record(self, iteration: Iteration, state: State, errors: Sequence[str | None], seconds: float) -> None:
        """One row of metrics for every run for which it is time; always for the last iteration of a run."""
        if not self.folders:
            return
        done, every = self.batch.iterations, self.configs[0].evaluation.every
        returns, lengths = iteration.episodes
        columns = {
            "episode/return_mean": returns.mean(1).tolist(),
            "episode/return_std": returns.std(1, correction=0).tolist(),
            "episode/length_mean": lengths.double().mean(1).tolist(),
            **{tag: values.tolist() for tag, values in iteration.metrics.items()},
            "time/env_steps_per_second": [count / seconds for count in iteration.env_steps],
        }
        evaluating = every > 0 and done % every == 0
        if evaluating:
            evaluations = self._evaluate(range(len(self.ids)), self.ids, state)
            columns["evaluation/return_mean"] = [evaluation.return_mean for evaluation in evaluations]
        for row, run in enumerate(self.ids):
            due = evaluating or done % self.configs[run].logging.every == 0
            if due or errors[row] or self._has_used_its_steps(row):
                numbers = {tag: values[row] for tag, values in columns.items()}
                self.records[run].write(done, self.batch.env_steps[row], numbers)

    def _status(self, iteration: Iteration) -> Status:
        played = sum(self.batch.env_steps) + sum(result.env_steps for result in self.results.values())
        return Status(
            iteration=self.batch.iterations,
            env_steps=played,
            total_env_steps=sum(config.total_env_steps for config in self.configs),
            runs=len(self.configs),
            running=len(self.ids),
            return_mean=float(iteration.episodes.episode_return.mean((0, 1))),
            entropy=float(iteration.metrics["policy/entropy"].mean(0)),
            env_steps_per_second=played / max(self.training_seconds, 1e-9),
        )

    def _open(self, run: int) -> RunRecords:
        """Make a run's folder and its files."""
        assert self.folders is not None
        folder, config = self.folders[run], self.configs[run]
        if (folder / "result.json").exists() or (folder / checkpoint.LAST).exists():
            raise UserError(f"{folder}: holds a run already; choose another folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            saved = folder / ".hydra" / "config.yaml"
            if not saved.exists():  # Hydra has written it already, unless training was called from Python
                saved.parent.mkdir(exist_ok=True)
                saved.write_text(OmegaConf.to_yaml(OmegaConf.create(asdict(config))))
            records = RunRecords(folder, config.logging.tensorboard)
        except OSError as error:
            raise UserError(f"{folder}: cannot write the run's folder ({error.strerror})") from error
        records.hyperparameters(_hyperparameters(config))
        return records


def _hyperparameters(config: Config) -> dict[str, Any]:
    """What distinguishes runs in TensorBoard's HParams tab: the class of every part, and every per-run number."""
    values = {key: (value, metadata) for key, value, metadata in walk(config)}
    parts = {group: values[f"{group}._target_"][0].rpartition(".")[2] for group in GROUPS}
    numbers = {key: value for key, (value, metadata) in values.items() if metadata.get("per_run") and value is not None}
    return parts | numbers
