"""The picture of a navigation episode: field, contour lines, start, target and the way so far."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.patches import Circle
from matplotlib.patheffects import Normal, Stroke
from numpy.typing import NDArray

from pg_experiments.envs.navigation_field import HEIGHT, TARGET, TARGET_RADIUS, WIDTH, field_value
from pg_experiments.envs.picture import INK, empty_figure, own_style

WAY = "#ffffff"
AGENT = "#e8452c"
FILL_LEVELS = np.linspace(0.0, 1.0, 21)
LINE_LEVELS = np.linspace(0.1, 0.9, 9)


class NavigationPicture:
    """A figure whose background is drawn once; every frame puts the moving parts on a copy of it."""

    def __init__(self) -> None:
        with own_style():
            self._build()

    def _build(self) -> None:
        self._figure, self._canvas = empty_figure()
        self._axes = self._figure.add_axes((0.03, 0.03, 0.86, 0.86))
        self._axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT), xticks=[], yticks=[])
        self._draw_field()
        self._moving = self._moving_parts()
        self._canvas.draw()
        self._background = self._canvas.copy_from_bbox(self._figure.bbox)

    def _draw_field(self) -> None:
        x, y = np.meshgrid(np.linspace(0, WIDTH, 161), np.linspace(0, HEIGHT, 101))
        field = field_value(x, y)
        filled = self._axes.contourf(x, y, field, FILL_LEVELS, cmap="viridis")
        self._axes.contour(x, y, field, LINE_LEVELS, colors="white", linewidths=0.6, alpha=0.5)
        for spine in self._axes.spines.values():
            spine.set(color=INK, linewidth=0.8)
        bar = self._figure.colorbar(filled, cax=self._figure.add_axes((0.925, 0.03, 0.018, 0.86)))
        bar.set_ticks([0, 0.25, 0.5, 0.75, 1], labels=["0", "¼", "½", "¾", "1"])
        bar.ax.tick_params(labelsize=9, length=2, pad=3, color=INK, labelcolor=INK)
        bar.outline.set(edgecolor=INK, linewidth=0.8)
        self._axes.add_patch(
            Circle(
                TARGET,
                TARGET_RADIUS,
                facecolor=(1, 1, 1, 0.55),
                edgecolor=AGENT,
                linewidth=1.6,
                clip_on=False,
            )
        )

    def _moving_parts(self) -> dict[str, Any]:
        def mark(marker: str, size: float, color: str, edge: str, edge_width: float) -> Any:
            (line,) = self._axes.plot([], [], marker, color=color, animated=True, clip_on=False)
            line.set(markersize=size, markeredgecolor=edge, markeredgewidth=edge_width)
            return line

        line = mark("-", 0.0, WAY, INK, 0.0)
        line.set(linewidth=1.4, path_effects=[Stroke(linewidth=3.0, foreground=(0, 0, 0, 0.45)), Normal()])
        points, start, agent = (
            mark("o", 2.8, WAY, INK, 0.6),
            mark("s", 8.0, WAY, INK, 1.0),
            mark("o", 11.0, AGENT, WAY, 1.6),
        )
        left, right = (
            self._figure.text(at, 0.945, "", ha=side, va="center", size=10.5, color=INK, animated=True)
            for at, side in ((0.03, "left"), (0.855, "right"))
        )
        return {"line": line, "points": points, "start": start, "agent": agent, "left": left, "right": right}

    def draw(self, trajectory: Sequence[tuple[float, float]]) -> NDArray[np.uint8]:
        """The frame after the last position of a trajectory.

        Args:
            trajectory: positions (x m, y m), the start first, at least one.

        Returns:
            Image [400, 640, 3], red, green and blue from 0 to 255.
        """
        x, y = np.array(trajectory).T
        self._moving["line"].set_data(x, y)
        self._moving["points"].set_data(x[1:-1], y[1:-1])
        self._moving["start"].set_data(x[:1], y[:1])
        self._moving["agent"].set_data(x[-1:], y[-1:])
        actions = len(trajectory) - 1
        self._moving["left"].set_text(f"{actions} action" + ("" if actions == 1 else "s"))
        self._moving["right"].set_text(f"field value {field_value(x[-1], y[-1]):.2f}")
        self._canvas.restore_region(self._background)
        for part in self._moving.values():
            self._figure.draw_artist(part)
        return np.asarray(self._canvas.buffer_rgba())[..., :3].copy()
