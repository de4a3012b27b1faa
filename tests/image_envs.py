"""Environments of images: a dot to be caught, and CartPole seen through a camera."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import AddRenderObservation, GrayscaleObservation, TransformObservation


class Catch(gymnasium.Env[Any, Any]):
    """A dot falls, and a paddle of three pixels in the last row has to be under it: 1 where it is, else -1.

    Observation: `[size, size, 1]`, uint8. Action: left, stay, right; or, continuous, from -1 to 1, rounded. An episode
    is one dot.
    """

    observation_space: Any

    def __init__(self, size: int = 12, continuous: bool = False) -> None:
        self.size, self.continuous = size, continuous
        self.observation_space = spaces.Box(0, 255, (size, size, 1), np.uint8)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32) if continuous else spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.row, self.paddle = 0, self.size // 2
        self.column = int(self.np_random.integers(self.size))
        return self._picture(), {}

    def step(self, action: Any) -> Any:
        self.row += 1
        move = round(float(action[0])) if self.continuous else action - 1
        self.paddle = min(max(self.paddle + move, 1), self.size - 2)
        over = self.row == self.size - 1
        caught = abs(self.paddle - self.column) <= 1
        return self._picture(), (1.0 if caught else -1.0) * over, over, False, {}

    def _picture(self) -> Any:
        picture = np.zeros((self.size, self.size, 1), np.uint8)
        picture[-1, self.paddle - 1 : self.paddle + 2] = 128
        picture[self.row, self.column] = 255
        return picture


def camera_cartpole() -> Any:
    """CartPole, of which only a grey picture is seen: every 20th row and every 30th column of 400 x 600 pixels."""
    env = AddRenderObservation(gymnasium.make("CartPole-v1", render_mode="rgb_array"), render_only=True)
    space = spaces.Box(0, 255, (20, 20), np.uint8)
    return TransformObservation(GrayscaleObservation(env), lambda picture: picture[::20, ::30], space)


gymnasium.register("Catch-v0", Catch, max_episode_steps=50)
gymnasium.register("CameraCartPole-v0", camera_cartpole, max_episode_steps=20)
