"""Bioreactor: harvest as much biomass as possible from a continuous culture, by its dilution rate."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pg_experiments.envs.bioreactor_model import (
    DEATH,
    FEED,
    HALF_SATURATION,
    LEAST_AFTER_LOSS,
    MAX_BIOMASS,
    MAX_DILUTION,
    MAX_EPISODE_STEPS,
    MAX_GROWTH,
    MAX_SUBSTRATE,
    STEP_HOURS,
    SUBSTEPS,
    WASHOUT,
    WASHOUT_REWARD,
    YIELD,
    scaled_observation,
)
from pg_experiments.envs.constants import constants
from pg_experiments.envs.interface import BoxActions, EnvSpec, Transition, Twin
from pg_experiments.errors import ConfigError

Concentration = Float[Tensor, "runs envs"]  # g/L


@dataclass(frozen=True)
class Bioreactor:
    """The chemostat of `bioreactor_model.py`, every copy of every run at once, decided about every half hour.

    The state is (biomass g/L, substrate g/L, hours so far, hour of the sudden loss); the observation is
    `scaled_observation`. The action is one dilution rate in [0, 1] 1/h, held for half an hour. The reward of a step is
    D · X in g/(L h), with X its mean over the step: the return times 0.5 h is the production in g/L. Below 0.001 g/L
    of biomass the culture is washed out: reward -10, and the episode terminates. Concentrations are held within 10 g/L
    of biomass and 20 g/L of substrate.

    In some episodes biomass is lost at a random hour, after the step in which that hour lies; nothing announces it.

    Attributes:
        start_biomass: lowest and highest at the start, g/L; drawn uniformly on a logarithmic scale.
        start_substrate: lowest and highest at the start, g/L; drawn uniformly.
        loss: g/L of biomass that disappear at once, but for the last 0.1 g/L.
        loss_probability: of the loss in an episode, from 0 to 1.
        loss_hours: first and last hour at which it may come; drawn uniformly.

    Raises:
        ConfigError: when the lower end of a range is above the upper one.
    """

    max_episode_steps: int = MAX_EPISODE_STEPS
    start_biomass: Sequence[float] = (0.001, 5.0)
    start_substrate: Sequence[float] = (0.0, 3.0)
    loss: float = 3.0
    loss_probability: float = 0.5
    loss_hours: Sequence[float] = (0.0, 50.0)

    def __post_init__(self) -> None:
        for name in ("start_biomass", "start_substrate", "loss_hours"):
            low, high = getattr(self, name)
            if low > high:
                allowed = f"must be [lowest, highest], such as [{high}, {low}]"
                raise ConfigError(f"env.{name}", list(getattr(self, name)), allowed)

    @cached_property
    def spec(self) -> EnvSpec:
        return EnvSpec(5, BoxActions((0.0,), (MAX_DILUTION,)), self.max_episode_steps, reset_noise_size=4)

    def reset(self, noise: Float[Tensor, "runs envs 4"]) -> tuple[tuple[Tensor, ...], Tensor]:
        """Start in the ranges, with no flow so far; the noise also says whether and when biomass will be lost."""
        (least, most), (low, high), (first, last) = self.start_biomass, self.start_substrate, self.loss_hours
        biomass = least * torch.exp(noise[..., 0] * math.log(most / least))
        substrate = low + (high - low) * noise[..., 1]
        loss_hour = torch.where(noise[..., 2] < self.loss_probability, first + (last - first) * noise[..., 3], -1.0)
        still = torch.zeros_like(biomass)
        observation = torch.stack(scaled_observation(biomass, substrate, (biomass, substrate), still), -1)
        return (biomass, substrate, still, loss_hour), observation

    def step(
        self,
        state: tuple[Float[Tensor, "runs envs"], ...],
        action: Float[Tensor, "runs envs 1"],
        running: Bool[Tensor, "runs envs"],
    ) -> Transition:
        biomass_before, substrate_before, hours, loss_hour = state
        dilution = action[..., 0].clamp(0.0, MAX_DILUTION)
        biomass, substrate, mean_biomass = after_half_an_hour(biomass_before, substrate_before, dilution)
        terminated = biomass < WASHOUT
        reward = torch.where(terminated, WASHOUT_REWARD, dilution * mean_biomass)
        hours_after = hours + STEP_HOURS
        lost = (loss_hour >= hours) & (loss_hour < hours_after)
        left = torch.minimum(biomass, (biomass - self.loss).clamp(min=LEAST_AFTER_LOSS))
        biomass = torch.where(lost, left, biomass)
        before = (biomass_before, substrate_before)
        observation = torch.stack(scaled_observation(biomass, substrate, before, dilution), -1)
        state = (biomass, substrate, hours_after, loss_hour)
        return Transition(state, observation, reward, terminated, torch.zeros_like(terminated))

    def twin(self) -> Twin:
        from pg_experiments.envs.bioreactor_twin import twin_of_bioreactor  # here, because a twin is a bioreactor

        return twin_of_bioreactor(self)

    def select(self, state: tuple[Tensor, ...], rows: Int64[Tensor, " rows"]) -> tuple[Tensor, ...]:
        return tuple(part[rows] for part in state)

    def join(self, states: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        return tuple(torch.cat(parts) for parts in zip(*states, strict=True))


def after_half_an_hour(
    biomass: Concentration, substrate: Concentration, dilution: Float[Tensor, "runs envs"]
) -> tuple[Concentration, Concentration, Concentration]:
    """Both concentrations after a step, and the mean of the biomass over it.

    Classic Runge-Kutta steps of fourth order, and the trapezoidal rule over them. For every dilution rate they agree
    with SciPy's `solve_ivp` to 0.0005 g/L from up to 5 g/L of biomass, and to 0.002 g/L from up to 10.
    """
    # both concentrations in one tensor [2, runs, envs], because a step costs as much as its operations
    state = torch.stack((biomass, substrate))
    outflow = torch.stack((-dilution - DEATH, -dilution))
    inflow = torch.stack((torch.zeros_like(dilution), dilution * FEED))
    gain = torch.tensor((MAX_GROWTH, -MAX_GROWTH / YIELD), dtype=biomass.dtype)[:, None, None]
    (half_saturation,) = constants(biomass.dtype, biomass.device, HALF_SATURATION)

    def slope(state: Tensor) -> Tensor:
        biomass, substrate = state.unbind(0)
        growing = (biomass * substrate).div_(substrate + half_saturation)  # X S / (K_S + S)
        return torch.addcmul(inflow, outflow, state).addcmul_(gain, growing)

    hours = STEP_HOURS / SUBSTEPS
    total_biomass = biomass / 2
    for _ in range(SUBSTEPS):
        first = slope(state)
        second = slope(torch.add(state, first, alpha=hours / 2))
        third = slope(torch.add(state, second, alpha=hours / 2))
        fourth = slope(torch.add(state, third, alpha=hours))
        total = first.add_(fourth).add_(second.add_(third), alpha=2)
        state = torch.add(state, total, alpha=hours / 6)
        total_biomass.add_(state[0])
    mean_biomass = total_biomass.sub_(state[0], alpha=0.5).div_(SUBSTEPS)
    return state[0].clamp(0.0, MAX_BIOMASS), state[1].clamp(0.0, MAX_SUBSTRATE), mean_biomass
