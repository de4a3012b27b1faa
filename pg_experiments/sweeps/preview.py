"""`sweep.preview=true`: what a sweep would do, what it would take, and nothing started."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from pg_experiments.batch import Batch
from pg_experiments.devices import on
from pg_experiments.progress import duration
from pg_experiments.sizing import available_bytes
from pg_experiments.sweeps.backends.interface import expected_workers
from pg_experiments.sweeps.grouping import Plan
from pg_experiments.sweeps.jobs import Job
from pg_experiments.sweeps.launch import plan_for
from pg_experiments.sweeps.sizing import WORKER_BYTES, run_bytes

TRIAL_SECONDS = 2.0  # of each group, to measure its speed
MOST_JOBS = 60  # that are listed one by one


def preview(sweep_dir: Path, kept: Sequence[Job], missing: Sequence[Job], settings: Mapping[str, Any] | None) -> None:
    """Print the jobs, the groups and batches, and an estimate of memory and time. Makes no file and no folder.

    Args:
        sweep_dir: where the sweep would be.
        kept, missing: jobs that are complete there, and that would be trained.
        settings: of the launcher, when it is ours.
    """
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"preview of a sweep of {len(kept) + len(missing)} in {sweep_dir}; nothing is started", markup=False)
    console.print(f"{len(kept)} complete already and kept, {len(missing)} to train:", markup=False)
    for job in missing[:MOST_JOBS]:
        console.print(f"  {job.number:3d}  {job.name}", markup=False)
    if len(missing) > MOST_JOBS:
        console.print(f"  ... and {len(missing) - MOST_JOBS} more", markup=False)
    if settings is None or not missing:
        return
    plan = plan_for(missing, settings, *expected_workers(settings, len(missing)))
    console.print(plan.line(), markup=False)
    for number, group in enumerate(plan.groups):
        sizes = [len(batch) for batch in plan.batches if batch[0] in group]
        console.print(
            f"group {number}: {len(group)} like {group[0].name}, in batches of {', '.join(map(str, sizes))}",
            markup=False,
        )
    console.print(estimate(plan), markup=False)


def estimate(plan: Plan) -> str:
    """Peak memory of all workers at the longest episodes, and the time at the speed of a short trial, in words."""
    biggest = sorted((len(batch) * run_bytes(batch[0].config) for batch in plan.batches), reverse=True)
    memory = sum(biggest[: plan.workers]) + plan.workers * WORKER_BYTES
    seconds = 0.0
    for group in plan.groups:
        size = next(len(batch) for batch in plan.batches if batch[0] in group)
        steps = sum(job.config.total_env_steps for job in group)
        seconds += steps / _env_steps_per_second(group[:size]) / plan.workers
    return (
        f"estimated memory: at most {memory / 1e9:.1f} GB for {plan.workers} workers "
        f"({available_bytes(plan.batches[0][0].config.device) / 1e9:.1f} GB are available)\n"
        f"estimated time: {duration(seconds)} of training, at the speed of the first iterations, measured just now; "
        "episodes that grow longer make it faster"
    )


def _env_steps_per_second(batch: Sequence[Job]) -> float:
    """Of one worker with this batch, in its first iterations."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with on(batch[0].config.device):
            trial = Batch([job.config for job in batch])
            trial.iterate()  # the first one is slower: memory is taken and kernels are chosen
            before, begin = sum(trial.env_steps), time.perf_counter()
            while time.perf_counter() - begin < TRIAL_SECONDS:
                trial.iterate()
            return (sum(trial.env_steps) - before) / (time.perf_counter() - begin)
    finally:
        torch.set_num_threads(threads)
