"""What the evaluation of a sweep leaves: two tables in the terminal, `evaluation.json` and `evaluation.csv`."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pg_experiments.errors import printable
from pg_experiments.evaluation import Evaluation
from pg_experiments.files import write_atomically
from pg_experiments.reports.collect import Run
from pg_experiments.reports.settings import Comparison, compare, task_of
from pg_experiments.reports.statistics import score
from pg_experiments.reports.table import digits_of, number, print_table

JSON, CSV = "evaluation.json", "evaluation.csv"


def compared(runs: Sequence[Run], outcomes: Sequence[Evaluation | str]) -> Comparison:
    """The runs sorted into settings, with these evaluations instead of those of their training."""
    return compare(
        [
            replace(run, evaluation=None, episodes=None)
            if isinstance(outcome, str)
            else replace(run, evaluation=outcome.return_mean, episodes=outcome.episodes)
            for run, outcome in zip(runs, outcomes, strict=True)
        ]
    )


def show(
    root: Path, runs: Sequence[Run], outcomes: Sequence[Evaluation | str], comparison: Comparison, metric: str
) -> None:
    """Print a line for every run, and the table of the settings.

    Args:
        root: the sweep's folder; runs are named by their folders in it.
        runs, outcomes: one of each per run.
        comparison: of them.
        metric: which evaluation it is, in words.
    """
    console, digits = Console(highlight=False), digits_of(comparison)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("run", overflow="fold")
    for name in ("mean", "sd", "95 % interval", "length"):
        table.add_column(name, justify="right", no_wrap=True)
    for run, outcome in zip(runs, outcomes, strict=True):
        name = escape(_name(root, run))
        if isinstance(outcome, str):
            table.add_row(name, "-", "-", "-", "-", style="yellow")
            continue
        mean, sd, low, high = (
            number(value, digits[task_of(run.config)])
            for value in (outcome.return_mean, outcome.return_std, outcome.return_low, outcome.return_high)
        )
        table.add_row(name, mean, sd, f"{low} to {high}", f"{outcome.length_mean:.1f}")
    console.print(table)
    console.print("Over the episodes of each run.\n", style="dim")
    print_table(comparison, console, metric)


def write(
    root: Path,
    runs: Sequence[Run],
    outcomes: Sequence[Evaluation | str],
    comparison: Comparison,
    how: Mapping[str, Any],
) -> None:
    """Write both files into the sweep's folder; they replace those of an earlier evaluation.

    Args:
        root: that folder.
        runs, outcomes: one of each per run.
        comparison: of them.
        how: what was played, by name.

    Raises:
        OSError: when one cannot be written.
    """
    rows = [
        {
            "run": _name(root, run),
            "status": run.status,
            "problem": outcome if isinstance(outcome, str) else None,
            "seed": run.seed,
            **({} if isinstance(outcome, str) else outcome._asdict()),
        }
        for run, outcome in zip(runs, outcomes, strict=True)
    ]
    content = {**how, "runs": rows, "settings": _settings(comparison)}
    write_atomically(root / JSON, (json.dumps(content, indent=2) + "\n").encode())
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(root / CSV, text.getvalue().encode())


def _settings(comparison: Comparison) -> list[dict[str, Any]]:
    """Per setting what the table shows."""
    rows = []
    for setting in comparison.settings:
        found = score(setting)
        row: dict[str, Any] = {
            "values": dict(setting.values),
            "runs": len(setting.runs),
            "evaluated": len(setting.completed),
        }
        if found is not None:
            row |= {"mean": found.mean, "sd": found.std, "low": found.low, "high": found.high}
            row |= {"worst_seed": found.worst.seed, "worst_mean": found.worst.evaluation}
        rows.append(row)
    return rows


def _name(root: Path, run: Run) -> str:
    try:
        return printable(str(run.folder.relative_to(root)))
    except ValueError:
        return printable(str(run.folder))
