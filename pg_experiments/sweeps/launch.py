"""The batched launcher: groups jobs, trains them as batches on workers, and gives every job its result."""

import shutil
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext
from omegaconf import DictConfig

from pg_experiments.baseline_config import without_effect
from pg_experiments.config import resuming
from pg_experiments.errors import ConfigError, RunFailedError, ctrl_c_stays_itself, first_line
from pg_experiments.memory import seldom_collected
from pg_experiments.progress import say
from pg_experiments.results import read_result
from pg_experiments.sweeps.backends.interface import Backend, Results, WorkerDiedError, make_backend
from pg_experiments.sweeps.backends.interface import check as check_launcher
from pg_experiments.sweeps.display import SweepDisplay, SweepStatus, status_of
from pg_experiments.sweeps.folder import check_unchanged, locked, make_ready
from pg_experiments.sweeps.grouping import Plan, check_parts, group_by_structure, make_plan
from pg_experiments.sweeps.jobs import Composer, Job, write_hydra_folder
from pg_experiments.sweeps.sizing import batch_limit
from pg_experiments.sweeps.trials import is_search, mean_of_seeds, searched_keys, with_seeds
from pg_experiments.sweeps.worker import Task

POLL_SECONDS = 0.5


def launch(
    context: HydraContext,
    master: DictConfig,
    settings: Mapping[str, Any],
    job_overrides: Sequence[Sequence[str]],
    first_number: int,
) -> list[JobReturn]:
    """Hydra's `Launcher.launch`, for sweepers that know nothing of us: compose, check and train.

    A search's jobs are trials, each of which is trained with every seed of `sweep.tuning_seeds`.
    """
    if master.sweep.preview:
        raise ConfigError("sweep.preview", True, "is for hydra/sweeper=grid; a search does not know its jobs yet")
    seeds = list(master.sweep.tuning_seeds) if is_search(master) else []
    runs = with_seeds(job_overrides, seeds) if is_search(master) else [list(job) for job in job_overrides]
    composer = Composer(context.config_loader, master)
    first = first_number * max(1, len(seeds))
    different = dict.fromkeys(tuple(overrides) for overrides in runs)  # a search may ask for the same trial twice
    with seldom_collected():
        jobs = [composer(overrides, first + index) for index, overrides in enumerate(different)]
        check_parts(jobs)
    sweep_dir = jobs[0].sweep_dir
    if seeds:
        check_unchanged(sweep_dir, jobs, [*searched_keys(master), "seed"])
    check_launcher(settings)
    sweep_dir.mkdir(parents=True, exist_ok=True)
    with locked(sweep_dir):
        answer_of = dict(zip(different, launch_jobs(jobs, settings), strict=True))
    answers = [answer_of[tuple(overrides)] for overrides in runs]
    if not seeds:
        return answers
    name_of = {overrides: job.name for overrides, job in zip(different, jobs, strict=True)}
    names, each = [name_of[tuple(overrides)] for overrides in runs], len(seeds)
    parts = [slice(index * each, (index + 1) * each) for index in range(len(job_overrides))]
    return [mean_of_seeds(trial, names[part], answers[part]) for trial, part in zip(job_overrides, parts, strict=True)]


def launch_jobs(jobs: Sequence[Job], settings: Mapping[str, Any], kept: int = 0) -> list[JobReturn]:
    """Train jobs as batches on workers.

    Args:
        jobs: to train; what their folders hold of them is continued.
        settings: of `hydra.launcher`.
        kept: jobs of the sweep that are complete already, for the display.

    Returns:
        One per job, in their order. The value of a completed one is its final mean return; reading that of a failed one
        raises `RunFailedError`.

    Raises:
        UserError: before any work, when the launcher's settings cannot be used.
        KeyboardInterrupt: on Ctrl-C, when all workers have saved what they had.
    """
    backend = make_backend(settings, len(jobs), jobs[0].sweep_dir)
    try:
        plan = plan_for(jobs, settings, backend.spread, backend.per_machine)
        plan = replace(plan, workers=min(backend.workers, len(plan.batches)))
        say(plan.line())
        notes = (without_effect(job.config.baseline, job.config.algorithm) for job in jobs)
        if note := next(filter(None, notes), ""):
            say(note)
        results = _Launch(jobs, backend, settings["retries"], kept).run(plan)
    finally:
        backend.close()
        shutil.rmtree(_progress_folder(jobs[0]), ignore_errors=True)
    return [_job_return(job, results[job.number]) for job in jobs]


def plan_for(jobs: Sequence[Job], settings: Mapping[str, Any], workers: int, per_machine: int) -> Plan:
    """How the jobs would be spread over so many workers, so many of which share the memory of a machine."""
    limit = settings["max_runs_per_batch"]
    groups = group_by_structure(jobs)
    given = [(limit, "hydra.launcher.max_runs_per_batch")] * len(groups) if limit else None
    return make_plan(groups, workers, given or [batch_limit(group[0].config, per_machine) for group in groups])


class _Launch:
    """One launch: batches wait, are trained, and leave results; `results` is by the number of the job."""

    def __init__(self, jobs: Sequence[Job], backend: Backend, retries: int, kept: int) -> None:
        self.jobs = jobs
        self.backend = backend
        self.retries = retries
        self.kept = kept
        self.results: dict[int, dict[str, Any]] = {}
        self.deaths: dict[int, int] = {}  # of workers that had only this run
        self.stopping = False
        self.tasks: dict[Future[Results], Task] = {}
        self.batches: dict[Task, list[Job]] = {}
        self.reports = 0
        self.name = uuid.uuid4().hex  # no report of a killed launch, or of a worker that outlived it, is one of this
        self.begin = time.monotonic()
        self.first: tuple[float, int] | None = None  # when env steps were first reported, and how many

    def run(self, plan: Plan) -> dict[int, dict[str, Any]]:
        """Train every batch of the plan."""
        waiting = deque(plan.batches)
        display = SweepDisplay(self.jobs[0].config.logging.progress)
        try:
            while waiting or self.tasks:
                while waiting and len(self.tasks) < self.backend.workers:
                    with ctrl_c_stays_itself():
                        self._start(waiting.popleft())
                waiting.extend(self._collect())
                display.show(self._status())
        except KeyboardInterrupt:
            self._stop()
            raise
        finally:
            display.close(self._status())
        return self.results

    def _start(self, batch: list[Job]) -> None:
        """Make the folders of a batch and hand it to a worker."""
        ready = []
        for job in batch:
            try:
                make_ready(job.folder, job.config)
                write_hydra_folder(job)
                ready.append(job)
            except OSError as error:
                reason = f"cannot write {error.filename or job.folder}: {error.strerror}"
                self.results[job.number] = {"status": "failed", "error": reason}
        if not ready:
            return
        self.reports += 1
        reports = _progress_folder(ready[0])
        with suppress(OSError):  # without it only the display knows less
            reports.mkdir(exist_ok=True)
        configs = [resuming(job.config) for job in ready]
        task = Task(configs, [job.folder for job in ready], reports / f"{self.name}-{self.reports}.json")
        self.batches[task] = ready
        self.tasks[self.backend.submit(task)] = task

    def _collect(self) -> list[list[Job]]:
        """Wait a moment for batches to end; what a dead worker left undone comes back, in smaller batches."""
        again: list[list[Job]] = []
        ended, _ = wait(self.tasks, POLL_SECONDS, FIRST_COMPLETED)
        for future in ended:
            task = self.tasks.pop(future)
            batch = self.batches.pop(task)
            task.report.unlink(missing_ok=True)
            error = future.exception()
            if error is None:
                pairs = list(zip(batch, future.result(), strict=True))
                if not self.stopping and any(result["status"] == "interrupted" for _, result in pairs):
                    error = WorkerDiedError("its process was asked to end")  # by somebody else than this launcher
                else:
                    self.results |= {job.number: result for job, result in pairs}
            if error:
                again += self._after_death(batch, error)
        return again

    def _after_death(self, batch: Sequence[Job], error: BaseException) -> list[list[Job]]:
        """Keep what the dead worker had completed; the batches to try again.

        A batch comes back in halves: what was too large for the memory fits when it is smaller, and a run that kills
        its worker is alone in the end. Only then its tries are counted, so that no other run fails with it.
        """
        left = []
        for job in batch:
            result = read_result(job.folder)
            if result and result.get("status") in ("completed", "failed"):
                self.results[job.number] = result
            elif self.stopping:
                self.results[job.number] = result or {"status": "interrupted", "error": None}
            elif not isinstance(error, WorkerDiedError):
                reason = f"{type(error).__name__}: {first_line(error)}"
                self.results[job.number] = {"status": "failed", "error": reason}
            else:
                left.append(job)
        if left and len(batch) == 1:
            number = batch[0].number
            self.deaths[number] = self.deaths.get(number, 0) + 1
            if self.deaths[number] > self.retries:
                tries = f" ({self.deaths[number]} times)" if self.deaths[number] > 1 else ""
                self.results[number] = {"status": "failed", "error": f"{error}{tries}"}
                return []
        if left:
            runs = f"its {len(left)} unfinished runs" if len(left) > 1 else left[0].name
            say(f"a worker is lost: {error}; {runs} will be trained again")
        half = -(-len(left) // 2)
        return [part for part in (left[:half], left[half:]) if part]

    def _stop(self) -> None:
        """Let all workers save what they have; a second Ctrl-C leaves at once."""
        say("stopping: the runs save what they have; Ctrl-C again leaves at once")
        self.stopping = True
        self.backend.stop()
        while self.tasks:
            self._collect()

    def _status(self) -> SweepStatus:
        status = status_of(self.jobs, self.kept, self.batches, self.results, self.begin)
        now = time.monotonic()
        if self.first is None and status.env_steps:
            self.first = now, status.env_steps
        if self.first and status.env_steps > self.first[1]:
            status.seconds, status.steps_before = now - self.first[0], self.first[1]
        return status


def _progress_folder(job: Job) -> Path:
    """Where the workers say how far they are."""
    return job.sweep_dir / ".progress"


def _job_return(job: Job, result: Mapping[str, Any]) -> JobReturn:
    """What Hydra wants of a job."""
    answer = JobReturn()
    answer.overrides = job.overrides
    answer.cfg = job.composed
    answer.working_dir, answer.task_name = str(Path.cwd()), str(job.base.node.hydra.job.name)
    if result["status"] == "completed":
        answer.status = JobStatus.COMPLETED
        answer.return_value = result["evaluation"]["return_mean"]
    else:
        answer.status = JobStatus.FAILED
        answer.return_value = RunFailedError(result["error"] or result["status"])
    return answer
