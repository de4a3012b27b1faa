"""The checkpoints of a run: the newest, those before it, and the best; tensors and plain numbers only, with a checksum.

`checkpoints/last.pt` is the newest one. The one that it replaces stays as `iteration_N.pt`, so that there are two: a
file that a failing disk has damaged is found by its checksum, and the one before is used. `best.pt` is the state with
the highest return so far. All of them are torch's own files, and `torch.load` reads them; the checksum is the comment
at the end of what is a ZIP archive.
"""

import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pg_experiments.checkpoint_check import check_checkpoint
from pg_experiments.errors import UserError, first_line, nearest
from pg_experiments.files import sync_folder, write_atomically, write_temporary
from pg_experiments.seal import problem_of_seal, sealed

FOLDER = Path("checkpoints")
LAST, BEST = FOLDER / "last.pt", FOLDER / "best.pt"


class DamagedError(UserError):
    """A checkpoint that is not what was written. The message names the file."""


def save(run_dir: Path, state: Mapping[str, Any], before: int | None = None, keep: int = 1) -> None:
    """Write `checkpoints/last.pt`, atomically; only when it is safe, old ones are removed.

    Args:
        run_dir: the run's folder.
        state: what to write.
        before: the iteration of the `last.pt` that is there and stays as `iteration_N.pt`; None: it is replaced.
        keep: how many of those stay.
    """
    path = run_dir / LAST
    path.parent.mkdir(exist_ok=True)
    temporary = write_temporary(path, sealed(state))
    try:
        if before is not None and path.exists():
            _keep(path, path.with_name(f"iteration_{before:09d}.pt"))
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    prune(run_dir, keep)


def save_best(run_dir: Path, state: Mapping[str, Any]) -> None:
    """Write `checkpoints/best.pt`, atomically."""
    path = run_dir / BEST
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, sealed(state))


def _keep(path: Path, numbered: Path) -> None:
    """Give a file a second name, so that it never lacks the first; where the file system cannot, a new name."""
    numbered.unlink(missing_ok=True)
    try:
        os.link(path, numbered)
    except OSError:
        path.replace(numbered)


def prune(run_dir: Path, keep: int) -> None:
    """Remove all `iteration_N.pt` but the newest `keep`."""
    for path in numbered(run_dir)[keep:]:
        path.unlink(missing_ok=True)


def numbered(run_dir: Path) -> list[Path]:
    """Every `iteration_N.pt` there is, the newest first."""
    paths = [path for path in (run_dir / FOLDER).glob("iteration_*.pt") if re.fullmatch(r"iteration_\d+", path.stem)]
    return sorted(paths, key=lambda path: int(path.stem.partition("_")[2]), reverse=True)


def candidates(run_dir: Path) -> list[Path]:
    """What a run can be continued from, the newest first; `last.pt` also when it is missing and others are there."""
    older = numbered(run_dir)
    return [run_dir / LAST, *older] if older or (run_dir / LAST).exists() else []


def named(run_dir: Path, name: str) -> list[Path]:
    """The files that a checkpoint's name stands for, the first choice first; none when there is none."""
    path = run_dir / FOLDER / f"{name}.pt"
    if name == "last":
        return candidates(run_dir)
    return [path] if path.is_file() and path.parent == run_dir / FOLDER else []


def missing(run_dir: Path, name: str) -> UserError:
    """The error for a checkpoint that is not there."""
    others = sorted(path.stem for path in (run_dir / FOLDER).glob("*.pt"))
    if "last" in others:
        return UserError(f"{run_dir}: no checkpoint {name}; there are {', '.join(others)}.{nearest(name, others)}")
    return UserError(f"{run_dir}: not a finished run's folder; it has no {FOLDER / name}.pt")


def load(run_dir: Path, name: str = "last", needed: int | None = None) -> dict[str, Any]:
    """Read a checkpoint as tensors and plain numbers: no code in it is run.

    Args:
        run_dir: the run's folder.
        name: `last`, `best` or `iteration_N`. When `last` is damaged, the one before is used, and a line on stderr says
            so.
        needed: bytes of the parameters of policy and baseline: a file that claims far more is refused unread. None: it
            is the user's own file.

    Raises:
        UserError: when there is none, or none can be read.
    """
    paths = named(run_dir, name)
    if not paths:
        raise missing(run_dir, name)
    damaged: list[DamagedError] = []
    for path in paths:
        try:
            if needed is not None:
                check(run_dir, path, needed)
            state = read(path)
        except DamagedError as error:
            damaged.append(error)
            continue
        say(notes(damaged, path))
        return state
    raise damaged[0]


def notes(damaged: Sequence[DamagedError], used: Path | None) -> list[str]:
    """What a person is told about checkpoints that were passed over."""
    instead = f"{used.name} is used instead" if used else "there is no other"
    return [f"{error}; {instead}" for error in damaged]


def say(lines: Sequence[str]) -> None:
    """Put lines on stderr."""
    import sys

    for line in lines:
        print(f"note: {line}", file=sys.stderr, flush=True)


def check(run_dir: Path, path: Path, needed: int) -> None:
    """Raise a `DamagedError` when a file is none of this run, before memory is taken for it."""
    try:
        check_checkpoint(run_dir, path, needed)
    except FileNotFoundError:
        raise DamagedError(f"{path}: cannot be read (it is missing)") from None
    except UserError as error:
        raise DamagedError(str(error)) from error


def read(path: Path) -> dict[str, Any]:
    """Read one file.

    Raises:
        DamagedError: when it is missing, or not what was written.
        UserError: when the system does not let us read it.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DamagedError(f"{path}: cannot be read (it is missing)") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if problem := problem_of_seal(content):
        raise DamagedError(f"{path}: cannot be read ({problem})")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds
        raise DamagedError(f"{path}: cannot be read ({type(error).__name__}: {first_line(error)})") from error
    policy = state.get("policy") if isinstance(state, dict) else None
    if not isinstance(policy, dict) or not isinstance(policy.get("parameters"), dict):
        raise DamagedError(f"{path}: cannot be read (it is not the checkpoint of a run)")
    return state
