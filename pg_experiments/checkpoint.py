"""Checkpoints: one file per run, holding tensors and plain numbers only."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pg_experiments.checkpoint_check import check_checkpoint
from pg_experiments.errors import UserError, first_line
from pg_experiments.files import write_atomically

LAST = Path("checkpoints") / "last.pt"


def save(run_dir: Path, state: Mapping[str, Any]) -> None:
    """Write `checkpoints/last.pt`, atomically."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    path = run_dir / LAST
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, buffer.getvalue())


def load(run_dir: Path, needed: int) -> dict[str, Any]:
    """Read `checkpoints/last.pt` as tensors and plain numbers: no code in it is run.

    Args:
        run_dir: the run's folder.
        needed: bytes of the parameters of policy and baseline: a file that claims far more is refused unread.

    Raises:
        UserError: when there is none, or it cannot be read.
    """
    path = run_dir / LAST
    if not path.is_file():
        raise UserError(f"{run_dir}: not a finished run's folder; it has no {LAST}")
    check_checkpoint(run_dir, path, needed)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise UserError(f"{path}: cannot be read ({type(error).__name__}: {first_line(error)})") from error
    if not (isinstance(state, dict) and isinstance(state.get("policy"), dict)):
        raise UserError(f"{path}: cannot be read (it is not the checkpoint of a run)")
    if not isinstance(state["policy"].get("parameters"), dict):
        raise UserError(f"{path}: cannot be read (it is not the checkpoint of a run)")
    return state
