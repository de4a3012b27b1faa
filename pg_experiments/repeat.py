"""`python -m pg_experiments.train --repeat RUN_DIR`: a folder's run once more, and whether every bit is the same."""

import argparse
import csv
import json
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pg_experiments.composition import folder_name
from pg_experiments.config import Config, config_sha256
from pg_experiments.errors import UserError, printable
from pg_experiments.saved_config import load_config
from pg_experiments.trust import imports_from_elsewhere
from pg_experiments.untrusted_files import read_inside

OPTION = "--repeat"
REPEATS = Path("outputs") / "repeats"
MOST_BYTES = 1 << 28  # of a metrics.csv that is compared
NOT_COMPARED = "time/"  # columns of metrics.csv that measure the machine, not the run
REASONS = ("git_commit", "git_dirty", "platform", "cpu", "cpu_capability", "torch_build", "threads")


def main(arguments: Sequence[str]) -> int:
    """Do what the command says.

    Returns:
        The exit code: 0 when the repetition is identical, otherwise 1.

    Raises:
        UserError: when the folder is no run that can be repeated, or another option is given.
    """
    parser = argparse.ArgumentParser(
        prog="python -m pg_experiments.train",
        description=f"Train the run of a folder again with its saved config, in a new folder below {REPEATS}, and say "
        "`identical` (exit code 0), or what differs and what may be the reason (exit code 1).",
        epilog="hydra.run.dir=FOLDER puts the repetition there instead.",
    )
    parser.add_argument(OPTION, type=Path, required=True, metavar="RUN_DIR", help="folder that a training run wrote")
    parser.add_argument("--trust", action="append", default=[], metavar="PACKAGE", help="as of pg_experiments.evaluate")
    options, others = parser.parse_known_args(arguments)
    target = REPEATS / _name(options.repeat)
    for other in others:
        if not re.fullmatch(r"hydra\.run\.dir=.+", other):
            raise UserError(
                f"{other}: {OPTION} trains the saved config as it is; it takes hydra.run.dir=... and --trust"
            )
        target = Path(other.partition("=")[2])
    with imports_from_elsewhere(options.trust):
        return repeat(options.repeat, target, options.trust)


def repeat(run_dir: Path, target: Path, trust: Sequence[str] = ()) -> int:
    """Train the run in `run_dir` again into `target`, print how the two compare; 0 when they are identical, else 1.

    A run that was interrupted is repeated as far as it came, with the learning rates of its whole length. A run of a
    sweep is repeated alone: there is no difference.
    """
    config = load_config(run_dir, trust)
    before = _result_of(run_dir)
    iterations = before["iterations"] if before["status"] == "interrupted" else None
    if iterations is not None and iterations < 1:
        raise UserError(f"{run_dir}: was interrupted before its first iteration; there is nothing to compare")
    what = "completely" if iterations is None else f"up to iteration {iterations}, where it was interrupted"
    print(f"repeating {run_dir} {what}\n  in {target}", flush=True)
    _train_again(config, target, iterations)
    after = _result_of(target)
    found = list(_differences(run_dir, before, target, after, iterations))
    print("identical" if not found else "different")
    for name, result in (("run", before), ("repeat", after)):
        print(f"  parameters_sha256 of the {name:<7}{printable(str(result['parameters_sha256']))}")
    for line in found:
        print(f"  {line}")
    if found:
        reasons = list(_reasons(config, before, after))
        print("likely reasons:" if reasons else "machine, versions and commit are the same; no reason is known")
        for line in reasons:
            print(f"  {line}")
    return 1 if found else 0


def _train_again(config: Config, target: Path, iterations: int | None) -> None:
    from pg_experiments.envs.hanging import ended_when_hanging
    from pg_experiments.progress import make_display
    from pg_experiments.summary import print_summary
    from pg_experiments.training import Interrupted, train

    display = _Until(make_display(config.logging.progress), iterations)
    try:
        with ended_when_hanging(print_summary):
            train([config], [target], display)
    except Interrupted:
        if not display.reached:  # it was the user's Ctrl-C
            raise


class _Until:
    """A display that ends the training after so many iterations, as Ctrl-C would; None: never."""

    def __init__(self, display: Any, iterations: int | None) -> None:
        self._display = display
        self._iterations = iterations
        self.reached = False

    def show(self, status: Any) -> None:
        self._display.show(status)
        if self._iterations is not None and status.iteration >= self._iterations:
            self.reached = True
            raise KeyboardInterrupt

    def close(self) -> None:
        self._display.close()


def _name(run_dir: Path) -> str:
    """Of the repetition's folder: that of the run, the time, and something that no other has."""
    now = time.strftime("%Y-%m-%d_%H-%M-%S")
    return f"{folder_name(run_dir.resolve().name)}_repeated_{now}_{secrets.token_hex(2)}"


def _result_of(run_dir: Path) -> dict[str, Any]:
    """The content of `result.json`, with the keys that are needed here.

    Raises:
        UserError: when the run has not ended, or the file cannot be used.
    """
    path = run_dir / "result.json"
    try:
        result = json.loads(read_inside(run_dir, path, 1_000_000))
    except FileNotFoundError:
        raise UserError(f"{run_dir}: has no result.json, so the run has not ended and cannot be compared") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be used ({printable(str(error))})") from error
    kinds = {"status": str, "iterations": int, "parameters_sha256": str}
    for key, kind in kinds.items():
        if not isinstance(result, dict) or not isinstance(result.get(key), kind):
            raise UserError(f"{path}: cannot be used (it has no {key})")
    return dict(result)


def _differences(
    run_dir: Path, before: Mapping[str, Any], target: Path, after: Mapping[str, Any], iterations: int | None
) -> Iterator[str]:
    """A line for everything about the run itself that is not equal."""
    keys = ["iterations", "env_steps", "parameters_sha256"]
    for key in [*keys, *(["status", "error", "evaluation"] if iterations is None else [])]:
        if before.get(key) != after.get(key):
            yield f"{key}: {_text(before.get(key))} in the run, {_text(after.get(key))} in the repeat"
    first = first_difference(_rows(run_dir), _rows(target), iterations)
    if first is not None:
        yield first.line


@dataclass(frozen=True)
class Difference:
    """The first place where two tables of metrics differ; a value is None where there is no such row or column."""

    row: int
    column: str
    before: str | None
    after: str | None

    @property
    def line(self) -> str:
        """In words."""
        values = f"{_text(self.before)} in the run, {_text(self.after)} in the repeat"
        return f"metrics.csv, row {self.row}, {printable(self.column)}: {values}"


def first_difference(
    before: Sequence[Mapping[str, str]], after: Sequence[Mapping[str, str]], iterations: int | None = None
) -> Difference | None:
    """Where two `metrics.csv` first differ, as they are written, so in any bit; times and speeds are left out.

    Args:
        before, after: their rows.
        iterations: rows of later ones are left out: an interruption can come when the row is written and the iteration
            is not through.
    """
    if iterations is not None:
        before, after = ([row for row in rows if _number(row) <= iterations] for rows in (before, after))
    for index in range(max(len(before), len(after))):
        old, new = (rows[index] if index < len(rows) else {} for rows in (before, after))
        for column in dict.fromkeys([*old, *new]):
            if not column.startswith(NOT_COMPARED) and old.get(column) != new.get(column):
                return Difference(index + 1, column, old.get(column), new.get(column))
    return None


def _number(row: Mapping[str, str]) -> float:
    try:
        return int(row["iteration"])
    except (KeyError, ValueError):
        return 0


def _rows(run_dir: Path) -> list[dict[str, str]]:
    path = run_dir / "metrics.csv"
    try:
        lines = read_inside(run_dir, path, MOST_BYTES).decode().splitlines()
        return [{str(name): str(text) for name, text in row.items()} for row in csv.DictReader(lines)]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: cannot be used ({printable(str(error))})") from error


def _reasons(config: Config, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """A line for everything around the run that is not equal."""
    if before.get("config_sha256") != config_sha256(config):
        yield "config: the saved one is not the one that the run was trained with, or means something else by now"
    old = before.get("versions")
    for name in {**(old if isinstance(old, dict) else {}), **after["versions"]}:
        was = old.get(name) if isinstance(old, dict) else None
        if was != (now := after["versions"].get(name)):
            yield f"{printable(str(name))}: {_text(was)} then, {_text(now)} now"
    for key in REASONS:
        if before.get(key) != after.get(key):
            yield f"{key}: {_text(before.get(key))} then, {_text(after.get(key))} now"
    if before.get("git_dirty") and after.get("git_dirty"):
        yield "git_dirty: both with changes that are in no commit, which may be different ones"


def _text(value: Any) -> str:
    return "nothing" if value is None or value == "" else printable(str(value))
