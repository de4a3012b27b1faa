"""Files of a folder that somebody else may have made: read from inside the folder only, and only so much of them."""

import os
import stat
from pathlib import Path

from pg_experiments.errors import UserError


def inside(root: Path, path: Path) -> Path:
    """The same path, once it is known that following it, symbolic links and all, does not lead out of the folder.

    Args:
        root: the folder that the user gave; it may itself be a link.
        path: of something in it. Where it comes from a file's content, this is the check that it needs.

    Raises:
        UserError: when it leads out.
    """
    real_root, real = Path(os.path.realpath(root)), Path(os.path.realpath(path))
    if real != real_root and real_root not in real.parents:
        raise UserError(f"{path}: leads out of {root}, and nothing outside of that folder is used")
    return path


def size_inside(root: Path, path: Path) -> int:
    """Bytes of a regular file in the folder.

    Raises:
        UserError: when it leads out of the folder, or is no regular file: a pipe would be waited for for ever.
        OSError: when it cannot be looked at, `FileNotFoundError` when it is not there.
    """
    status = inside(root, path).stat()
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path}: is no regular file")
    return status.st_size


def read_inside(root: Path, path: Path, most_bytes: int) -> bytes:
    """The content of a file in the folder.

    Raises:
        UserError: when it leads out of the folder, is no regular file, or is larger than `most_bytes`.
        OSError: when it cannot be read.
    """
    size = size_inside(root, path)
    if size > most_bytes:
        raise UserError(f"{path}: has {size_text(size)}, more than the {size_text(most_bytes)} that are read of it")
    with path.open("rb") as file:
        return file.read(most_bytes)


def size_text(size: float) -> str:
    """A number of bytes for people: `12 bytes`, `3.4 MB`, `10.7 GB`."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size:.0f} bytes"
