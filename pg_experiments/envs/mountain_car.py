"""Mountain car: a weak engine has to swing a car out of a valley, by three pushes or by a force of any size."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pg_experiments.envs.constants import constants
from pg_experiments.envs.interface import BoxActions, DiscreteActions, EnvSpec, Transition, Twin
from pg_experiments.envs.twins import gymnasium_twin, put_state

LEFT, RIGHT = -1.2, 0.6  # ends of the road; all lengths in the units of the source
MAX_SPEED = 0.07  # per step
SLOPE = 0.0025  # of gravity, per step and step
PUSH, FORCE = 0.001, 0.0015  # the engine's, per step and step
START = (-0.6, -0.4)
GOAL, CONTINUOUS_GOAL = 0.5, 0.45

State = tuple[Float[Tensor, "runs envs"], ...]


@dataclass(frozen=True)
class _Road:
    """What both cars share: a valley in the shape of sin(3x), and a state of (position, velocity), which is observed.

    The car starts at rest, uniformly in [-0.6, -0.4). The road's left end stops it.
    """

    def reset(self, noise: Float[Tensor, "runs envs 1"]) -> tuple[State, Tensor]:
        """Start at rest near the bottom."""
        position = START[0] + (START[1] - START[0]) * noise[..., 0]
        state = (position, torch.zeros_like(position))
        return state, torch.stack(state, -1)

    def select(self, state: tuple[Tensor, ...], rows: Int64[Tensor, " rows"]) -> tuple[Tensor, ...]:
        return tuple(part[rows] for part in state)

    def join(self, states: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        return tuple(torch.cat(parts) for parts in zip(*states, strict=True))

    @staticmethod
    def _moved(state: State, acceleration: Float[Tensor, "runs envs"], goal: float) -> tuple[State, Tensor]:
        """The state one step later, with the engine's acceleration; and whether the car is at the goal then."""
        position, velocity = state
        slope, three, left, goal_position, still = constants(
            position.dtype, position.device, SLOPE, 3.0, LEFT, goal, 0.0
        )
        velocity = torch.sub(acceleration, (three * position).cos_().mul_(slope)).add_(velocity)
        velocity.clamp_(-MAX_SPEED, MAX_SPEED)
        position = torch.add(position, velocity).clamp_(LEFT, RIGHT)
        velocity = torch.where((position == left).logical_and_(velocity < still), still, velocity)
        return (position, velocity), (position >= goal_position).logical_and_(velocity >= still)


@dataclass(frozen=True)
class MountainCar(_Road):
    """Gymnasium's MountainCar-v0, every copy of every run at once.

    Actions 0, 1 and 2 push left, not at all, and right. Reward -1 a step, the last one included. The episode
    terminates at position 0.5 or beyond.

    Source: Moore (1990), "Efficient memory-based learning for robot control"; Sutton and Barto (2018), example 10.1.
    """

    max_episode_steps: int = 200

    @cached_property
    def spec(self) -> EnvSpec:
        return EnvSpec(2, DiscreteActions(3), self.max_episode_steps, reset_noise_size=1)

    def twin(self) -> Twin:
        return gymnasium_twin(self, "MountainCar-v0", put_state, 2)

    def step(self, state: State, action: Int64[Tensor, "runs envs"], running: Bool[Tensor, "runs envs"]) -> Transition:
        pushes = _pushes(state[0].dtype, state[0].device)
        state, terminated = self._moved(state, pushes.take(action), GOAL)
        reward = torch.full_like(state[0], -1.0)
        return Transition(state, torch.stack(state, -1), reward, terminated, torch.zeros_like(terminated))


@dataclass(frozen=True)
class MountainCarContinuous(_Road):
    """Gymnasium's MountainCarContinuous-v0, every copy of every run at once.

    The action is one force in [-1, 1]. The reward of a step is -0.1 action², and 100 more for the one that reaches
    position 0.45: there the episode terminates.

    Source: Moore (1990), as above; Gymnasium's rewards.
    """

    max_episode_steps: int = 999

    @cached_property
    def spec(self) -> EnvSpec:
        return EnvSpec(2, BoxActions((-1.0,), (1.0,)), self.max_episode_steps, reset_noise_size=1)

    def twin(self) -> Twin:
        return gymnasium_twin(self, "MountainCarContinuous-v0", put_state, 2)

    def step(
        self, state: State, action: Float[Tensor, "runs envs 1"], running: Bool[Tensor, "runs envs"]
    ) -> Transition:
        force = action[..., 0]
        engine, prize, cost = constants(force.dtype, force.device, FORCE, 100.0, 0.1)
        state, terminated = self._moved(state, force.clamp(-1.0, 1.0).mul_(engine), CONTINUOUS_GOAL)
        reward = (terminated * prize).sub_(force.square().mul_(cost))
        return Transition(state, torch.stack(state, -1), reward, terminated, torch.zeros_like(terminated))


@cache
@torch.inference_mode(False)  # it is kept
def _pushes(dtype: torch.dtype, device: torch.device) -> Float[Tensor, " actions"]:
    """What each of the three actions adds to the velocity."""
    return torch.arange(-1, 2, dtype=dtype, device=device) * PUSH
