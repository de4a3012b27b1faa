"""What TensorBoard is told about a sweep as a whole."""

from collections.abc import Sequence
from pathlib import Path

from pg_experiments.config import GROUPS, Config, walk
from pg_experiments.records import EventFile
from pg_experiments.tensorboard_summaries import experiment


def write_sweep_events(sweep_dir: Path, configs: Sequence[Config]) -> None:
    """Let the HParams tab of a sweep's folder begin with the keys that are swept and end with the final evaluation.

    To be called once, *before* the jobs, when `logging.tensorboard` is on. Jobs up to two folders below then leave the
    description of the columns to it and add their values only.

    Args:
        sweep_dir: the sweep's folder; it is made if need be.
        configs: of all jobs.

    Raises:
        OSError: when the folder cannot be written.
    """
    values = [hyperparameters(config) for config in configs]
    names = dict.fromkeys(name for row in values for name in row)
    swept = [name for name in names if len({str(row.get(name)) for row in values}) > 1]
    samples = {name: next(row[name] for row in values if name in row) for name in names}
    sweep_dir.mkdir(parents=True, exist_ok=True)
    events = EventFile(sweep_dir, suffix=".sweep")
    events.add_summary(experiment(samples, swept or ["seed"]))
    events.close()


def hyperparameters(config: Config) -> dict[str, bool | int | float | str]:
    """What tells runs apart in the HParams tab: the class of every part, and every per-run number but defaults."""
    leaves = {key: (value, metadata) for key, value, metadata in walk(config)}
    parts = {group: leaves[f"{group}._target_"][0].rpartition(".")[2] for group in GROUPS}
    numbers = {
        key: value
        for key, (value, metadata) in leaves.items()
        if metadata.get("per_run") and value is not None and not key.startswith("env.default_")
    }
    return parts | numbers
