"""Files that are whole at any moment. Imports no torch."""

import contextlib
import os
import shutil
from pathlib import Path

WRITTEN_BY_A_RUN = ("metrics.csv", "train.log", "result.json", "checkpoints", "events.out.tfevents.*", "*.tmp")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that at any moment, a power cut included, it is either the old or the new one, whole.

    Never through a symbolic link.
    """
    temporary = write_temporary(path, content)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_temporary(path: Path, content: bytes) -> Path:
    """Write what is to become `path` beside it and see it safely on the disk; nothing is left when that fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        with temporary.open("xb") as file:  # not "wb": somebody may have left a link of that name
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    return temporary


def sync_folder(folder: Path) -> None:
    """See the names in a folder safely on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def clear_run(folder: Path) -> None:
    """Remove what an earlier try of a run has left, but for its config."""
    for pattern in WRITTEN_BY_A_RUN:
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
