"""What a number is multiplied by in the course of a run."""

import math

from jaxtyping import Float
from torch import Tensor

KL_ADAPTIVE = "kl_adaptive"  # the learning rate's schedule that looks at what a step did, see `Learner.adapt`


def schedule_factor(schedule: str, progress: float) -> float:
    """What a learning rate is multiplied by after the fraction `progress` (0 to 1) of a run's env steps.

    constant: 1. linear: 1 - p. cosine: (1 + cos πp) / 2 (Loshchilov and Hutter, 2017, arXiv:1608.03983, eq. 5).
    """
    progress = min(max(progress, 0.0), 1.0)
    if schedule == "linear":
        return 1 - progress
    if schedule == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    return 1.0


def schedule_factors(schedule: str, progress: Float[Tensor, " runs"]) -> Float[Tensor, " runs"]:
    """`schedule_factor` of every run."""
    return progress.new_tensor([schedule_factor(schedule, value) for value in progress.tolist()])
