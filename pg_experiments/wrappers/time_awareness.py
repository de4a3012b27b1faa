"""The policy sees how much of the episode's time is over."""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from pg_experiments.envs.interface import Env, EnvState, Transition
from pg_experiments.wrappers.wrapper import Wrapper, WrapperState


class TimeAwareness(Wrapper):
    """One more number at the end of the observation, or before its mask: t / `max_episode_steps` before step t.

    With it the return within the time limit is a function of the observation, which it is not without: a value network
    can learn it, and a policy can act differently near the end.

    Source: Pardo et al. (2018), Time limits in reinforcement learning, arXiv:1712.00378, section 3.
    """

    def __init__(self, inner: Env) -> None:
        size = inner.spec.observation_size + 1
        super().__init__(inner, replace(inner.spec, observation_size=size, num_states=None))

    def reset(self, noise: Float[Tensor, "runs envs noise"]) -> tuple[WrapperState, Float[Tensor, "runs envs size"]]:
        return self.begin(*self.inner.reset(noise))

    def begin(self, state: EnvState, observation: Float[Tensor, "runs envs inner"]) -> tuple[WrapperState, Tensor]:
        """From what the inner environment begins with."""
        played = torch.zeros(observation.shape[:2], dtype=torch.long)
        return WrapperState(state, played), self._with_time(observation, played)

    def step(
        self, state: WrapperState, action: Num[Tensor, "runs envs *action"], running: Bool[Tensor, "runs envs"]
    ) -> Transition:
        after = self.inner.step(state.inner, action, running)
        played = state.own + 1
        observation = self._with_time(after.observation, played)
        return after._replace(state=WrapperState(after.state, played), observation=observation)

    def _with_time(self, observation: Tensor, played: Tensor) -> Tensor:
        time = played.to(observation.dtype) / self.spec.max_episode_steps
        seen = observation.shape[-1] - self.spec.mask_size
        return torch.cat([observation[..., :seen], time[..., None], observation[..., seen:]], -1)
