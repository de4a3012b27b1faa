"""Which jobs train together: groups of equal structure, cut into batches for the workers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pg_experiments.devices import check_device
from pg_experiments.errors import UserError
from pg_experiments.evaluating.on_the_way import check_video
from pg_experiments.runs import build, stack, structure_of
from pg_experiments.sizing import check_parameters_fit
from pg_experiments.sweeps.backends.interface import EXTRAS
from pg_experiments.sweeps.jobs import Job


@dataclass(frozen=True)
class Plan:
    """How the jobs of a launch are spread.

    Attributes:
        groups: jobs of equal structure, each group in the order of the jobs.
        batches: what one worker trains as one program; the longest first.
        workers: how many batches train at a time.
        reason: why a batch is not larger, in words.
    """

    groups: list[list[Job]]
    batches: list[list[Job]]
    workers: int
    reason: str

    def line(self) -> str:
        """What is grouped how, and why."""
        jobs = sum(len(group) for group in self.groups)
        sizes = sorted({len(batch) for batch in self.batches}, reverse=True)
        keys = differing_keys(self.groups)
        why = f" (they differ in {', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})" if keys else ""
        each = " or ".join(str(size) for size in sizes[:2]) if len(sizes) < 3 else f"{sizes[-1]} to {sizes[0]}"
        runs = "run" if sizes == [1] else "runs"
        return (
            f"{_count(jobs, 'job')} in {_count(len(self.groups), 'group')} of equal structure{why}: "
            f"{_count(len(self.batches), 'batch', 'es')} of {each} {runs} on {_count(self.workers, 'worker')}; "
            f"{self.reason}"
        )


def group_by_structure(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs that can share one program, in the order in which their structures first appear."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(json.dumps(structure_of(job.config), sort_keys=True, default=str), []).append(job)
    return list(groups.values())


def check_parts(jobs: Sequence[Job]) -> None:
    """Build what every group of jobs needs; of a group that cannot be built, name the first job that cannot."""
    for group in group_by_structure(jobs):
        try:
            _check_program(group)
        except UserError as error:
            for job in group:
                try:
                    _check_program([job])
                except UserError as own:
                    raise UserError(f"{own} (job {job.number}: {job.name})") from error
            raise


def _check_program(jobs: Sequence[Job]) -> None:
    """Build the parts of jobs of equal structure."""
    config = jobs[0].config
    if jobs[0].base.node.hydra.launcher.get("backend") not in EXTRAS:  # whose machines may have what this one has not
        check_device(config.device)
    parts = build(stack([job.config for job in jobs]))
    check_parameters_fit(config, parts)
    check_video(config, parts.env)


def make_plan(groups: list[list[Job]], workers: int, limits: Sequence[tuple[int, str]]) -> Plan:
    """Cut every group into batches of nearly equal size.

    A batch holds at most `limits` of its group, and the jobs are spread over all workers: the last workers would stand
    idle beside one that trains everything.

    Args:
        groups: of equal structure.
        workers: that train at the same time.
        limits: per group, the most runs of a batch and the reason.
    """
    jobs = sum(len(group) for group in groups)
    share = -(-jobs // workers)
    batches, reason = [], f"an equal share for every worker, below the limit of {limits[0][0]} runs ({limits[0][1]})"
    for group, (limit, why) in zip(groups, limits, strict=True):
        if limit < min(share, len(group)):
            reason = f"at most {limit} runs in a batch: {why}"
        pieces = -(-len(group) // min(limit, share))
        batches += [group[piece * len(group) // pieces : (piece + 1) * len(group) // pieces] for piece in range(pieces)]
    batches.sort(key=lambda batch: -sum(job.config.total_env_steps for job in batch))
    return Plan(groups, batches, min(workers, len(batches)), reason)


def differing_keys(groups: Sequence[Sequence[Job]]) -> list[str]:
    """The structural keys in which the groups differ."""
    structures = [structure_of(group[0].config) for group in groups]
    keys = dict.fromkeys(key for structure in structures for key in structure)
    return [key for key in keys if any(structure.get(key) != structures[0].get(key) for structure in structures)]


def _count(number: int, word: str, ending: str = "s") -> str:
    return f"{number} {word}{ending if number != 1 else ''}"
