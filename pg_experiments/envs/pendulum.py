"""Pendulum: swing a pendulum up by a torque that is too weak to lift it directly, and hold it there."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pg_experiments.envs.constants import constants
from pg_experiments.envs.interface import BoxActions, EnvSpec, Transition, Twin
from pg_experiments.envs.twins import gymnasium_twin, put_state

GRAVITY = 10.0  # m/s^2
MASS = 1.0  # kg
LENGTH = 1.0  # m
TIME_STEP = 0.05  # s
MAX_SPEED = 8.0  # rad/s
MAX_TORQUE = 2.0  # N m


@dataclass(frozen=True)
class Pendulum:
    """Gymnasium's Pendulum-v1, every copy of every run at once.

    The state is (angle rad, 0 upright; angular velocity rad/s); the observation is (cos angle, sin angle, angular
    velocity). The action is one torque in [-2, 2] N m. The reward of a step is
    -(angle² + 0.1 angular_velocity² + 0.001 torque²) with the angle taken into [-π, π): at best 0, at worst -16.3.
    An episode never terminates.

    Source: Gymnasium's Pendulum-v1 (semi-implicit Euler steps of 0.05 s).
    """

    max_episode_steps: int = 200

    @cached_property
    def spec(self) -> EnvSpec:
        return EnvSpec(3, BoxActions((-MAX_TORQUE,), (MAX_TORQUE,)), self.max_episode_steps, reset_noise_size=2)

    def reset(self, noise: Float[Tensor, "runs envs 2"]) -> tuple[tuple[Tensor, ...], Tensor]:
        """Start with the angle uniform in [-π, π) and the angular velocity uniform in [-1, 1)."""
        centred = noise * 2 - 1
        state = (centred[..., 0] * math.pi, centred[..., 1].clone())
        return state, self._observation(*state)

    def step(
        self,
        state: tuple[Float[Tensor, "runs envs"], ...],
        action: Float[Tensor, "runs envs 1"],
        running: Bool[Tensor, "runs envs"],
    ) -> Transition:
        angle, angular_velocity = state
        torque = action[..., 0].clamp(-MAX_TORQUE, MAX_TORQUE)
        half_turn, turn, none = constants(angle.dtype, angle.device, math.pi, 2 * math.pi, 0.0)
        centred_angle = torch.add(angle, half_turn).remainder_(turn).sub_(half_turn)
        reward = torch.addcmul(none, centred_angle, centred_angle, value=-1.0)
        reward.addcmul_(angular_velocity, angular_velocity, value=-0.1).addcmul_(torque, torque, value=-0.001)
        angular_velocity = torch.add(angular_velocity, torch.sin(angle), alpha=1.5 * GRAVITY / LENGTH * TIME_STEP)
        angular_velocity.add_(torque, alpha=3.0 / (MASS * LENGTH**2) * TIME_STEP).clamp_(-MAX_SPEED, MAX_SPEED)
        angle = torch.add(angle, angular_velocity, alpha=TIME_STEP)
        never = torch.zeros_like(running)
        state = (angle, angular_velocity)
        return Transition(state, self._observation(*state), reward, never, never)

    def twin(self) -> Twin:
        return gymnasium_twin(self, "Pendulum-v1", put_state, 2)

    def select(self, state: tuple[Tensor, ...], rows: Int64[Tensor, " rows"]) -> tuple[Tensor, ...]:
        return tuple(part[rows] for part in state)

    def join(self, states: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        return tuple(torch.cat(parts) for parts in zip(*states, strict=True))

    @staticmethod
    def _observation(
        angle: Float[Tensor, "runs envs"], angular_velocity: Float[Tensor, "runs envs"]
    ) -> Float[Tensor, "runs envs 3"]:
        return torch.stack((torch.cos(angle), torch.sin(angle), angular_velocity), -1)
