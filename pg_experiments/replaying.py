"""Environments whose state cannot be saved, brought back to where they were: by the same reset and the same actions."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64, Num, Shaped
from torch import Tensor

from pg_experiments.envs.interface import BoxActions, DiscreteActions, Env, EnvState, MixedActions, action_width
from pg_experiments.envs.restarting import restarted


class Replay:
    """What makes the episodes in progress: for every copy the noise of its reset, and its actions since.

    An environment draws nothing but from the seed of its reset, so the same actions lead to the same state. Nothing is
    truncated for it, and it does not matter at which iterations a run is saved; the cost is memory for
    `max_episode_steps` actions a copy, and, when a run is continued, at most one episode's steps of each copy. They are
    not counted among the run's.

    Args:
        env: wrappers included.
        noise: of the first reset.

    Attributes:
        noise: of the reset of each copy's episode.
        actions: the environment's, of which the first steps of the episode are meant.
    """

    def __init__(self, env: Env, noise: Float[Tensor, "runs envs noise"]) -> None:
        self.noise: Float[Tensor, "runs envs noise"] = noise
        shape = (*noise.shape[:2], env.spec.max_episode_steps)
        if isinstance(env.spec.actions, DiscreteActions):
            self.actions: Num[Tensor, "runs envs limit *action"] = torch.zeros(shape, dtype=torch.long)
        else:
            real = isinstance(env.spec.actions, BoxActions | MixedActions)
            width = action_width(env.spec.actions)
            self.actions = torch.zeros(*shape, width, dtype=noise.dtype if real else torch.long)

    def note(
        self,
        actions: Num[Tensor, "runs envs steps *action"],
        begun: Int64[Tensor, "runs envs"],
        played: Int64[Tensor, "runs envs"],
    ) -> None:
        """Remember what the episodes in progress did in a rollout.

        Args:
            actions: of all of its steps.
            begun: its step in which each episode began; 0 also for one that had begun before it.
            played: of each copy's episode, the steps before the rollout; they count where it began before.
        """
        step = torch.arange(actions.shape[2])
        chosen = (step >= begun[..., None]).nonzero(as_tuple=True)
        before = torch.where(begun == 0, played, -begun)
        self.actions[(*chosen[:2], before[chosen[:2]] + chosen[2])] = actions[chosen]

    def begin(self, over: Bool[Tensor, "runs envs"], noise: Float[Tensor, "runs envs noise"]) -> None:
        """New episodes in the copies that are over."""
        self.noise = torch.where(over[..., None], noise, self.noise)

    def play(
        self, env: Env, played: Int64[Tensor, "runs envs"]
    ) -> tuple[EnvState, Float[Tensor, "runs envs observation"]]:
        """Play again what each copy has played of its episode: the state and the observations after it.

        All end at the same time, so that none is stepped on: a copy with fewer steps begins later.
        """
        state, observation = env.reset(self.noise)
        for left in range(int(played.max()), 0, -1):
            begins, running = played == left, played >= left
            state, _ = restarted(env, state, begins, self.noise)
            step = (played - left).clamp(min=0).reshape(*played.shape, *(1,) * (self.actions.ndim - 2))
            action = self.actions.gather(2, step.expand(*played.shape, 1, *self.actions.shape[3:]))[:, :, 0]
            after = env.step(state, action, running)
            state, observation = after.state, torch.where(running[..., None], after.observation, observation)
        state, first = restarted(env, state, played == 0, self.noise)
        return state, torch.where((played == 0)[..., None], first, observation)

    def select(self, rows: Int64[Tensor, " rows"]) -> None:
        """Keep these runs, in this order."""
        self.noise, self.actions = self.noise[rows], self.actions[rows]

    def join(self, other: "Replay") -> None:
        """Put the runs of another one behind."""
        self.noise = torch.cat([self.noise, other.noise])
        self.actions = torch.cat([self.actions, other.actions])

    def tensors(self) -> list[Shaped[Tensor, "runs envs *rest"]]:
        """What `load` takes."""
        return [self.noise, self.actions]

    def load(self, tensors: Sequence[Shaped[Tensor, "runs envs *rest"]]) -> None:
        """Go on from what `tensors` gave."""
        self.noise, self.actions = (part.clone() for part in tensors)
