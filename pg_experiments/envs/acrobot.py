"""Acrobot: swing a two-link pendulum up by a torque at its middle joint."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pg_experiments.envs.constants import constants
from pg_experiments.envs.interface import DiscreteActions, EnvSpec, Transition, Twin
from pg_experiments.envs.twins import gymnasium_twin, put_state

GRAVITY = 9.8  # m/s^2
MASS = 1.0  # kg, of each link
LENGTH = 1.0  # m, of the upper link
CENTRE = 0.5  # m, from a link's joint to its centre of mass
INERTIA = 1.0  # kg m^2, of each link about its centre of mass
TIME_STEP = 0.2  # s
TORQUES = (-1.0, 0.0, 1.0)  # N m
MAX_SPEEDS = (4 * math.pi, 9 * math.pi)  # rad/s
START = 0.1  # rad and rad/s

COUPLING = MASS * LENGTH * CENTRE  # kg m², by which the equations of motion are divided
INERTIAS = ((INERTIA + MASS * CENTRE**2 + MASS * LENGTH**2) / COUPLING, (INERTIA + MASS * CENTRE**2) / COUPLING)
WEIGHTS = (-MASS * (CENTRE + LENGTH) * GRAVITY / COUPLING, -MASS * CENTRE * GRAVITY / COUPLING)  # 1/s²

State = tuple[Float[Tensor, "runs envs"], ...]
Both = Float[Tensor, "2 runs envs"]  # of the upper and the lower link


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
        dtype, device = state[0].dtype, state[0].device
        turns, top, won, cost = constants(dtype, device, 1 / (2 * math.pi), -1.0, 0.0, -1.0)
        torque = _torques(dtype, device).index_select(1, action.reshape(-1)).view(2, *action.shape)
        (first, lower), (first_speed, lower_speed) = (part.unbind(0) for part in _after_a_step(state, torque))
        second = torch.sub(lower, first)
        state = (
            # the same angles in [-π, π]; one that is there already stays as it is in every bit
            first.add_((first * turns).round_(), alpha=-2 * math.pi),
            second.add_((second * turns).round_(), alpha=-2 * math.pi),
            first_speed.clamp(-MAX_SPEEDS[0], MAX_SPEEDS[0]),
            lower_speed.sub_(first_speed).clamp_(-MAX_SPEEDS[1], MAX_SPEEDS[1]),
        )
        observation = self._observation(state)
        # of the tip below the upper joint, m: the cosines of both links' angles to the vertical
        depth = torch.cos_(lower).add_(observation[..., 0])
        terminated = depth < top
        reward = torch.where(terminated, won, cost)
        return Transition(state, observation, reward, terminated, torch.zeros_like(terminated))

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


def _after_a_step(state: State, torque: Both) -> tuple[Both, Both]:
    """The classic Runge-Kutta step of fourth order: the angles of both links to the vertical, and their velocities.

    Of x'' = f(x, x') with slopes of the velocity a, b, c and d, its step of h seconds is
    x + h x' + h² (a + b + c) / 6 and x' + h (a + 2 b + 2 c + d) / 6.
    """
    # both links in one tensor, because a small step costs as much as its operations
    first, second, first_speed, second_speed = state
    angles = torch.stack((first, torch.add(first, second)))
    speeds = torch.stack((first_speed, torch.add(first_speed, second_speed)))
    half, whole = TIME_STEP / 2, TIME_STEP

    a = _accelerations(angles, speeds, torque)
    speeds_then = torch.add(speeds, a, alpha=half)
    b = _accelerations(torch.add(angles, speeds, alpha=half), speeds_then, torque)
    angles_then, speeds_then = torch.add(angles, speeds_then, alpha=half), torch.add(speeds, b, alpha=half)
    c = _accelerations(angles_then, speeds_then, torque)
    angles_then, speeds_then = torch.add(angles, speeds_then, alpha=whole), torch.add(speeds, c, alpha=whole)
    d = _accelerations(angles_then, speeds_then, torque)
    slopes, middle = a.add_(b).add_(c), b.add_(c)
    angles.add_(speeds, alpha=whole).add_(slopes, alpha=whole**2 / 6)
    speeds.add_(slopes.add_(middle).add_(d), alpha=whole / 6)
    return angles, speeds


def _accelerations(angles: Both, speeds: Both, torque: Both) -> Both:
    """Angular accelerations of both links to the vertical, rad/s².

    With the angles θ and φ to the vertical, s = sin(φ - θ), c = cos(φ - θ), and everything divided by m l l_c,

        4.5 θ'' + c φ'' = s φ'² - 29.4 sin θ - 2 τ
        c θ'' + 2.5 φ'' = -s θ'² - 9.8 sin φ + 2 τ

    which are the source's equations, whose second angle is φ - θ, in coordinates in which they are short.

    Args:
        torque: -2 τ and 2 τ.
    """
    lower_inertia, product, weights = _numbers(angles.dtype, angles.device)
    upper, lower = angles.unbind(0)
    between = torch.sub(lower, upper)
    cosine, sine = torch.cos(between), between.sin_()
    sides = torch.addcmul(torque, torch.sin(angles), weights)
    (upper_side, lower_side), (upper_square, lower_square) = sides.unbind(0), torch.mul(speeds, speeds).unbind(0)
    upper_side.addcmul_(sine, lower_square)
    lower_side.addcmul_(sine, upper_square, value=-1)
    determinant = torch.addcmul(product, cosine, cosine, value=-1)
    upper_acceleration = upper_side.mul_(lower_inertia).addcmul_(cosine, lower_side, value=-1).div_(determinant)
    lower_side.addcmul_(cosine, upper_acceleration, value=-1).div_(lower_inertia)
    return sides


@cache
@torch.inference_mode(False)  # it is kept
def _numbers(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Float[Tensor, "2 1 1"]]:
    """For `_accelerations`: 2.5, 4.5 · 2.5, and the weights -29.4 and -9.8, in 1/s²."""
    lower_inertia, product = constants(dtype, device, INERTIAS[1], INERTIAS[0] * INERTIAS[1])
    return lower_inertia, product, torch.tensor(WEIGHTS, dtype=dtype, device=device)[:, None, None]


@cache
@torch.inference_mode(False)  # it is kept
def _torques(dtype: torch.dtype, device: torch.device) -> Float[Tensor, "2 actions"]:
    """-2 τ and 2 τ of every action, see `_accelerations`."""
    torque = torch.tensor(TORQUES, dtype=dtype, device=device) / COUPLING
    return torch.stack((-torque, torque))
