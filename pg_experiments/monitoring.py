"""What is read off an iteration: the columns of a run's records, and numbers that are no longer finite."""

import math
from collections.abc import Sequence

from pg_experiments.algorithms.reinforce import Iteration


def columns_of(iteration: Iteration, seconds: Sequence[float]) -> dict[str, list[float]]:
    """Per tag of `metrics.csv` and TensorBoard one number per run.

    Args:
        iteration: what was played and learned.
        seconds: that it took each run.
    """
    returns, lengths = iteration.episodes
    return {
        "episode/return_mean": returns.mean(1).tolist(),
        "episode/return_std": returns.std(1, correction=0).tolist(),
        "episode/length_mean": lengths.double().mean(1).tolist(),
        **{tag: values.tolist() for tag, values in iteration.metrics.items()},
        "time/env_steps_per_second": [count / own for count, own in zip(iteration.env_steps, seconds, strict=True)],
    }


def broken_numbers(iteration: Iteration, parameters_finite: list[bool]) -> list[str | None]:
    """Per run, the first of loss, gradient and parameters that is not finite, in words; None when all are."""
    watched = {
        tag: values.tolist() for tag, values in iteration.metrics.items() if tag.startswith(("loss/", "gradient/"))
    }
    return [
        next(
            (f"{tag} became {values[row]}" for tag, values in watched.items() if not math.isfinite(values[row])),
            None if finite else "a parameter is not finite",
        )
        for row, finite in enumerate(parameters_finite)
    ]
