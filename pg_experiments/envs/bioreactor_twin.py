"""How the native bioreactor is looked at: its Gymnasium twin draws what happened so far."""

from dataclasses import dataclass, field, fields
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from pg_experiments.envs.bioreactor import Bioreactor
from pg_experiments.envs.bioreactor_model import STEP_HOURS
from pg_experiments.envs.gymnasium_bioreactor import Moment
from pg_experiments.envs.interface import Transition, Twin
from pg_experiments.envs.twins import frames_per_second, made


@dataclass(frozen=True)
class Watched(Bioreactor):
    """A bioreactor that remembers the one episode of its one copy.

    Attributes:
        history: every moment, the start first. The production counts the rewards but for that of a washout.
    """

    history: list[Moment] = field(default_factory=list)

    def reset(self, noise: Float[Tensor, "1 1 4"]) -> tuple[tuple[Tensor, ...], Tensor]:
        state, observation = super().reset(noise)
        self.history[:] = [Moment(state[0].item(), state[1].item(), 0.0, 0.0)]
        return state, observation

    def step(
        self, state: tuple[Tensor, ...], action: Float[Tensor, "1 1 1"], running: Bool[Tensor, "1 1"]
    ) -> Transition:
        after = super().step(state, action, running)
        harvest = 0.0 if after.terminated.item() else after.reward.item()
        production = self.history[-1].production + harvest * STEP_HOURS
        biomass, substrate = after.state[0].item(), after.state[1].item()
        self.history.append(Moment(biomass, substrate, action.item(), production))
        return after


def twin_of_bioreactor(native: Bioreactor) -> Twin:
    """A bioreactor of the same settings that is watched, and the picture of its hours so far."""
    watched = Watched(**{setting.name: getattr(native, setting.name) for setting in fields(Bioreactor)})
    env = made("pg_experiments/Bioreactor-v0")
    env.reset(seed=0)

    def picture(state: Any, run: int, copy: int) -> Any:
        env.unwrapped.history = watched.history  # type: ignore[attr-defined]
        return env.render()

    return Twin(watched, picture, frames_per_second(env), env.close)
