"""The comparison as a picture: learning curves of all settings."""

import io
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pg_experiments.errors import UserError
from pg_experiments.files import write_atomically
from pg_experiments.reports.settings import Comparison, Setting
from pg_experiments.reports.statistics import Curve, curve, score
from pg_experiments.reports.table import BEST, best_settings, digits_of, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT, DPI = 16.0, 10.0, 100  # inches and dots per inch: 1600 x 1000
MOST_LINES, MOST_PANELS = 8, 30
WIDE, WIDE_BESIDE_A_LEGEND = 110, 80  # characters of a line of the title, in the middle of the picture
LEGEND = 34  # the same of the legend
# Okabe and Ito (2008), "Color Universal Design"; the yellow, last, is darkened for lines on white
OKABE_ITO = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#000000", "#b8a800")
ONE_RUN = "line: the run, not smoothed"
MANY_RUNS = "line: mean over seeds, not smoothed · band: its 95 % bootstrap interval{} · faint: single runs{}"
ENOUGH_SEEDS = 10  # see `statistics.score` for what the bootstrap makes of fewer
PANELS = "grey: the other settings · above each panel: final evaluation, mean [95 % interval, Student's t]"


def write_picture(comparison: Comparison, path: Path) -> None:
    """Draw and write a PNG, atomically.

    Raises:
        UserError: when it cannot be written.
    """
    content = io.BytesIO()
    draw(comparison).savefig(content, format="png", dpi=DPI)
    try:
        write_atomically(path, content.getvalue())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def draw(comparison: Comparison) -> "Figure":
    """The figure: up to eight settings of one environment in one panel, otherwise a panel each.

    A panel of its own shows the other settings of the same environment in grey. Of more than thirty settings those with
    the highest final evaluations are drawn, and the title says so.
    """
    from matplotlib import rc_context

    shown = _shown(comparison)
    curves = [curve(setting) for setting in shown]
    style: dict[Any, Any] = {
        "font.size": 13,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "text.parse_math": False,  # a value with a dollar sign is no formula
    }
    with rc_context(style):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        figure = Figure(figsize=(WIDTH, HEIGHT), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
        FigureCanvasAgg(figure)
        explanation = _explanation(shown)
        if len(shown) <= MOST_LINES and len({setting.task for setting in shown}) == 1:
            _one_panel(figure, comparison, shown, curves)
        else:
            _panels(figure, comparison, shown, curves)
            explanation += f"\n{PANELS}"
        width = WIDE if len(figure.axes) > 1 else WIDE_BESIDE_A_LEGEND
        figure.suptitle(textwrap.fill(_title(comparison, shown), width), fontsize=17)
        figure.supxlabel(f"env steps of a run\n\n{explanation}", fontsize=12)
        figure.supylabel("mean episode return of an iteration (sampled actions, undiscounted)", fontsize=13)
    return figure


def _shown(comparison: Comparison) -> list[Setting]:
    settings = list(comparison.settings)
    if len(settings) <= MOST_PANELS:
        return settings
    scores = {id(setting): found.mean if (found := score(setting)) else -math.inf for setting in settings}
    best = sorted(settings, key=lambda setting: -scores[id(setting)])[:MOST_PANELS]
    return [setting for setting in settings if setting in best]


def _one_panel(
    figure: "Figure", comparison: Comparison, settings: Sequence[Setting], curves: Sequence[Curve | None]
) -> None:
    axes = figure.subplots()
    best, digits = best_settings(comparison), digits_of(comparison)
    handles, labels = [], []
    for setting, found, colour in zip(settings, curves, _colours(settings), strict=True):
        handles.append(_draw_setting(axes, setting, found, colour))
        mark = f"{BEST} " if setting in best else ""
        lines = [textwrap.fill(line, LEGEND, subsequent_indent="   ") for line in setting.short_lines]
        labels.append(mark + "\n".join([*lines, _outcome(setting, digits[setting.task])]))
    _finish_axes(axes)
    heading = textwrap.fill(comparison.name or "all runs", LEGEND)
    figure.legend(
        handles,
        labels,
        loc="outside right upper",
        title=f"{heading}:\nfinal evaluation, mean\n[95 % interval, Student's t]\n",
        frameon=False,
        labelspacing=0.9,
        fontsize=12,
    )


def _panels(
    figure: "Figure", comparison: Comparison, settings: Sequence[Setting], curves: Sequence[Curve | None]
) -> None:
    shapes = range(math.ceil(math.sqrt(len(settings))), math.ceil(math.sqrt(1.5 * len(settings))) + 1)
    columns = min(shapes, key=lambda count: -len(settings) % count)  # the fewest empty places
    rows = math.ceil(len(settings) / columns)
    size = 12 if rows <= 3 else 9
    panels = figure.subplots(rows, columns, squeeze=False).flat
    best, digits = best_settings(comparison), digits_of(comparison)
    by_task: dict[str, list[Any]] = {}
    for axes, setting, found, colour in zip(panels, settings, curves, _colours(settings), strict=False):
        for other, others in zip(settings, curves, strict=True):
            if others is not None and other is not setting and other.task == setting.task:
                axes.plot(others.env_steps, others.mean, color="0.85", linewidth=0.8, zorder=0)
        _draw_setting(axes, setting, found, colour)
        _finish_axes(axes)
        axes.tick_params(labelsize=size)
        mark = f"{BEST} " if setting in best else ""
        lines = textwrap.wrap(mark + ", ".join(setting.short_lines), (1700 // columns) // size)
        heading = "\n".join([*lines[:2], "…"] if len(lines) > 3 else lines)
        axes.set_title(f"{heading}\n{_outcome(setting, digits[setting.task])}", fontsize=size)
        by_task.setdefault(setting.task, []).append(axes)
        if len({other.task for other in settings}) == 1 and len(by_task[setting.task]) <= len(settings) - columns:
            axes.tick_params(labelbottom=False)  # the panel below has the same axis
    for axes in list(figure.axes)[len(settings) :]:
        axes.remove()
    for group in by_task.values():
        for limits in ("xlim", "ylim"):
            ends = [end for axes in group for end in getattr(axes, f"get_{limits}")()]
            for axes in group:
                axes.set(**{limits: (min(ends), max(ends))})


def _draw_setting(axes: "Axes", setting: Setting, found: Curve | None, colour: Any) -> Any:
    """Single runs, band and mean; the mean's line, for the legend."""
    completed = setting.completed
    for run in setting.runs:
        style = "-" if run in completed else "--"
        axes.plot(run.env_steps, run.return_mean, style, color=colour, linewidth=0.7, alpha=0.3, zorder=1)
    if found is None:
        return axes.plot([], [], color=colour, linewidth=2.4)[0]
    if found.low is not None and found.high is not None:
        axes.fill_between(found.env_steps, found.low, found.high, color=colour, alpha=0.2, linewidth=0, zorder=2)
    mark = "o" if len(found.env_steps) == 1 else ""  # one point is no line
    return axes.plot(found.env_steps, found.mean, color=colour, marker=mark, linewidth=2.4, zorder=3)[0]


def _finish_axes(axes: "Axes") -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.margins(x=0.01)
    axes.grid(alpha=0.25)


def _outcome(setting: Setting, digits: int) -> str:
    """The final evaluation in words, and what is missing."""
    found, missing = score(setting), setting.missing()
    counts = f"{len(setting.completed)} of {len(setting.runs)} runs" + (f": {missing}" if missing else "")
    if found is None:
        return f"no evaluation, {counts}"
    interval = (
        ""
        if found.low is None or found.high is None
        else f" [{number(found.low, digits)}, {number(found.high, digits)}]"
    )
    return f"{number(found.mean, digits)}{interval}" + (f"\n{counts}" if missing else "")


def _explanation(settings: Sequence[Setting]) -> str:
    """What is drawn, and what to beware of."""
    most = max(len(setting.runs) for setting in settings)
    narrow = any(1 < len(setting.completed or setting.runs) < ENOUGH_SEEDS for setting in settings)
    dashed = ", dashed if not completed" if any(setting.missing() for setting in settings) else ""
    warning = f", too narrow with fewer than {ENOUGH_SEEDS} seeds" if narrow else ""
    return MANY_RUNS.format(warning, dashed) if most > 1 else ONE_RUN


def _title(comparison: Comparison, shown: Sequence[Setting]) -> str:
    tasks = list(dict.fromkeys(setting.task for setting in shown))
    runs = sum(len(setting.runs) for setting in comparison.settings)
    count = len(comparison.settings)
    where = ", ".join(tasks) if len(tasks) <= 3 else f"{len(tasks)} environments"
    best_only = f", the best {len(shown)} of {count} settings" if len(shown) < count else ""
    kind = f"{count} learning rates" if comparison.name == "learning rate" else f"{count} settings of {comparison.name}"
    settings = f" with {kind}" if count > 1 else ""
    return f"Learning on {where}: {runs} run{'s' * (runs != 1)}{settings}{best_only}"


def _colours(settings: Sequence[Setting]) -> list[Any]:
    """Colours that the colour-blind can tell apart: numbers go from dark to light, other choices are distinct."""
    from matplotlib import colormaps

    ordered = all(len(setting.values) == 1 and _is_number(setting.label) for setting in settings)
    if not ordered and 1 < len(settings) <= len(OKABE_ITO):
        return list(OKABE_ITO[: len(settings)])
    return [colormaps["viridis"](0.85 * place / max(len(settings) - 1, 1)) for place in range(len(settings))]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
