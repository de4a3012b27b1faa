"""The policies of many runs, from their folders, evaluated as few programs: runs of equal structure together."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pg_experiments.config import Config, evaluation_seed
from pg_experiments.errors import EnvError, UserError, first_line
from pg_experiments.evaluating.progress import shown
from pg_experiments.evaluation import Evaluation, evaluate_each
from pg_experiments.policies.module import restore
from pg_experiments.policies.networks import Parameters
from pg_experiments.reports.collect import Run
from pg_experiments.runs import DTYPES, build, stack, structure_of

MOST_COPIES = 20_000  # of an environment in one program: it keeps the noise of 64 steps for each
NOT_TRAINED = {
    "failed": "its training failed",
    "interrupted": "its training was interrupted",
    "unfinished": "its training has not ended, or its result.json cannot be used",
}


@dataclass(frozen=True)
class How:
    """What is played.

    Attributes:
        episodes: of every run.
        seed: of the episodes; None: of each run its own, as in its training.
        deterministic: the policy's mode, or samples.
        checkpoint: `last`, `best` or `iteration_N`.
        trust: packages that the runs' configs may name.
    """

    episodes: int = 100
    seed: int | None = None
    deterministic: bool = True
    checkpoint: str = "last"
    trust: tuple[str, ...] = ()

    def seed_of(self, config: Config) -> int:
        """Of a run's episodes."""
        return evaluation_seed(config) if self.seed is None else self.seed


@dataclass(frozen=True)
class Restored:
    """A run that can be evaluated: its place in the list of all, its config, its parameters `[1, ...]`."""

    place: int
    config: Config
    parameters: Parameters


def evaluate_runs(runs: Sequence[Run], how: How) -> list[Evaluation | str]:
    """Evaluate the completed ones; each gets the numbers that it would get alone.

    Args:
        runs: as `reports.collect` found them.
        how: what is played.

    Returns:
        Per run its evaluation, or in words why there is none.

    Raises:
        UserError: when none can be evaluated, with the first reason.
    """
    outcomes: list[Evaluation | str] = [NOT_TRAINED.get(run.status, "") for run in runs]
    restored: list[Restored] = []
    for place, run in enumerate(runs):
        if run.status != "completed":
            continue
        try:
            _, parameters, config = restore(run.folder, how.checkpoint, how.trust)
            restored.append(Restored(place, config, parameters))
        except UserError as error:
            outcomes[place] = first_line(error).removeprefix(f"{run.folder}: ")
    if not restored:
        folder, reason = runs[0].folder, outcomes[0]
        more = f" and {len(runs) - 1} more" if len(runs) > 1 else ""
        raise UserError(f"{folder}{more}: cannot be evaluated: {reason}")
    batches = [batch for group in _groups(restored) for batch in _batches(group, how.episodes)]
    limits = [_limit(batch[0].config) for batch in batches]
    with shown(sum(limits)) as advance:
        through = 0
        for batch, limit in zip(batches, limits, strict=True):
            watch = _capped(limit, lambda more: advance(more, ""))
            for one, outcome in zip(batch, _evaluate(batch, how, watch), strict=True):
                outcomes[one.place] = outcome
            watch(limit)
            through += len(batch)
            advance(0, f"{through} of {len(restored)} runs evaluated")
    return outcomes


def _groups(restored: Sequence[Restored]) -> list[list[Restored]]:
    """Runs of equal structure, in the order in which their structures first appear."""
    groups: dict[str, list[Restored]] = {}
    for one in restored:
        structure = structure_of(one.config)
        groups.setdefault(json.dumps(structure, sort_keys=True, default=str), []).append(one)
    return list(groups.values())


def _batches(group: Sequence[Restored], episodes: int) -> Iterator[Sequence[Restored]]:
    size = max(1, MOST_COPIES // episodes)
    for start in range(0, len(group), size):
        yield group[start : start + size]


def _evaluate(batch: Sequence[Restored], how: How, watch: Callable[[int], None]) -> list[Evaluation | str]:
    configs = [one.config for one in batch]
    try:
        parts = build(stack(configs))
    except (UserError, EnvError) as error:
        return [first_line(error)] * len(batch)
    return evaluate_each(
        parts.policy,
        [one.parameters for one in batch],
        parts.env,
        [how.seed_of(config) for config in configs],
        how.episodes,
        DTYPES[configs[0].dtype],
        deterministic=how.deterministic,
        watch=watch,
    )


def _limit(config: Config) -> int:
    """The most steps that an evaluation of this run takes."""
    return int(build(stack([config])).env.spec.max_episode_steps)


def _capped(limit: int, advance: Callable[[int], None]) -> Callable[[int], None]:
    """Advance, but in all by no more than the limit: episodes may be played again, run by run."""
    left = [float(limit)]

    def watch(more: int) -> None:
        step = min(more, left[0])
        left[0] -= step
        if step and math.isfinite(step):
            advance(int(step))

    return watch
