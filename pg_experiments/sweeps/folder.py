"""A sweep's folder: which jobs are complete, whether their config is the same, and that nobody else writes to it."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pg_experiments.config import FREE_KEYS, Config, config_sha256, differences
from pg_experiments.errors import UserError
from pg_experiments.files import clear_run, write_atomically
from pg_experiments.results import read_result
from pg_experiments.saved_config import load_config
from pg_experiments.sweeps.jobs import Job
from pg_experiments.trust import modules_to_trust

SWEEP = "sweep.json"
LOCK = ".lock"
MOST_DIFFERENCES = 4  # that one message shows


def split_kept(sweep_dir: Path, jobs: Sequence[Job]) -> tuple[list[Job], list[Job]]:
    """The jobs that are complete already, wherever in the sweep's folder, and those that are to run."""
    results = [read_result(path.parent) for path in sweep_dir.glob("**/result.json")]
    complete = {result.get("config_sha256") for result in results if result and result.get("status") == "completed"}
    kept = [job for job in jobs if config_sha256(job.config) in complete]
    missing = [job for job in jobs if config_sha256(job.config) not in complete]
    return kept, missing


def check_unchanged(sweep_dir: Path, jobs: Sequence[Job], swept: Sequence[str]) -> None:
    """Refuse to add runs of another config to a sweep.

    The jobs may differ from those in the folder in the keys that the sweep varies, now or then, and in `logging`,
    `checkpoint` and `sweep`.

    Args:
        swept: keys and groups that vary; a group stands for everything in it, `experiment` for everything.

    Raises:
        UserError: names the keys, and their values there and now.
    """
    configs = sorted(sweep_dir.resolve().glob("**/.hydra/config.yaml"))
    saved = {path.parent.parent: path for path in configs if _is_whole(path)}
    if not saved or not jobs:
        return
    varying = tuple(f"{key}." for key in {*swept, *_recorded_keys(sweep_dir)})
    pairs: list[tuple[Path, Job, tuple[str, ...]]] = [
        (saved[job.folder], job, ()) for job in split_kept(sweep_dir, jobs)[1] if job.folder in saved
    ]
    if "experiment." not in varying:
        pairs.append((next(iter(saved.values())), jobs[0], varying))
    for path, job, ignored in pairs:
        node = OmegaConf.load(path)
        before, now = _flat(OmegaConf.to_container(node)), _flat(job.values)
        values = _flat(asdict(job.config))  # what the environment gave, a run's folder holds as its value
        found = [
            f"{key} is {_shown(node, key, before)} there and {values.get(key, now.get(key, 'not set'))} now"
            for key in [*now, *(key for key in before if key not in now)]
            if before.get(key) not in (now.get(key), values.get(key))
            and not f"{key}.".startswith((*FREE_KEYS, *ignored))
        ]
        if found:
            more = f" and {len(found) - MOST_DIFFERENCES} more" if len(found) > MOST_DIFFERENCES else ""
            raise UserError(
                f"{sweep_dir}: holds runs of another config: {', '.join(found[:MOST_DIFFERENCES])}{more}; "
                "give the sweep another name, or sweep over the key"
            )


def _shown(node: Any, key: str, values: Mapping[str, Any]) -> Any:
    """A saved value for a message: that of the key that it refers to, where it does."""
    try:
        return OmegaConf.select(node, key, throw_on_resolution_failure=True) if key in values else "not set"
    except OmegaConfBaseException:
        return values[key]


def record_sweep(sweep_dir: Path, swept: Sequence[str]) -> None:
    """Note in `sweep.json` which keys the sweep varies, with those of earlier times."""
    keys = sorted({*swept, *_recorded_keys(sweep_dir)})
    write_atomically(sweep_dir / SWEEP, (json.dumps({"swept": keys}, indent=2) + "\n").encode())


def make_ready(job_folder: Path, config: Config) -> None:
    """Remove what an earlier try of a job has left, unless the job can be resumed from it.

    A failed run begins from the start, and so does one of which the folder does not say that it is the same.
    """
    result = read_result(job_folder)
    if (result and result.get("status") == "failed") or not _is_same(job_folder, config):
        clear_run(job_folder)


def _is_same(job_folder: Path, config: Config) -> bool:
    try:
        return not differences(load_config(job_folder, modules_to_trust(asdict(config))), config)
    except UserError:  # it has no config, or a damaged one
        return False


def _is_whole(config: Path) -> bool:
    """Whether nobody was killed while writing it: `overrides.yaml` is written after it, and both say something."""
    files = (config, config.with_name("overrides.yaml"))
    return all(file.is_file() and file.stat().st_size > 0 for file in files)


@contextmanager
def locked(sweep_dir: Path) -> Iterator[None]:
    """Hold the sweep's folder; the lock falls when the process ends, however it ends.

    Raises:
        UserError: when another process holds it.
    """
    with (sweep_dir / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise UserError(f"{sweep_dir}: this sweep is running already (process {holder})") from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _recorded_keys(sweep_dir: Path) -> list[str]:
    try:
        return [str(key) for key in json.loads((sweep_dir / SWEEP).read_text())["swept"]]
    except (OSError, ValueError, TypeError, KeyError):
        return []


def _flat(container: Any, prefix: str = "") -> Mapping[str, Any]:
    """Nested dictionaries as one, by dotted key; interpolations stay as they are written."""
    flat: dict[str, Any] = {}
    for key, value in container.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
