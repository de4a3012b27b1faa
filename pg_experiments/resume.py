"""From a run's folder back to where the run was: which checkpoint, and whether it is the same run at all."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pg_experiments import checkpoint
from pg_experiments.batch import State
from pg_experiments.checkpoint import DamagedError
from pg_experiments.config import Config, config_sha256, differences
from pg_experiments.errors import UserError
from pg_experiments.files import WRITTEN_BY_A_RUN
from pg_experiments.records import Positions, are_there
from pg_experiments.results import RunResult, read_result
from pg_experiments.saved_config import load_config
from pg_experiments.trust import modules_to_trust


@dataclass(frozen=True)
class Score:
    """A state that was better than all before it.

    Attributes:
        value: mean return.
        by: what was measured: `episode/return_mean`, the episodes that an iteration has played with these parameters,
            or `evaluation/return_mean` where `evaluation.every` is given.
        iteration: of the state.
    """

    value: float
    by: str
    iteration: int


@dataclass(frozen=True)
class Point:
    """Where a run is continued.

    Attributes:
        state: as `rows_of(Batch.state(), [row])` gave it.
        positions: of the run's records.
        best: the score of `best.pt`, if there is one.
        seconds: `wall` and `training`, spent so far.
        path: of the checkpoint.
        notes: on damaged checkpoints that were passed over.
    """

    state: State
    positions: Positions
    best: Score | None
    seconds: Mapping[str, float]
    path: Path
    notes: list[str] = field(default_factory=list)


def content_of(
    state: State, config: Config, positions: Positions, best: Score | None, seconds: Mapping[str, float]
) -> dict[str, Any]:
    """What a checkpoint holds: the state, and under `run` everything else that continuing takes."""
    about = {
        "config_sha256": config_sha256(config),
        "positions": dict(positions),
        "best": vars(best) if best else None,
        "seconds": dict(seconds),
    }
    return {**state, "run": about}


def find(run_dir: Path, config: Config) -> Point | None:
    """The last checkpoint of a run that is whole and whose records are still there; None: it begins from the start.

    Raises:
        UserError: when a checkpoint is of another config.
    """
    damaged: list[DamagedError] = []
    for path in checkpoint.candidates(run_dir):
        try:
            content = checkpoint.read(path)
            point = _point(run_dir, config, path, content)
        except DamagedError as error:
            damaged.append(error)
            continue
        return Point(**{**vars(point), "notes": checkpoint.notes(damaged, path)})
    checkpoint.say([f"{note}: the run begins from the start" for note in checkpoint.notes(damaged, None)])
    return None


def _point(run_dir: Path, config: Config, path: Path, content: dict[str, Any]) -> Point:
    about = content.pop("run", None)
    if not isinstance(about, dict):
        raise DamagedError(f"{path}: cannot be continued (it is only a policy)")
    if about["config_sha256"] != config_sha256(config):
        raise UserError(f"{path}: is of another config; continue with that, or choose another folder")
    if not are_there(run_dir, about["positions"]):
        raise DamagedError(f"{path}: cannot be continued (metrics.csv or the events are shorter than they were then)")
    best = Score(**about["best"]) if about["best"] else None
    return Point(content, about["positions"], best, about["seconds"], path)


def has_begun(run_dir: Path) -> bool:
    """Whether a run has written anything into the folder."""
    return any(any(run_dir.glob(pattern)) for pattern in WRITTEN_BY_A_RUN)


def check_same(run_dir: Path, config: Config) -> None:
    """Raise a `UserError` that names the keys in which a folder's config differs, apart from free ones."""
    if not (run_dir / ".hydra" / "config.yaml").is_file():
        return
    found = differences(load_config(run_dir, modules_to_trust(asdict(config))), config)
    if found:
        raise UserError(
            f"{run_dir}: holds a run of another config: {', '.join(found)}; "
            "continue with the same values, or choose another folder"
        )


def is_complete(run_dir: Path, config: Config) -> bool:
    """Whether a folder holds this run, completed.

    Raises:
        UserError: when it holds another one.
    """
    check_same(run_dir, config)
    result = read_result(run_dir) or {}
    return result.get("status") == "completed" and result.get("config_sha256") == config_sha256(config)


def completed_result(run_dir: Path, config: Config) -> RunResult:
    """What a completed run of this config returned, from its folder."""
    from pg_experiments.policies.module import load_policy

    policy = load_policy(run_dir, trust=modules_to_trust(asdict(config)))
    return RunResult(**(read_result(run_dir) or {}), run_dir=run_dir, policy=policy)


def iterations_of(state: State) -> int:
    """How many iterations a run has completed in a state of it alone."""
    return int(state["iterations"][0])


def env_steps_of(state: State) -> int:
    """How many env steps a run has played in a state of it alone."""
    return int(state["env_steps"][0])
