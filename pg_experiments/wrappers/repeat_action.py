"""Every action is played several times in a row."""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from pg_experiments.envs.interface import Env, EnvState, Transition
from pg_experiments.wrappers.wrapper import Wrapper, WrapperState


class RepeatAction(Wrapper):
    """One step is `times` steps of the environment with the same action: the rewards are added up.

    It ends early where the episode does, at the inner environment's limit of steps too: 200 of them, three at a time,
    are 67 steps, the last of which plays two. `env_steps` counts the steps of this wrapper: the policy's decisions.

    Source: Mnih et al. (2015), Human-level control through deep reinforcement learning, "frame skipping".
    """

    def __init__(self, inner: Env, times: int) -> None:
        limit = -(-inner.spec.max_episode_steps // times)
        super().__init__(inner, replace(inner.spec, max_episode_steps=limit))
        self._times = times

    def reset(self, noise: Float[Tensor, "runs envs noise"]) -> tuple[WrapperState, Float[Tensor, "runs envs size"]]:
        return self.begin(*self.inner.reset(noise))

    def begin(self, state: EnvState, observation: Float[Tensor, "runs envs size"]) -> tuple[WrapperState, Tensor]:
        """From what the inner environment begins with."""
        return WrapperState(state, torch.zeros(observation.shape[:2], dtype=torch.long)), observation

    def step(
        self, state: WrapperState, action: Num[Tensor, "runs envs *action"], running: Bool[Tensor, "runs envs"]
    ) -> Transition:
        inner, played = state
        running = running & (played < self.inner.spec.max_episode_steps)
        after = self.inner.step(inner, action, running)
        _, observation, reward, terminated, truncated = after
        for repeated in range(1, self._times):
            running = running & ~terminated & ~truncated & (played + repeated < self.inner.spec.max_episode_steps)
            if not bool(running.any()):
                break
            after = self.inner.step(after.state, action, running)
            observation = torch.where(running[..., None], after.observation, observation)
            reward = torch.where(running, reward + after.reward, reward)
            terminated = terminated | (after.terminated & running)
            truncated = truncated | (after.truncated & running)
        return Transition(WrapperState(after.state, played + self._times), observation, reward, terminated, truncated)
