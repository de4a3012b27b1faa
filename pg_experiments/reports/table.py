"""The comparison as a table in the terminal."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pg_experiments.reports.settings import Comparison, Setting
from pg_experiments.reports.statistics import Score, score

BEST = "★"


FINAL = "the final deterministic evaluation"


def print_table(comparison: Comparison, console: Console, metric: str = FINAL) -> None:
    """One row per setting, the best of every task marked, and below it what the numbers are.

    Args:
        comparison: to be shown.
        console: to print on.
        metric: which evaluation it is of, in words.
    """
    best, digits = best_settings(comparison), digits_of(comparison)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("")
    for name in comparison.settings[0].short_values:
        table.add_column(escape(name.replace(".", ".\n").replace("_", "_\n")), overflow="fold")
    for name in ("runs", "mean", "sd"):
        table.add_column(name, justify="right", no_wrap=name != "runs")
    table.add_column("95 % interval", justify="right", no_wrap=True)
    table.add_column("worst\n(seed)", justify="right", no_wrap=True)
    for setting in comparison.settings:
        marked = setting in best
        table.add_row(
            BEST if marked else "",
            *map(escape, setting.values.values()),
            _counts(setting),
            *_cells(score(setting), digits[setting.task]),
            style="bold green" if marked else None,
        )
    console.print(table)
    console.print(caption(comparison, metric), style="dim")


def best_settings(comparison: Comparison) -> list[Setting]:
    """Of every task with more than one evaluated setting, the one with the highest mean, or all that share it."""
    best = []
    for task in dict.fromkeys(setting.task for setting in comparison.settings):
        rivals = [(found.mean, s) for s in comparison.settings if s.task == task and (found := score(s)) is not None]
        if len(rivals) > 1:
            highest = max(mean for mean, _ in rivals)
            best += [setting for mean, setting in rivals if mean == highest]
    return best


def caption(comparison: Comparison, metric: str = FINAL) -> str:
    """What metric, how many episodes, which seeds, which interval, and over which runs the means are."""
    completed = [run for setting in comparison.settings for run in setting.completed]
    if not completed:
        return "No run has completed: there is no evaluation to compare."
    episodes = " or ".join(str(count) for count in sorted({run.episodes or 0 for run in completed}))
    repeated = any(len(setting.completed) > 1 for setting in comparison.settings)
    over = "mean, sd and 95 % interval (Student's t) over" if repeated else "of one seed, so without interval:"
    lines = [f"Mean return of {metric}, {episodes} episodes per run; {over} {_seeds(comparison)}."]
    if lengths := [int(run.env_steps[-1]) for run in completed if len(run.env_steps)]:
        shortest, longest = min(lengths), max(lengths)
        lines.append(f"{shortest:,}{'' if shortest == longest else f' to {longest:,}'} env steps a run.")
    if any(setting.missing() for setting in comparison.settings):
        lines.append("Means are over the completed runs only.")
    if best_settings(comparison):
        tasks = {setting.task for setting in best_settings(comparison)}
        lines.append(f"{BEST} highest mean{' of its environment' if len(tasks) > 1 else ''}.")
    return " ".join(lines)


def number(value: float, digits: int) -> str:
    """A return with so many digits after the point."""
    return f"{value:.{digits}f}"


def digits_of(comparison: Comparison) -> dict[str, int]:
    """How many digits after the point tell something: as many for all of a task, so that numbers can be compared."""
    digits = {}
    for task in {setting.task for setting in comparison.settings}:
        means = [found.mean for one in comparison.settings if one.task == task and (found := score(one))]
        size = max(map(abs, means), default=1.0)
        digits[task] = 0 if size >= 10_000 else 1 if size >= 100 else 2 if size >= 1 else 4
    return digits


def _counts(setting: Setting) -> str:
    count = f"{len(setting.completed)} of {len(setting.runs)}"
    return "\n".join([count, *filter(None, setting.missing().split(", "))])


def _cells(found: Score | None, digits: int) -> list[str]:
    if found is None:
        return ["-"] * 4
    mean, lowest = number(found.mean, digits), number(found.worst.evaluation or 0.0, digits)
    worst = escape(f"{lowest} ({found.worst.seed})")
    if found.std is None or found.low is None or found.high is None:
        return [mean, "-", "-", worst]
    interval = f"{number(found.low, digits)} to {number(found.high, digits)}"
    return [mean, number(found.std, digits), interval, worst]


def _seeds(comparison: Comparison) -> str:
    """`seeds 0 to 9`, or the list of them, or how many when settings have different ones."""
    per_setting = {tuple(run.seed for run in setting.runs) for setting in comparison.settings}
    if len(per_setting) > 1:
        counts = sorted({len(seeds) for seeds in per_setting})
        return " to ".join(map(str, counts[:: max(len(counts) - 1, 1)])) + " seeds per setting"
    (seeds,) = per_setting
    if len(seeds) == 1:
        return escape(f"seed {seeds[0]}")
    if (
        len(seeds) > 2
        and isinstance(seeds[0], int)
        and list(seeds) == [seeds[0] + place for place in range(len(seeds))]
    ):
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return escape(f"seeds {', '.join(map(str, seeds))}") if len(seeds) <= 12 else f"{len(seeds)} seeds"
