"""Runs from their folders. What stands there is data, perhaps somebody else's: nothing in it is executed.

A `_target_` stays a text, so no class has to be trusted; files are read from inside the folder only, and only so much.
"""

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from pg_experiments.errors import UserError, first_line
from pg_experiments.saved_config import SAVED, TYPED, read_config, read_overrides
from pg_experiments.untrusted_files import read_inside, size_inside, size_text

Numbers = NDArray[np.float64]
STATUSES = ("completed", "failed", "interrupted", "unfinished")
CURVE = "episode/return_mean"
MOST_RESULT_BYTES = 1_000_000  # of a result.json, which has about two thousand
MOST_CURVE_BYTES = 1 << 30  # of a metrics.csv: four million rows
LONGEST_ROW = 10_000  # characters


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
        typed: the overrides that it was started with; empty where there are none to read.
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
    typed: tuple[str, ...] = ()

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
    return [read_run(path.parent.parent, folder) for path in sorted(configs, key=_natural_order)]


def read_run(folder: Path, root: Path) -> Run:
    """One run's folder as a `Run`; what cannot be read, or leads out of `root`, is named in its `problems`."""
    problems: list[str] = []
    config, written = _read_config(folder / SAVED, root, problems)
    status, evaluation, episodes = _read_result(folder / "result.json", root, problems)
    env_steps, return_mean = _read_curve(folder / "metrics.csv", root, problems)
    typed = read_overrides(folder / TYPED, root)
    return Run(folder, status, config, written, evaluation, episodes, env_steps, return_mean, tuple(problems), typed)


def _read_config(path: Path, root: Path, problems: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The config with and without its references; two empty ones when it cannot be read."""
    try:
        resolved, written = read_config(path, root)
        return dict(_leaves(resolved)), dict(_leaves(written))
    except (OSError, UserError, RecursionError) as error:
        reason = first_line(error).removeprefix(f"{path}: ")
        problems.append(f"{path}: cannot be read, and its run is left out ({reason})")
        return {}, {}


def _leaves(value: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, child in value.items():
            yield from _leaves(child, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _read_result(path: Path, root: Path, problems: list[str]) -> tuple[str, float | None, int | None]:
    """Status, mean return of the final evaluation and its number of episodes."""
    try:
        result = json.loads(read_inside(root, path, MOST_RESULT_BYTES))
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
    except (OSError, UserError, ValueError, TypeError, OverflowError, RecursionError) as error:
        problems.append(f"{path}: cannot be used ({first_line(error).removeprefix(f'{path}: ')})")
    return "unfinished", None, None


def _read_curve(path: Path, root: Path, problems: list[str]) -> tuple[Numbers, Numbers]:
    """The learning curve, empty when a row is damaged; a last row still being written is no damage."""
    points: list[tuple[float, float]] = []
    try:
        if (size := size_inside(root, path)) > MOST_CURVE_BYTES:
            raise ValueError(f"it has {size_text(size)}")
        with path.open(newline="") as file:
            rows = csv.reader(_lines(file))
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
                if row[y] == "":  # no episode has finished in this iteration
                    continue
                point = float(row[x]), float(row[y])
                if not all(map(math.isfinite, point)) or (points and point[0] <= points[-1][0]):
                    raise ValueError(f"line {rows.line_num} has {point[0]:g} env_steps and return {point[1]:g}")
                points.append(point)
    except FileNotFoundError:
        pass
    except (OSError, UserError, ValueError, csv.Error) as error:
        reason = first_line(error).removeprefix(f"{path}: ")
        problems.append(f"{path}: damaged, so this learning curve is left out ({reason})")
        points.clear()  # what is whole of it would cut the mean of all runs short
    table = np.array(points, dtype=float).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _lines(file: TextIO) -> Iterator[str]:
    """Line by line; a file without ends of lines is not taken into memory."""
    while line := file.readline(LONGEST_ROW):
        if len(line) == LONGEST_ROW:
            raise ValueError(f"a line has {LONGEST_ROW} characters or more")
        yield line


def _natural_order(path: Path) -> list[tuple[int, str]]:
    """`run 9` before `run 10`: numbers in a text count by their length first."""
    return [(len(part), part) if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]
