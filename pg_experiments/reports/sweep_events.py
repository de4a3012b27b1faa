"""What TensorBoard is told about a sweep as a whole."""

from collections.abc import Sequence
from pathlib import Path

from pg_experiments.config import Config
from pg_experiments.records import SWEEP_EVENTS, EventFile
from pg_experiments.tensorboard_summaries import experiment, hyperparameters


def write_sweep_events(sweep_dir: Path, configs: Sequence[Config]) -> None:
    """Let the HParams tab of a sweep's folder begin with the keys that are swept and end with the final evaluation.

    To be called *before* the jobs, when `logging.tensorboard` is on. Jobs up to two folders below then leave the
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
    for earlier in sweep_dir.glob(SWEEP_EVENTS):
        earlier.unlink()
    events = EventFile(sweep_dir, suffix=".sweep")
    events.add_summary(experiment(samples, swept or ["seed"]))
    events.close()
