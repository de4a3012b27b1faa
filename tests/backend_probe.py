"""An environment that shows what became of its last observation: reward 1 a step, and an end that its seed decides."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

RESET = -7.0  # where there would be the number of steps


class Probe(gymnasium.Env[Any, Any]):
    """Observes the steps of its episode, or `RESET`, and a number that its seed decides, from 3 to 6.

    It ends itself after that many steps: with an odd number as terminated, with an even one as truncated. With `both`,
    both are true at every end.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, both: bool = False) -> None:
        self.both = both
        self.over = True

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.length, self.steps, self.over = int(self.np_random.integers(3, 7)), 0, False
        return np.array([RESET, self.length], np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert not self.over, "stepped on after its end"
        self.steps += 1
        self.over = self.steps == self.length
        terminated, truncated = (self.over and (self.both or self.length % 2 == rest) for rest in (1, 0))
        return np.array([self.steps, self.length], np.float32), 1.0, terminated, truncated, {}


gymnasium.register("Probe-v0", entry_point=Probe, max_episode_steps=50)
