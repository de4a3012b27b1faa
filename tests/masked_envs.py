"""Environments with action masks: a native one that does not suffer illegal actions, and one of Gymnasium."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Int64, Num
from torch import Tensor

from pg_experiments.envs.interface import DiscreteActions, EnvSpec, MultiDiscreteActions, Transition

COUNTS = (3, 2, 4)  # of several choices


@dataclass(frozen=True)
class Doors:
    """Three numbers in [0, 1) that move with the action; some doors are open, behind later ones there is more.

    Attributes:
        several: three choices at once instead of one of five doors.
        never_at: step after which no door is open in copy 1.
    """

    several: bool = False
    never_at: int = -1
    max_episode_steps: int = 21

    @property
    def counts(self) -> tuple[int, ...]:
        return COUNTS if self.several else (5,)

    @property
    def spec(self) -> EnvSpec:
        actions = MultiDiscreteActions(COUNTS) if self.several else DiscreteActions(5)
        size = sum(self.counts)
        return EnvSpec(3 + size, actions, self.max_episode_steps, 3, mask_size=size)

    def reset(self, noise: Float[Tensor, "runs envs 3"]) -> tuple[Any, Float[Tensor, "runs envs observation"]]:
        state = (noise, torch.zeros(noise.shape[:2], dtype=torch.long))
        return state, self._observation(*state)

    def step(
        self, state: Any, action: Num[Tensor, "runs envs *action"], running: Bool[Tensor, "runs envs"]
    ) -> Transition:
        numbers, played = state
        chosen = action if self.several else action[..., None]
        mask = self._observation(*state)[..., 3:].split(self.counts, -1)
        for choice, own in zip(mask, chosen.unbind(-1), strict=True):
            assert bool((choice.gather(-1, own[..., None])[..., 0] > 0)[running].flatten().all(0)), "a closed door"
        reward = chosen.sum(-1).to(numbers.dtype)
        numbers = (numbers * 1.7 + 0.31 * reward[..., None] + 0.13).frac()
        played = played + 1
        over = played >= 15 + (5 * numbers[..., 0]).long()
        return Transition((numbers, played), self._observation(numbers, played), reward, over, torch.zeros_like(over))

    def select(self, state: Any, rows: Int64[Tensor, " rows"]) -> Any:
        return tuple(part[rows] for part in state)

    def join(self, states: Sequence[Any]) -> Any:
        return tuple(torch.cat(parts) for parts in zip(*states, strict=True))

    def _observation(self, numbers: Tensor, played: Tensor) -> Tensor:
        masks = []
        for place, count in enumerate(self.counts):
            own = (numbers[..., :1] * torch.arange(3, 3 + count) + numbers[..., 1:2] * (place + 2)).frac() > 0.6
            always = (played % count)[..., None] == torch.arange(count)
            masks.append(own | always)
        mask = torch.cat(masks, -1)
        if self.never_at >= 0:
            copy = torch.arange(numbers.shape[1]) == 1
            mask = mask & ~((played == self.never_at) & copy)[..., None]
        return torch.cat([numbers, mask.to(numbers.dtype)], -1)


class GymnasiumDoors(gymnasium.Env[Any, Any]):
    """One step: the doors that are closed cost a hundred; `info` says which, in the form that `kind` asks for."""

    observation_space: Any

    def __init__(self, kind: str = "good", several: bool = False, images: bool = False) -> None:
        self.kind = kind
        self.observation_space = spaces.Box(0, 255, (6, 5), np.uint8) if images else spaces.Box(0, 1, (2,), np.float64)
        self.action_space = spaces.MultiDiscrete(COUNTS, start=[1, 0, -1]) if several else spaces.Discrete(5, start=3)
        self._first = np.array([1, 0, -1]) if several else np.array([3])
        self._counts = COUNTS if several else (5,)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._masks = tuple(
            (np.arange(count) == self.np_random.integers(count)).astype(np.int8) for count in self._counts
        )
        return self._observation(), self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        own = np.ravel(action) - self._first
        legal = all(mask[place] for mask, place in zip(self._masks, own, strict=True))
        return self._observation(), 1.0 if legal else -100.0, True, False, self._info()

    def _observation(self) -> Any:
        shape = self.observation_space.shape
        if len(shape) == 2:
            return self.np_random.integers(256, size=shape, dtype=np.uint8)
        return self.np_random.random(shape)

    def _info(self) -> dict[str, Any]:
        masks = self._masks if len(self._masks) > 1 else self._masks[0]
        given: dict[str, Any] = {
            "good": masks,
            "short": np.ones(2, np.int8),
            "real": np.full(sum(self._counts), 0.5),
            "two": np.full(sum(self._counts), 2),
            "closed": np.zeros(sum(self._counts), np.int8),
        }
        return {} if self.kind == "none" else {"action_mask": given[self.kind], "more": 1}


gymnasium.register("GymnasiumDoors-v0", GymnasiumDoors, max_episode_steps=5)
