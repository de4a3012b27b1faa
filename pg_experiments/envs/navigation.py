"""Navigation: climb a smooth field to its maximum, by steps of any angle and length or by fixed ones."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pg_experiments.envs.constants import constants
from pg_experiments.envs.interface import BoxActions, DiscreteActions, EnvSpec, Transition, Twin
from pg_experiments.envs.navigation_field import (
    ACTION_COST,
    BEND,
    CLIMB_REWARD,
    CONTINUOUS_MAX_EPISODE_STEPS,
    DISCRETE_MAX_EPISODE_STEPS,
    DISCRETE_STEP,
    DOWN,
    HEIGHT,
    LEFT,
    MAX_STEP,
    RIGHT,
    SCALE,
    SLOPE,
    START,
    TARGET,
    TARGET_RADIUS,
    UP,
    WIDTH,
    scaled_position,
)
from pg_experiments.envs.twins import gymnasium_twin


@dataclass(frozen=True)
class Navigation:
    """Walk uphill with a pair of real numbers as the action: an angle and a step size.

    The world is a rectangle of 1.6 m by 1.0 m with the field `field_value`: 0 in the lower left corner, 1 in
    the upper right one. The state is the position (x m, y m); the observation is the position scaled to
    [-1, 1] in both directions. The action is (angle in [-π, π] rad, counted from the x axis; step size in
    [0, 0.192] m); a larger or negative step size is clipped. The rectangle's borders clip the position. The
    reward is `climb_reward`: 10 times the height gained, minus 0.05. The episode terminates within 2 % of the
    diagonal from the maximum. The shortest path from the exact start has 10 actions.

    Attributes:
        start_noise: the start is uniform within ± this fraction of width and height around (0.08, 0.05) m;
            0 starts exactly there.
    """

    max_episode_steps: int = CONTINUOUS_MAX_EPISODE_STEPS
    start_noise: float = 0.02

    @cached_property
    def spec(self) -> EnvSpec:
        actions = BoxActions((-math.pi, 0.0), (math.pi, MAX_STEP))
        return EnvSpec(2, actions, self.max_episode_steps, reset_noise_size=2)

    def reset(self, noise: Float[Tensor, "runs envs 2"]) -> tuple[tuple[Tensor, ...], Tensor]:
        """Start uniformly in the rectangle of ± `start_noise` around the start."""
        return _start(noise, self.start_noise)

    def step(
        self,
        state: tuple[Float[Tensor, "runs envs"], ...],
        action: Float[Tensor, "runs envs 2"],
        running: Bool[Tensor, "runs envs"],
    ) -> Transition:
        angle, step_size = action[..., 0], action[..., 1].clamp(0.0, MAX_STEP)
        return _move(state, torch.cos(angle).mul_(step_size), torch.sin(angle).mul_(step_size))

    def twin(self) -> Twin:
        return gymnasium_twin(self, "pg_experiments/Navigation-v0", _way(), 2)

    def select(self, state: tuple[Tensor, ...], rows: Int64[Tensor, " rows"]) -> tuple[Tensor, ...]:
        return tuple(part[rows] for part in state)

    def join(self, states: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        return tuple(torch.cat(parts) for parts in zip(*states, strict=True))


@dataclass(frozen=True)
class NavigationDiscrete:
    """The same world as `Navigation` with five actions: up (0), down (1), right (2), left (3) and stay (4).

    A move is 1/53 of the width long, 0.0302 m. State, observation, reward and end are those of `Navigation`.
    The shortest path from the exact start has 81 actions.

    Attributes:
        start_noise: the start is uniform within ± this fraction of width and height around (0.08, 0.05) m;
            0 starts exactly there.
    """

    max_episode_steps: int = DISCRETE_MAX_EPISODE_STEPS
    start_noise: float = 0.02

    @cached_property
    def spec(self) -> EnvSpec:
        return EnvSpec(2, DiscreteActions(5), self.max_episode_steps, reset_noise_size=2)

    def reset(self, noise: Float[Tensor, "runs envs 2"]) -> tuple[tuple[Tensor, ...], Tensor]:
        """Start uniformly in the rectangle of ± `start_noise` around the start."""
        return _start(noise, self.start_noise)

    def step(
        self,
        state: tuple[Float[Tensor, "runs envs"], ...],
        action: Int64[Tensor, "runs envs"],
        running: Bool[Tensor, "runs envs"],
    ) -> Transition:
        move_x, move_y = _moves(state[0].dtype, state[0].device)
        return _move(state, move_x.take(action), move_y.take(action))

    def twin(self) -> Twin:
        return gymnasium_twin(self, "pg_experiments/NavigationDiscrete-v0", _way(), 2)

    def select(self, state: tuple[Tensor, ...], rows: Int64[Tensor, " rows"]) -> tuple[Tensor, ...]:
        return tuple(part[rows] for part in state)

    def join(self, states: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        return tuple(torch.cat(parts) for parts in zip(*states, strict=True))


@cache
@torch.inference_mode(False)  # it is kept
def _moves(dtype: torch.dtype, device: torch.device) -> tuple[Float[Tensor, " actions"], Float[Tensor, " actions"]]:
    """What each discrete action adds to x and to y, in m."""
    move_x, move_y = torch.zeros(2, 5, dtype=dtype, device=device).unbind(0)
    move_x[RIGHT], move_x[LEFT] = DISCRETE_STEP, -DISCRETE_STEP
    move_y[UP], move_y[DOWN] = DISCRETE_STEP, -DISCRETE_STEP
    return move_x, move_y


def _start(
    noise: Float[Tensor, "runs envs 2"], start_noise: float
) -> tuple[tuple[Tensor, ...], Float[Tensor, "runs envs 2"]]:
    centred = (noise * 2 - 1) * start_noise
    x = (START[0] + centred[..., 0] * WIDTH).clamp(0.0, WIDTH)
    y = (START[1] + centred[..., 1] * HEIGHT).clamp(0.0, HEIGHT)
    return (x, y), torch.stack(scaled_position(x, y), -1)


def _move(
    state: tuple[Float[Tensor, "runs envs"], ...],
    move_x: Float[Tensor, "runs envs"],
    move_y: Float[Tensor, "runs envs"],
) -> Transition:
    """Move every copy by (move_x, move_y) m, as far as the border."""
    # the sums of navigation_field.py; a small step costs as much as its operations and the memory that they ask for
    numbers = constants(move_x.dtype, move_x.device, *TARGET, *SCALE, *BEND, *SLOPE)
    target_x, target_y, scale_x, scale_y, bend_x, bend_y, slope_x, slope_y = numbers
    radius, climb, cost, one = constants(move_x.dtype, move_x.device, TARGET_RADIUS**2, CLIMB_REWARD, ACTION_COST, 1.0)

    def field(x: Tensor, y: Tensor) -> Tensor:
        along_y = (y * bend_y).add_(slope_y).mul_(y)
        return (x * bend_x).add_(slope_x).mul_(x).add_(along_y)

    x = torch.add(state[0], move_x).clamp_(0.0, WIDTH)
    y = torch.add(state[1], move_y).clamp_(0.0, HEIGHT)
    right, up = torch.sub(target_x, x), torch.sub(target_y, y)
    terminated = right.mul_(right).add_(up.mul_(up)) <= radius
    height = torch.where(terminated, one, field(x, y))
    reward = height.sub_(field(*state)).mul_(climb).sub_(cost)
    observation = torch.stack(((x * scale_x).sub_(one), (y * scale_y).sub_(one)), -1)
    return Transition((x, y), observation, reward, terminated, torch.zeros_like(terminated))


def _way() -> Callable[[Any, list[float]], None]:
    """Lets the picture show the way up to the position that is put into it; the first one is the start."""
    way: list[tuple[float, ...]] = []

    def put(env: Any, position: list[float]) -> None:
        way.append(tuple(position))
        env.trajectory = way

    return put
