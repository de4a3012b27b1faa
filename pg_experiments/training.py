"""`train`: configs in, one program for all runs, results out."""

from collections.abc import Sequence
from pathlib import Path

import torch

from pg_experiments.config import Config
from pg_experiments.devices import check_device, on
from pg_experiments.errors import UserError
from pg_experiments.interruption import Stop, heard
from pg_experiments.loop import Training
from pg_experiments.memory import keep_freed_memory
from pg_experiments.progress import Display
from pg_experiments.results import Interrupted, RunResult

__all__ = ["Interrupted", "train"]


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
                return Training(configs, run_dirs, display).run()
            except Stop as stop:  # before there was anything to save, or for the second time
                raise Interrupted([], stop.number) from None
    finally:
        torch.set_num_threads(threads)
