"""Acrobot: swing a two-link pendulum up by a torque at its middle joint."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pg_experiments.envs.interface import DiscreteActions, EnvSpec, Transition, Twin
from pg_experiments.envs.twins import gymnasium_twin, put_state

GRAVITY = 9.8  # m/s^2
MASS = 1.0  # kg, of each link
LENGTH = 1.0  # m, of the upper link
CENTRE = 0.5  # m, from a link's joint to its centre of mass
INERTIA = 1.0  # kg m^2, of each link about its centre of mass
TIME_STEP = 0.2  # s
MAX_SPEEDS = (4 * math.pi, 9 * math.pi)  # rad/s
START = 0.1  # rad and rad/s

State = tuple[Float[Tensor, "runs envs"], ...]


@dataclass(frozen=True)
class Acrobot:
    """Gymnasium's Acrobot-v1, every copy of every run at once.

    The state is (angle of the upper link, 0 hanging down; angle of the lower link to it, both in [-π, π] rad; their
    angular velocities, rad/s, at most 4π and 9π); the observation is (cos and sin of the first angle, of the second
    one, both angular velocities). Actions 0, 1 and 2 are torques of -1, 0 and 1 N m at the middle joint. Reward -1 a
    step, and 0 for the step that swings the tip higher than 1 m above the upper joint: there the episode terminates.

    Source: Sutton (1996), "Generalization in reinforcement learning: successful examples using sparse coarse coding",
    with the equations of motion of Sutton and Barto (1998), section 11.3, one Runge-Kutta step of 0.2 s.
    """

    max_episode_steps: int = 500

    @cached_property
    def spec(self) -> EnvSpec:
        return EnvSpec(6, DiscreteActions(3), self.max_episode_steps, reset_noise_size=4)

    def reset(self, noise: Float[Tensor, "runs envs 4"]) -> tuple[State, Tensor]:
        """Start every state variable uniformly in [-0.1, 0.1), rounded to float32 as Gymnasium does."""
        state = ((noise - 0.5) * (2 * START)).float().to(noise.dtype).unbind(-1)
        return state, self._observation(state)

    def step(self, state: State, action: Int64[Tensor, "runs envs"], running: Bool[Tensor, "runs envs"]) -> Transition:
        torque = (action - 1).to(state[0].dtype)
        first, second, first_speed, second_speed = _after_a_step(state, torque)
        state = (
            _wrapped(first),
            _wrapped(second),
            first_speed.clamp(-MAX_SPEEDS[0], MAX_SPEEDS[0]),
            second_speed.clamp(-MAX_SPEEDS[1], MAX_SPEEDS[1]),
        )
        height = -torch.cos(state[0]) - torch.cos(state[0] + state[1])  # m, of the tip above the upper joint
        terminated = height > 1
        reward = terminated.to(height.dtype) - 1
        return Transition(state, self._observation(state), reward, terminated, torch.zeros_like(terminated))

    def twin(self) -> Twin:
        return gymnasium_twin(self, "Acrobot-v1", put_state, 4)

    def select(self, state: tuple[Tensor, ...], rows: Int64[Tensor, " rows"]) -> tuple[Tensor, ...]:
        return tuple(part[rows] for part in state)

    def join(self, states: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        return tuple(torch.cat(parts) for parts in zip(*states, strict=True))

    @staticmethod
    def _observation(state: State) -> Float[Tensor, "runs envs 6"]:
        first, second, first_speed, second_speed = state
        angles = (torch.cos(first), torch.sin(first), torch.cos(second), torch.sin(second))
        return torch.stack((*angles, first_speed, second_speed), -1)


def _after_a_step(state: State, torque: Float[Tensor, "runs envs"]) -> list[Float[Tensor, "runs envs"]]:
    """The classic Runge-Kutta step of fourth order."""

    def moved(slopes: State, seconds: float) -> State:
        return tuple(torch.add(part, slope, alpha=seconds) for part, slope in zip(state, slopes, strict=True))

    first = _derivatives(state, torque)
    second = _derivatives(moved(first, TIME_STEP / 2), torque)
    third = _derivatives(moved(second, TIME_STEP / 2), torque)
    fourth = _derivatives(moved(third, TIME_STEP), torque)
    return [
        torch.add(part, a + 2 * b + 2 * c + d, alpha=TIME_STEP / 6)
        for part, a, b, c, d in zip(state, first, second, third, fourth, strict=True)
    ]


def _derivatives(state: State, torque: Float[Tensor, "runs envs"]) -> State:
    """Angular velocities, rad/s, and angular accelerations, rad/s²."""
    first, second, first_speed, second_speed = state
    sine, cosine = torch.sin(second), torch.cos(second)
    own = MASS * CENTRE**2 + INERTIA  # of a link about its joint, kg m²
    coupling = MASS * LENGTH * CENTRE  # kg m²
    whole = 2 * coupling * cosine + (2 * own + MASS * LENGTH**2)
    shared = coupling * cosine + own
    lower_weight = MASS * CENTRE * GRAVITY * torch.sin(first + second)
    upper_weight = (MASS * CENTRE + MASS * LENGTH) * GRAVITY * torch.sin(first) + lower_weight
    pull = upper_weight - coupling * sine * second_speed * (second_speed + 2 * first_speed)
    ratio = shared / whole
    second_push = torque + ratio * pull - coupling * sine * first_speed.square() - lower_weight
    second_acceleration = second_push / (own - shared * ratio)
    first_acceleration = -(shared * second_acceleration + pull) / whole
    return first_speed, second_speed, first_acceleration, second_acceleration


def _wrapped(angle: Float[Tensor, "runs envs"]) -> Float[Tensor, "runs envs"]:
    """The same angle in [-π, π]; one that is there already stays as it is in every bit."""
    return torch.where(angle.abs() > math.pi, torch.remainder(angle + math.pi, 2 * math.pi) - math.pi, angle)
