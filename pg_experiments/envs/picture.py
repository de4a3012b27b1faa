"""The figure in which an environment's frames are drawn: its size, its ink, and no style of the user's."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLUMNS, ROWS = 640, 400  # pixels
DOTS_PER_INCH = 100
INK = "#22303c"


@contextmanager
def own_style() -> Iterator[None]:
    """Draw with matplotlib's defaults, whatever style the user works in."""
    with matplotlib.rc_context(
        {key: value for key, value in matplotlib.rcParamsDefault.items() if "backend" not in key}
    ):
        yield


def empty_figure() -> tuple[Figure, Any]:
    """A figure of `COLUMNS` by `ROWS` pixels and the canvas that makes pixels of it."""
    figure = Figure(figsize=(COLUMNS / DOTS_PER_INCH, ROWS / DOTS_PER_INCH), dpi=DOTS_PER_INCH)
    return figure, cast(Any, FigureCanvasAgg(figure))
