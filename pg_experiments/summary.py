"""What a person reads when a run has ended."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from pg_experiments.progress import duration, rounded
from pg_experiments.results import RunResult


def print_summary(result: RunResult, own_modules: Sequence[str] = (), again: str = "") -> None:
    """Outcome, folder, and the next commands to type.

    Args:
        result: of the run.
        own_modules: the user's packages that its config names, which the next command has to be told to trust.
        again: the command that resumes the run, if there is one.
    """
    console = Console(highlight=False, soft_wrap=True)
    colour = {"completed": "green", "interrupted": "yellow", "failed": "red"}[result.status]
    reason = f": {result.error};" if result.error else ""
    console.print(
        f"\n[{colour}]{result.status}[/{colour}]{reason} after {result.iterations} iterations, "
        f"{result.episodes:,} episodes, {result.env_steps:,} env steps in {duration(result.wall_seconds)} "
        f"(training: {result.env_steps_per_second:,.0f} env steps/s)"
    )
    if result.evaluation:
        scores = result.evaluation
        mean, sd = (rounded(scores[key], scores["return_mean"]) for key in ("return_mean", "return_std"))
        console.print(
            f"evaluation: mean return [bold]{mean}[/bold], sd {sd}, "
            f"mean length {scores['length_mean']:.1f} steps over {scores['episodes']} deterministic episodes"
        )
    if result.run_dir:
        folder = shlex.quote(os.path.relpath(result.run_dir, Path.cwd()))
        console.print(f"folder:     {folder}", markup=False)
        if result.status == "failed":
            console.print(f"log:        {folder}/train.log", markup=False)
        trust = "".join(f" --trust {name}" for name in own_modules)
        console.print("\nnext:", markup=False)
        if again:
            console.print(f"  {again}", markup=False)
        if result.iterations or result.status != "failed":  # or it would fail again
            console.print(f"  python -m pg_experiments.evaluate {folder} --episodes 100{trust}", markup=False)
        console.print(f"  tensorboard --logdir {folder}", markup=False)
