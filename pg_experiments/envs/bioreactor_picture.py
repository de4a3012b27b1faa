"""The picture of a bioreactor's episode: concentrations, dilution rate and production over the hours so far."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pg_experiments.envs.bioreactor_model import MAX_DILUTION, MAX_EPISODE_STEPS, STEP_HOURS
from pg_experiments.envs.picture import INK, empty_figure, own_style

if TYPE_CHECKING:
    from pg_experiments.envs.gymnasium_bioreactor import Moment

BIOMASS, SUBSTRATE, DILUTION, PRODUCTION = "#2e7d4f", "#c77d0a", "#2a6f97", "#6b4c9a"
PANELS = (  # label, its lines (name of the quantity, colour), least height of the axis
    ("g/L", (("biomass", BIOMASS), ("substrate", SUBSTRATE)), 6.0),
    ("1/h", (("dilution", DILUTION),), MAX_DILUTION),
    ("g/L", (("production", PRODUCTION),), 80.0),
)


class BioreactorPicture:
    """A figure of three strips, drawn anew for every frame, with axes that grow only where they have to."""

    def __init__(self) -> None:
        with own_style():
            self._build()

    def _build(self) -> None:
        self._figure, self._canvas = empty_figure()
        grid = {"left": 0.085, "right": 0.975, "top": 0.93, "bottom": 0.105, "hspace": 0.34}
        self._axes = self._figure.subplots(3, 1, sharex=True, height_ratios=(1.5, 1, 1), gridspec_kw=grid)
        self._lines: dict[str, Any] = {}
        for axes, (unit, quantities, _) in zip(self._axes, PANELS, strict=True):
            for name, color in quantities:
                style = "steps-pre" if name == "dilution" else "default"
                (self._lines[name],) = axes.plot([], [], color=color, linewidth=1.8, drawstyle=style)
            axes.set_ylabel(unit, fontsize=9, color=INK)
            axes.tick_params(labelsize=8, length=2, color=INK, labelcolor=INK)
            axes.grid(alpha=0.2)
            axes.spines[["top", "right"]].set_visible(False)
        self._axes[-1].set_xlabel("hours", fontsize=9, color=INK)
        self._titles = [
            axes.text(0.004 + 0.25 * place, 1.03, "", transform=axes.transAxes, fontsize=9, color=color)
            for axes, (_, quantities, _) in zip(self._axes, PANELS, strict=True)
            for place, (_, color) in enumerate(quantities)
        ]

    def draw(self, history: Sequence["Moment"]) -> NDArray[np.uint8]:
        """The frame after the last moment.

        Args:
            history: every moment of an episode, the start first, at least one.

        Returns:
            Image [400, 640, 3], red, green and blue from 0 to 255.
        """
        hours = np.arange(len(history)) * STEP_HOURS
        titles = iter(self._titles)
        for axes, (unit, quantities, least) in zip(self._axes, PANELS, strict=True):
            highest = least
            for name, _ in quantities:
                values = np.array([getattr(moment, name) for moment in history])
                self._lines[name].set_data(hours, values)
                highest = max(highest, 1.05 * values.max())
                next(titles).set_text(f"{name} {values[-1]:.2f} {unit}")
            axes.set_ylim(-0.04 * highest, highest)
        self._axes[-1].set_xlim(0, max(MAX_EPISODE_STEPS * STEP_HOURS, hours[-1]))
        self._canvas.draw()
        return np.asarray(self._canvas.buffer_rgba())[..., :3].copy()
