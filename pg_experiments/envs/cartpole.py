"""CartPole: balance a pole on a cart by pushing the cart left or right."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pg_experiments.envs.interface import DiscreteActions, EnvSpec, Transition, Twin
from pg_experiments.envs.twins import gymnasium_twin, put_state

GRAVITY = 9.8  # m/s^2
MASS_POLE = 0.1  # kg
MASS_TOTAL = 1.1  # kg, cart and pole
POLE_HALF_LENGTH = 0.5  # m
POLE_MASS_LENGTH = MASS_POLE * POLE_HALF_LENGTH  # kg m
FORCE = 10.0  # N
TIME_STEP = 0.02  # s
POSITION_LIMIT = 2.4  # m
ANGLE_LIMIT = 12 * 2 * math.pi / 360  # rad


@dataclass(frozen=True)
class CartPole:
    """Gymnasium's CartPole-v1, every copy of every run at once.

    The state is (position m, velocity m/s, angle rad, angular velocity rad/s); the observation is the same four
    numbers. Action 0 pushes left, 1 pushes right. Reward 1 a step, the last one included. The episode terminates when
    the cart is more than 2.4 m from the centre or the pole more than 12 degrees from upright.

    Source: Barto, Sutton and Anderson (1983), "Neuronlike adaptive elements that can solve difficult learning control
    problems"; equations of motion after Florian (2007), eq. 23 and 24 without friction; explicit Euler steps.
    """

    max_episode_steps: int = 500

    @cached_property
    def spec(self) -> EnvSpec:
        return EnvSpec(4, DiscreteActions(2), self.max_episode_steps, reset_noise_size=4)

    def reset(self, noise: Float[Tensor, "runs envs 4"]) -> tuple[tuple[Tensor, ...], Tensor]:
        """Start every state variable uniformly in [-0.05, 0.05)."""
        state = (noise - 0.5) * 0.1
        return state.unbind(-1), state

    def step(
        self,
        state: tuple[Float[Tensor, "runs envs"], ...],
        action: Int64[Tensor, "runs envs"],
        running: Bool[Tensor, "runs envs"],
    ) -> Transition:
        # one fused operation (x + value * y * z) where it says the same, and in place, since a small step costs as much
        # as its operations and the memory that they ask for
        position, velocity, angle, angular_velocity = state
        sine, cosine = torch.sin(angle), torch.cos(angle)
        pushes, inertia_upright = _constants(angle.dtype, angle.device)
        push = pushes.take(action)
        push.addcmul_(angular_velocity * angular_velocity, sine, value=POLE_MASS_LENGTH / MASS_TOTAL)
        inertia = torch.addcmul(inertia_upright, cosine, cosine, value=-POLE_MASS_LENGTH / MASS_TOTAL / GRAVITY)
        angular_acceleration = sine.addcmul_(cosine, push, value=-1 / GRAVITY).div_(inertia)
        acceleration = push.addcmul_(angular_acceleration, cosine, value=-POLE_MASS_LENGTH / MASS_TOTAL)
        state = (
            torch.add(position, velocity, alpha=TIME_STEP),
            torch.add(velocity, acceleration, alpha=TIME_STEP),
            torch.add(angle, angular_velocity, alpha=TIME_STEP),
            torch.add(angular_velocity, angular_acceleration, alpha=TIME_STEP),
        )
        # hardshrink leaves what is beyond the limit, and 0 of what is not
        beyond = torch.hardshrink(state[0], POSITION_LIMIT), torch.hardshrink(state[2], ANGLE_LIMIT)
        terminated = torch.logical_or(*beyond)
        observation = torch.stack(state, -1)
        return Transition(state, observation, torch.ones_like(position), terminated, torch.zeros_like(terminated))

    def twin(self) -> Twin:
        return gymnasium_twin(self, "CartPole-v1", put_state, 4)

    def select(self, state: tuple[Tensor, ...], rows: Int64[Tensor, " rows"]) -> tuple[Tensor, ...]:
        return tuple(part[rows] for part in state)

    def join(self, states: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        return tuple(torch.cat(parts) for parts in zip(*states, strict=True))


@cache
@torch.inference_mode(False)  # it is kept
def _constants(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Accelerations by a push to the left and right, m/s²; 4/3 of the pole's half length over gravity, s².

    As tensors, because torch makes a new one of a Python number in every product.
    """
    left = torch.tensor(-FORCE / MASS_TOTAL, dtype=dtype, device=device)
    pushes = torch.add(left, torch.tensor([0, 1], device=device), alpha=2 * FORCE / MASS_TOTAL)
    return pushes, torch.tensor(POLE_HALF_LENGTH * 4 / 3 / GRAVITY, dtype=dtype, device=device)
