"""The grid sweep: every job is checked before anything is made; what is complete is kept; the rest is launched."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from pg_experiments.composition import one_line
from pg_experiments.errors import ConfigError, RunFailedError, UserError
from pg_experiments.memory import seldom_collected
from pg_experiments.progress import say
from pg_experiments.report import report
from pg_experiments.reports.sweep_events import write_sweep_events
from pg_experiments.sweeps.backends.interface import check as check_launcher
from pg_experiments.sweeps.folder import check_unchanged, locked, make_ready, record_sweep, split_kept
from pg_experiments.sweeps.grouping import check_parts
from pg_experiments.sweeps.jobs import Composer, Job


def sweep(
    context: HydraContext, master: DictConfig, launcher: Launcher, arguments: Sequence[str], chunk: int | None
) -> list[list[JobReturn]]:
    """Train the whole grid, with any launcher.

    Args:
        context: Hydra's.
        master: the sweep's own config.
        launcher: set up; ours takes all jobs as they were composed here, another one their overrides.
        arguments: overrides, some of which are several values.
        chunk: jobs to launch at a time; None: all.

    Returns:
        What the launcher returned, launch by launch.

    Raises:
        UserError: before any work, for the first job that cannot be.
        RunFailedError: at the end, when a run failed.
    """
    overrides = _parsed(context, arguments)
    with seldom_collected():
        jobs = check_jobs(context.config_loader, master, overrides)
    sweep_dir = Path(str(master.hydra.sweep.dir))
    swept = [_varied_name(override) for override in overrides if override.is_sweep_override()]
    check_unchanged(sweep_dir, jobs, swept)
    kept, missing = split_kept(sweep_dir, jobs)
    own, settings = getattr(launcher, "launch_jobs", None), getattr(launcher, "settings", None)
    if own and settings:
        check_launcher(settings)
    if master.sweep.preview:
        from pg_experiments.sweeps.preview import preview

        preview(sweep_dir, kept, missing, settings)
        return []
    sweep_dir.mkdir(parents=True, exist_ok=True)
    returns: list[list[JobReturn]] = []
    with locked(sweep_dir):
        kept, missing = split_kept(sweep_dir, jobs)  # again: another process may have finished some in the meantime
        OmegaConf.save(master, sweep_dir / "multirun.yaml")
        record_sweep(sweep_dir, swept)
        if any(job.config.logging.tensorboard for job in missing):
            write_sweep_events(sweep_dir, [job.config for job in jobs])
        if kept:
            say(f"{len(kept)} of {len(jobs)} jobs are complete already in {sweep_dir} and are kept")
        size = chunk or max(1, len(missing))
        try:
            for first in range(0, len(missing), size):
                part = missing[first : first + size]
                if own:
                    returns.append(own(part, len(kept)))
                else:
                    for job in part:
                        make_ready(job.folder, job.config)
                    returns.append(list(launcher.launch([job.overrides for job in part], initial_job_idx=first)))
        except KeyboardInterrupt:
            again = "" if master.sweep.name else f" with hydra.sweep.dir={sweep_dir}"
            say(f"interrupted; the same command{again} finishes what is missing")
            raise
        try:
            report(sweep_dir)
        except (OSError, UserError) as error:  # a full disk, or nothing left to report on
            say(f"no report on {sweep_dir}: {error}")
    _raise_for_failures(missing, [answer for launch in returns for answer in launch])
    return returns


def check_jobs(loader: ConfigLoader, master: DictConfig, overrides: Sequence[Override]) -> list[Job]:
    """Compose every job of the grid, and build the parts of every structure among them.

    Raises:
        UserError: when there is no job, two share a folder or are equal, or one cannot be used.
    """
    for override in overrides:
        if override.is_sweep_override() and override.is_discrete_sweep() and not list(override.sweep_string_iterator()):
            raise UserError(f"{override.input_line}: gives no value, so the sweep has 0 jobs")
    try:
        (grid,) = BasicSweeper.split_arguments(list(overrides), None)
    except HydraException as error:
        text = next((item.input_line for item in overrides if item.is_sweep_override()), "")
        raise UserError(f"{text}: hydra/sweeper=grid takes lists and ranges; hydra/sweeper=optuna searches") from error
    _check_name(master)
    composer = Composer(loader, master)
    jobs = [composer(job, number) for number, job in enumerate(grid)]
    taken: dict[Path, Job] = {}
    configs: dict[str, Job] = {}
    for job in jobs:
        if job.folder in taken:
            raise UserError(
                f"{job.name}: jobs {taken[job.folder].number} and {job.number} of the sweep would share this folder; "
                "give every job its own values (or its own hydra.sweep.subdir)"
            )
        same = configs.setdefault(json.dumps(asdict(job.config), default=str), job)
        if same is not job:
            raise UserError(f"{job.name}: is the same run as {same.name} (jobs {same.number} and {job.number})")
        taken[job.folder] = job
    check_parts(jobs)
    return jobs


def _parsed(context: HydraContext, arguments: Sequence[str]) -> list[Override]:
    try:
        return OverridesParser.create(config_loader=context.config_loader).parse_overrides(list(arguments))
    except HydraException as error:
        raise one_line(error, arguments) from error


def _varied_name(override: Override) -> str:
    """The dotted key that an override sets, or that its group fills."""
    return str(override.package or override.key_or_group.replace("/", "."))


def _check_name(master: DictConfig) -> None:
    name = master.sweep.name
    if name is not None and not re.fullmatch(r"[\w.,=+-]*\w[\w.,=+-]*", str(name)):
        raise ConfigError("sweep.name", name, "must be the name of a folder: letters, digits and . , = + - _")


def _raise_for_failures(jobs: Sequence[Job], answers: Sequence[JobReturn]) -> None:
    """Name every failed job and its reason."""
    reasons = {
        job.name: str(answer._return_value)  # `return_value` would print a line of Hydra's and raise it
        for job, answer in zip(jobs, answers, strict=True)
        if answer.status != JobStatus.COMPLETED
    }
    if reasons:
        say(f"\n{len(reasons)} of {len(jobs)} runs failed:")
        for name, reason in reasons.items():
            say(f"  {name}: {reason}")
        raise RunFailedError(f"{len(reasons)} runs failed")
