"""The policy sees the last few observations."""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from pg_experiments.envs.interface import Env, EnvState, Transition
from pg_experiments.wrappers.wrapper import Wrapper, WrapperState


class StackFrames(Wrapper):
    """The last `frames` observations as one, the oldest first; an episode begins with copies of its first.

    Of images, the channels are stacked. Of masks of legal actions only the newest is there, at the end.

    Source: Mnih et al. (2015), Human-level control through deep reinforcement learning, "preprocessing".
    """

    def __init__(self, inner: Env, frames: int) -> None:
        self._frames, self._seen = frames, inner.spec.observation_size - inner.spec.mask_size
        size = frames * self._seen + inner.spec.mask_size
        image = inner.spec.image_shape
        stacked = (frames * image[0], *image[1:]) if image else None
        super().__init__(inner, replace(inner.spec, observation_size=size, num_states=None, image_shape=stacked))

    def reset(self, noise: Float[Tensor, "runs envs noise"]) -> tuple[WrapperState, Float[Tensor, "runs envs size"]]:
        return self.begin(*self.inner.reset(noise))

    def begin(self, state: EnvState, observation: Float[Tensor, "runs envs inner"]) -> tuple[WrapperState, Tensor]:
        """From what the inner environment begins with."""
        stacked = observation[..., : self._seen].repeat(1, 1, self._frames)
        return WrapperState(state, stacked), torch.cat([stacked, observation[..., self._seen :]], -1)

    def step(
        self, state: WrapperState, action: Num[Tensor, "runs envs *action"], running: Bool[Tensor, "runs envs"]
    ) -> Transition:
        after = self.inner.step(state.inner, action, running)
        seen, mask = after.observation[..., : self._seen], after.observation[..., self._seen :]
        stacked = torch.cat([state.own[..., self._seen :], seen], -1)
        return after._replace(state=WrapperState(after.state, stacked), observation=torch.cat([stacked, mask], -1))
