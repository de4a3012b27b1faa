"""What is read off an iteration: the columns of a run's records, and numbers that are no longer finite."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pg_experiments.algorithms.interface import Iteration
from pg_experiments.errors import EnvError
from pg_experiments.rollout import Trajectory


def columns_of(iteration: Iteration, seconds: Sequence[float]) -> dict[str, list[float]]:
    """Per tag of `metrics.csv` and TensorBoard one number per run.

    What is said of episodes is NaN for a run that has finished none in a fixed rollout; it is not written then.

    Args:
        iteration: what was played and learned.
        seconds: that it took each run.
    """
    returns, lengths, finished = iteration.episodes
    count = finished.sum(1)

    def mean(x: Tensor) -> Tensor:
        """Over a run's episodes; NaN where none has finished."""
        return torch.where(finished, x.double(), 0.0).sum(1) / count

    return_mean = mean(returns)
    return {
        "episode/return_mean": return_mean.tolist(),
        "episode/return_std": mean((returns - return_mean[:, None]).square()).sqrt().tolist(),
        "episode/length_mean": mean(lengths).tolist(),
        **{tag: values.tolist() for tag, values in iteration.metrics.items()},
        "time/env_steps_per_second": [count / own for count, own in zip(iteration.env_steps, seconds, strict=True)],
    }


def broken_numbers(iteration: Iteration, parameters_finite: list[bool]) -> list[str | None]:
    """Per run, what is not finite: what its environment returned, or the first of loss, gradient and parameters.

    In words; None when all are finite.
    """
    watched = {tag: values.tolist() for tag, values in _watched(iteration).items()}
    own = [
        next(
            (f"{tag} became {values[row]}" for tag, values in watched.items() if not math.isfinite(values[row])),
            None if finite else "a parameter is not finite",
        )
        for row, finite in enumerate(parameters_finite)
    ]
    of_env = iteration.env_problems or [None] * len(own)
    return [problem and (cause or problem) for problem, cause in zip(own, of_env, strict=True)]


def with_env_problems(iteration: Iteration, trajectory: Trajectory, name: str) -> Iteration:
    """The iteration, with what the environment did to the runs whose numbers broke.

    Args:
        iteration: what was learned from the trajectory.
        trajectory: what was played.
        name: of the environment.
    """
    finite = torch.stack(list(_watched(iteration).values())).isfinite().all(0)
    if bool(finite.all()):
        return iteration
    problems = [None if whole else _env_problem(trajectory, row, name) for row, whole in enumerate(finite.tolist())]
    return iteration._replace(env_problems=problems)


def _env_problem(trajectory: Trajectory, run: int, name: str) -> str | None:
    """The first number of a run's environment that is not finite, unless the policy's action was so before."""
    running = trajectory.running[run]
    broken = {
        "a reward": ~trajectory.reward[run].isfinite() & running,
        "an observation": ~trajectory.observation[run].isfinite().all(-1) & running,
        "an action": ~trajectory.action[run].reshape(*running.shape, -1).isfinite().all(-1) & running,
    }
    first = {what: int(flags.any(1).nonzero()[0]) for what, flags in broken.items() if bool(flags.any())}
    # observation t is what step t - 1 returned, and reward t what step t did, after action t
    when = {what: 2 * step + {"an observation": 0, "an action": 1, "a reward": 2}[what] for what, step in first.items()}
    if not when or (what := min(when, key=lambda each: when[each])) == "an action":
        return None
    step = first[what] + (what == "a reward")
    copy = int(broken[what][first[what]].nonzero()[0])
    error = EnvError(name, f"step returned {what} that is not finite", copy=copy)
    error.step = step
    if step == 0:
        error.problem = f"reset returned {what} that is not finite"
    return str(error)


def _watched(iteration: Iteration) -> dict[str, Tensor]:
    """What says that a run's numbers broke, by tag."""
    return {tag: values for tag, values in iteration.metrics.items() if tag.startswith(("loss/", "gradient/"))}
