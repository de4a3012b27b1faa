"""A finite environment that is small enough to list everything that can happen in it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from pg_experiments.config import Config
from pg_experiments.env_config import EnvConfig
from pg_experiments.envs.interface import DiscreteActions, EnvSpec, Transition


class Episode(NamedTuple):
    """One of all possible episodes: its start, its actions, and its steps (state, action, reward)."""

    start: int
    actions: tuple[int, ...]
    steps: tuple[tuple[int, int, float], ...]


@dataclass(frozen=True)
class SmallMDP:
    """Deterministic moves between a few states from a random start; the observation is the one-hot state.

    Attributes:
        following: state after each action in each state.
        rewards: of each action in each state.
        terminal: states in which the task ends.
        start_probabilities: of each state.
    """

    following: tuple[tuple[int, ...], ...] = ((1, 2), (2, 0), (3, 1), (3, 3))
    rewards: tuple[tuple[float, ...], ...] = ((1.0, -0.3), (0.4, 2.0), (-1.1, 0.7), (5.0, -7.0))
    terminal: tuple[int, ...] = (3,)
    start_probabilities: tuple[float, ...] = (0.625, 0.0, 0.375, 0.0)
    max_episode_steps: int = 3

    @property
    def spec(self) -> EnvSpec:
        states = len(self.following)
        return EnvSpec(states, DiscreteActions(len(self.following[0])), self.max_episode_steps, 1, states)

    def reset(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        start = (noise >= torch.tensor(self.start_probabilities, dtype=noise.dtype).cumsum(0)).sum(-1)
        state = self.one_hot(start, noise.dtype)
        return state, state

    def step(self, state: Tensor, action: Tensor, running: Tensor) -> Transition:
        before = state.argmax(-1)
        following = torch.tensor(self.following)[before, action]
        reward = torch.tensor(self.rewards, dtype=state.dtype)[before, action]
        terminated = torch.isin(following, torch.tensor(self.terminal, dtype=torch.long))
        after = self.one_hot(following, state.dtype)
        return Transition(after, after, reward, terminated, torch.zeros_like(terminated))

    def select(self, state: Tensor, rows: Tensor) -> Tensor:
        return state[rows]

    def join(self, states: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(states))

    def one_hot(self, state: Tensor, dtype: torch.dtype) -> Tensor:
        return torch.eye(len(self.following), dtype=dtype)[state]

    def episodes(self) -> list[Episode]:
        """Every possible episode, each once."""
        found = []
        unfinished = [Episode(start, (), ()) for start, p in enumerate(self.start_probabilities) if p > 0]
        while unfinished:
            start, actions, steps = unfinished.pop()
            state = self.following[steps[-1][0]][steps[-1][1]] if steps else start
            if len(steps) == self.max_episode_steps or (steps and state in self.terminal):
                found.append(Episode(start, actions, steps))
                continue
            for action, reward in enumerate(self.rewards[state]):
                unfinished.append(Episode(start, (*actions, action), (*steps, (state, action, reward))))
        return found


ENDS_AT_DIFFERENT_TIMES = SmallMDP()
NEVER_TERMINATES = SmallMDP(
    following=((1, 2), (2, 0), (0, 1)),
    rewards=((1.0, -0.3), (0.4, 2.0), (-1.1, 0.7)),
    terminal=(),
    start_probabilities=(0.75, 0.25, 0.0),
)


def completed(config: Config) -> Config:
    """A config whose own env part has the keys that composing from YAML would have given it."""
    return replace(config, env={**asdict(EnvConfig()), **config.env})
