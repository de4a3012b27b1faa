"""Runs from their folders. What stands there is data, perhaps somebody else's: nothing in it is executed."""

import csv
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pg_experiments.errors import UserError, first_line

Numbers = NDArray[np.float64]
STATUSES = ("completed", "failed", "interrupted", "unfinished")
CURVE = "episode/return_mean"


@dataclass(frozen=True, eq=False)
class Run:
    """One run, as its folder tells it.

    Attributes:
        folder: of the run.
        status: `completed`, `failed` or `interrupted` as in `result.json`; `unfinished` when that file is missing or
            damaged: the run was killed, has never started, or still trains.
        config: every value by dotted key, interpolations resolved.
        written: the same as written, such as `${env.default_env_steps}`.
        evaluation: mean return of the final evaluation, or None when there was none.
        episodes: of that evaluation, or None.
        env_steps: of every row of `metrics.csv`, `[rows]`, strictly increasing.
        return_mean: mean return of the episodes played in that iteration, `[rows]`.
        problems: one line for every file that could not be used as it is.
    """

    folder: Path
    status: str
    config: Mapping[str, Any]
    written: Mapping[str, Any]
    evaluation: float | None = None
    episodes: int | None = None
    env_steps: Numbers = field(default_factory=lambda: np.empty(0))
    return_mean: Numbers = field(default_factory=lambda: np.empty(0))
    problems: tuple[str, ...] = ()

    @property
    def seed(self) -> Any:
        """As configured."""
        return self.config.get("seed")


def collect(folder: str | Path) -> list[Run]:
    """Every run in a folder, at any depth, in the order of their paths with numbers as numbers.

    A run is a folder with a `.hydra/config.yaml`. A damaged or missing file never stops the others: it is named in the
    run's `problems`.

    Raises:
        UserError: when there is no such folder, or no run in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    configs = [path for path in folder.rglob(".hydra/config.yaml") if path.is_file()]
    if not configs:
        raise UserError(f"{folder}: holds no runs; a run is a folder with a .hydra/config.yaml")
    return [read_run(path.parent.parent) for path in sorted(configs, key=_natural_order)]


def read_run(folder: Path) -> Run:
    """One run's folder as a `Run`; what cannot be read is named in its `problems`."""
    problems: list[str] = []
    config, written = _read_config(folder / ".hydra" / "config.yaml", problems)
    status, evaluation, episodes = _read_result(folder / "result.json", problems)
    env_steps, return_mean = _read_curve(folder / "metrics.csv", problems)
    return Run(folder, status, config, written, evaluation, episodes, env_steps, return_mean, tuple(problems))


def printable(text: str) -> str:
    """A text from somebody's files in one line, without the control characters that a terminal would obey."""
    return "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))


def _read_config(path: Path, problems: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The config with and without its interpolations; two empty ones when it cannot be read."""
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        node = OmegaConf.load(path)
        if not isinstance(node, DictConfig):
            raise ValueError("it is not a mapping of keys to values")
        resolved, written = (OmegaConf.to_container(node, resolve=resolve) for resolve in (True, False))
        return dict(_leaves(resolved)), dict(_leaves(written))
    except (OSError, ValueError, RecursionError, YAMLError, OmegaConfBaseException) as error:
        problems.append(f"{path}: cannot be read, and its run is left out ({first_line(error)})")
        return {}, {}


def _leaves(value: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, child in value.items():
            yield from _leaves(child, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _read_result(path: Path, problems: list[str]) -> tuple[str, float | None, int | None]:
    """Status, mean return of the final evaluation and its number of episodes."""
    try:
        result = json.loads(path.read_bytes())
        status, evaluation = result["status"], result["evaluation"]
        if status not in STATUSES:
            raise ValueError(f"status must be one of {', '.join(STATUSES[:3])}")
        if evaluation is None:
            return status, None, None
        return_mean, episodes = float(evaluation["return_mean"]), int(evaluation["episodes"])
        if not math.isfinite(return_mean):
            raise ValueError(f"evaluation.return_mean is {return_mean}")
        return status, return_mean, episodes
    except FileNotFoundError:
        return "unfinished", None, None
    except KeyError as error:
        problems.append(f"{path}: cannot be used (it has no {error.args[0]})")
    except (OSError, ValueError, TypeError, OverflowError, RecursionError) as error:
        problems.append(f"{path}: cannot be used ({first_line(error)})")
    return "unfinished", None, None


def _read_curve(path: Path, problems: list[str]) -> tuple[Numbers, Numbers]:
    """The learning curve, empty when a row is damaged; a last row still being written is no damage."""
    points: list[tuple[float, float]] = []
    try:
        with path.open(newline="") as file:
            rows = csv.reader(file)
            header = next(rows, [])
            if not header:  # started a moment ago
                return np.empty(0), np.empty(0)
            x, y = (header.index(column) for column in ("env_steps", CURVE))
            cut_off = None
            for row in rows:
                if cut_off is not None:
                    raise ValueError(f"line {cut_off} has too few columns")
                if len(row) < len(header):
                    cut_off = rows.line_num
                    continue
                point = float(row[x]), float(row[y])
                if not all(map(math.isfinite, point)) or (points and point[0] <= points[-1][0]):
                    raise ValueError(f"line {rows.line_num} has {point[0]:g} env_steps and return {point[1]:g}")
                points.append(point)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, csv.Error) as error:
        problems.append(f"{path}: damaged, so this learning curve is left out ({first_line(error)})")
        points.clear()  # what is whole of it would cut the mean of all runs short
    table = np.array(points, dtype=float).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _natural_order(path: Path) -> list[tuple[int, str]]:
    """`run 9` before `run 10`: numbers in a text count by their length first."""
    return [(len(part), part) if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]
