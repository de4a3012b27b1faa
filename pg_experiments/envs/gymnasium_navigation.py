"""The navigation task as a single-copy `gymnasium.Env`: for pictures, other libraries and checks.

Imports no torch; `navigation.py` holds the task's description.
"""

import math
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from pg_experiments.envs.navigation_field import (
    DISCRETE_STEP,
    DOWN,
    HEIGHT,
    LEFT,
    MAX_STEP,
    RIGHT,
    START,
    STAY,
    UP,
    WIDTH,
    climb_reward,
    field_value,
    scaled_position,
    within_target,
)

if TYPE_CHECKING:
    from pg_experiments.envs.navigation_picture import NavigationPicture

MOVES = {UP: (0, 1), DOWN: (0, -1), RIGHT: (1, 0), LEFT: (-1, 0), STAY: (0, 0)}
CONTINUOUS_METADATA: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 5}
DISCRETE_METADATA: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}


class _NavigationBase(gymnasium.Env[NDArray[np.float32], Any]):
    """What both tasks share: the rectangle, its field, the reward and the picture.

    Attributes:
        state: position (x m, y m), float64; may be set from outside.
        trajectory: all positions of the episode, the start first.

    Args:
        render_mode: None or "rgb_array".
        start_noise: the start is uniform within ± this fraction of width and height; 0 is exact.
    """

    def __init__(self, render_mode: str | None = None, start_noise: float = 0.02) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(f"render_mode={render_mode!r}: use None or 'rgb_array'")
        self.render_mode = render_mode
        self.start_noise = start_noise
        self.observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.state: NDArray[np.float64] | None = None
        self.trajectory: list[tuple[float, float]] = []
        self._picture: NavigationPicture | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode near the lower left corner, or exactly at `options={"start": (x, y)}` (m)."""
        super().reset(seed=seed)
        if options and "start" in options:
            x, y = (float(coordinate) for coordinate in options["start"])
            if not (0 <= x <= WIDTH and 0 <= y <= HEIGHT):
                raise ValueError(f"start=({x:g}, {y:g}): must lie within {WIDTH:g} m by {HEIGHT:g} m")
        else:
            noise = self.np_random.uniform(-self.start_noise, self.start_noise, size=2)
            x, y = _within_borders(START[0] + noise[0] * WIDTH, START[1] + noise[1] * HEIGHT)
        self.state = np.array([x, y])
        self.trajectory = [(x, y)]
        return self._observation(x, y), {"field_value": field_value(x, y)}

    def render(self) -> NDArray[np.uint8] | None:
        """Field, start, target and the way so far: an image [400, 640, 3], or None without a render mode."""
        if self.render_mode is None:
            return None
        if self.state is None:
            raise RuntimeError("reset must be called before render")
        if self._picture is None:
            # Here and not above, so that matplotlib is loaded by those only who look.
            from pg_experiments.envs.navigation_picture import NavigationPicture

            self._picture = NavigationPicture()
        return self._picture.draw(self.trajectory)

    def close(self) -> None:
        self._picture = None

    def _move(self, move_x: float, move_y: float) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        if self.state is None:
            raise RuntimeError("reset must be called before step")
        value_before = field_value(*map(float, self.state))
        x, y = _within_borders(float(self.state[0]) + move_x, float(self.state[1]) + move_y)
        self.state = np.array([x, y])
        self.trajectory.append((x, y))
        terminated = within_target(x, y)
        value = field_value(x, y)
        reward = climb_reward(value_before, 1.0 if terminated else value)
        return self._observation(x, y), reward, terminated, False, {"field_value": value}

    @staticmethod
    def _observation(x: float, y: float) -> NDArray[np.float32]:
        return np.array(scaled_position(x, y), dtype=np.float32)


class Navigation(_NavigationBase):
    """Action (angle in [-π, π] rad, step size in [0, 0.192] m): `pg_experiments/Navigation-v0`."""

    metadata = CONTINUOUS_METADATA

    def __init__(self, render_mode: str | None = None, start_noise: float = 0.02) -> None:
        super().__init__(render_mode, start_noise)
        self.action_space = spaces.Box(np.array([-math.pi, 0.0], np.float32), np.array([math.pi, MAX_STEP], np.float32))

    def step(self, action: NDArray[np.floating]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        angle = float(action[0])
        step_size = min(max(float(action[1]), 0.0), MAX_STEP)
        return self._move(math.cos(angle) * step_size, math.sin(angle) * step_size)


class NavigationDiscrete(_NavigationBase):
    """Action up 0, down 1, right 2, left 3 or stay 4: `pg_experiments/NavigationDiscrete-v0`."""

    metadata = DISCRETE_METADATA

    def __init__(self, render_mode: str | None = None, start_noise: float = 0.02) -> None:
        super().__init__(render_mode, start_noise)
        self.action_space = spaces.Discrete(len(MOVES))

    def step(self, action: int | np.integer) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        if not self.action_space.contains(action):
            raise ValueError(f"action={action!r}: must be a whole number from 0 to {len(MOVES) - 1}")
        rights, ups = MOVES[int(action)]
        return self._move(rights * DISCRETE_STEP, ups * DISCRETE_STEP)


def _within_borders(x: float, y: float) -> tuple[float, float]:
    return float(min(max(x, 0.0), WIDTH)), float(min(max(y, 0.0), HEIGHT))
