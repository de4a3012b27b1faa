"""The bioreactor as a single-copy `gymnasium.Env`: for pictures, other libraries and checks.

Imports no torch; `bioreactor.py` holds the task's description.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from pg_experiments.envs.bioreactor_model import (
    DEATH,
    FEED,
    HALF_SATURATION,
    LEAST_AFTER_LOSS,
    MAX_BIOMASS,
    MAX_DILUTION,
    MAX_GROWTH,
    MAX_SUBSTRATE,
    STEP_HOURS,
    SUBSTEPS,
    WASHOUT,
    WASHOUT_REWARD,
    YIELD,
    scaled_observation,
)

if TYPE_CHECKING:
    from pg_experiments.envs.bioreactor_picture import BioreactorPicture


class Moment(NamedTuple):
    """What a picture shows: g/L, g/L, the dilution rate of the step that led here (1/h), and the production (g/L)."""

    biomass: float
    substrate: float
    dilution: float
    production: float


class Bioreactor(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """Action: one dilution rate in [0, 1] 1/h for half an hour: `pg_experiments/Bioreactor-v0`.

    Attributes:
        state: (biomass g/L, substrate g/L, hours so far, hour of the sudden loss), float64; may be set from outside.
        history: every moment of the episode, the start first.

    Args:
        render_mode: None or "rgb_array".
        start_biomass, start_substrate, loss, loss_probability, loss_hours: as of the native environment.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(
        self,
        render_mode: str | None = None,
        start_biomass: Sequence[float] = (0.001, 5.0),
        start_substrate: Sequence[float] = (0.0, 3.0),
        loss: float = 3.0,
        loss_probability: float = 0.5,
        loss_hours: Sequence[float] = (0.0, 50.0),
    ) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(f"render_mode={render_mode!r}: use None or 'rgb_array'")
        self.render_mode = render_mode
        self.start_biomass, self.start_substrate = start_biomass, start_substrate
        self.loss, self.loss_probability, self.loss_hours = loss, loss_probability, loss_hours
        most = scaled_observation(MAX_BIOMASS, MAX_SUBSTRATE, (0.0, 0.0), MAX_DILUTION)
        least = scaled_observation(0.0, 0.0, (MAX_BIOMASS, MAX_SUBSTRATE), 0.0)
        self.observation_space = spaces.Box(np.array(least, np.float32), np.array(most, np.float32))
        self.action_space = spaces.Box(0.0, MAX_DILUTION, (1,), np.float32)
        self.state: NDArray[np.float64] | None = None
        self.history: list[Moment] = []
        self._picture: BioreactorPicture | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode, at random or exactly at `options={"start": (biomass, substrate)}` (g/L)."""
        super().reset(seed=seed)
        noise = self.np_random.uniform(0.0, 1.0, size=4)
        (least, most), (low, high), (first, last) = self.start_biomass, self.start_substrate, self.loss_hours
        if options and "start" in options:
            biomass, substrate = (float(concentration) for concentration in options["start"])
            if not (WASHOUT <= biomass <= MAX_BIOMASS and 0 <= substrate <= MAX_SUBSTRATE):
                allowed = f"{WASHOUT} to {MAX_BIOMASS:g} g/L of biomass and 0 to {MAX_SUBSTRATE:g} g/L of substrate"
                raise ValueError(f"start=({biomass:g}, {substrate:g}): must be {allowed}")
        else:
            biomass = least * math.exp(noise[0] * math.log(most / least))
            substrate = low + (high - low) * noise[1]
        loss_hour = first + (last - first) * noise[3] if noise[2] < self.loss_probability else -1.0
        self.state = np.array([biomass, substrate, 0.0, loss_hour])
        self.history = [Moment(biomass, substrate, 0.0, 0.0)]
        return self._observation((biomass, substrate), 0.0), self._info()

    def step(self, action: NDArray[np.floating]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        if self.state is None:
            raise RuntimeError("reset must be called before step")
        before = (float(self.state[0]), float(self.state[1]))
        hours, loss_hour = float(self.state[2]), float(self.state[3])
        dilution = min(max(float(action[0]), 0.0), MAX_DILUTION)
        biomass, substrate, mean_biomass = _after_half_an_hour(before, dilution)
        terminated = biomass < WASHOUT
        harvest = dilution * mean_biomass  # g/(L h)
        if hours <= loss_hour < hours + STEP_HOURS:
            biomass = min(biomass, max(biomass - self.loss, LEAST_AFTER_LOSS))
        self.state = np.array([biomass, substrate, hours + STEP_HOURS, loss_hour])
        production = (self.history[-1].production if self.history else 0.0) + harvest * STEP_HOURS
        self.history.append(Moment(biomass, substrate, dilution, production))
        reward = WASHOUT_REWARD if terminated else harvest
        return self._observation(before, dilution), reward, terminated, False, self._info()

    def render(self) -> NDArray[np.uint8] | None:
        """Concentrations, dilution rate and production so far: an image [400, 640, 3], or None without a mode."""
        if self.render_mode is None:
            return None
        if not self.history:
            raise RuntimeError("reset must be called before render")
        if self._picture is None:
            # Here and not above, so that matplotlib is loaded by those only who look.
            from pg_experiments.envs.bioreactor_picture import BioreactorPicture

            self._picture = BioreactorPicture()
        return self._picture.draw(self.history)

    def close(self) -> None:
        self._picture = None

    def _observation(self, before: tuple[float, float], dilution: float) -> NDArray[np.float32]:
        assert self.state is not None
        biomass, substrate = float(self.state[0]), float(self.state[1])
        return np.array(scaled_observation(biomass, substrate, before, dilution), dtype=np.float32)

    def _info(self) -> dict[str, Any]:
        """In g/L."""
        return self.history[-1]._asdict()


def _after_half_an_hour(state: tuple[float, float], dilution: float) -> tuple[float, float, float]:
    """Biomass, substrate and the mean of the biomass (g/L), by classic Runge-Kutta steps."""
    hours = STEP_HOURS / SUBSTEPS

    def slopes(biomass: float, substrate: float) -> tuple[float, float]:
        growth = MAX_GROWTH * substrate / (HALF_SATURATION + substrate)
        return (growth - dilution - DEATH) * biomass, dilution * (FEED - substrate) - growth * biomass / YIELD

    biomass, substrate = state
    mean_biomass = 0.0
    for _ in range(SUBSTEPS):
        first = slopes(biomass, substrate)
        second = slopes(biomass + hours / 2 * first[0], substrate + hours / 2 * first[1])
        third = slopes(biomass + hours / 2 * second[0], substrate + hours / 2 * second[1])
        fourth = slopes(biomass + hours * third[0], substrate + hours * third[1])
        mean_biomass += biomass / (2 * SUBSTEPS)
        biomass += hours / 6 * (first[0] + 2 * second[0] + 2 * third[0] + fourth[0])
        substrate += hours / 6 * (first[1] + 2 * second[1] + 2 * third[1] + fourth[1])
        mean_biomass += biomass / (2 * SUBSTEPS)
    return min(max(biomass, 0.0), MAX_BIOMASS), min(max(substrate, 0.0), MAX_SUBSTRATE), mean_biomass
