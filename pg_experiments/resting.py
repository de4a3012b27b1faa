"""Copies of runs that have played their episodes, kept where an environment can reset them as they are."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pg_experiments.devices import here, moved
from pg_experiments.envs.checks import innermost
from pg_experiments.envs.interface import Env, EnvState
from pg_experiments.envs.restarting import restarted
from pg_experiments.stepping import checked_reset


class Resting:
    """What a run's next whole episodes begin from: its copies, and the noise of its last reset.

    Of most environments that is nothing: each iteration resets fresh copies with noise that the run's generator drew.
    One with an attribute `resets_in_place = True` has a method `restart`, which is cheaper, and says with
    `following_noise` which episodes it leads to. They depend on nothing but the noise of the run's first reset and on
    how many there have been, so a run that goes on without its copies goes on with the same episodes.

    Args:
        env: wrappers included.
    """

    def __init__(self, env: Env) -> None:
        self._env = env
        self.used: bool = getattr(innermost(env), "resets_in_place", False)
        self._states: dict[int, EnvState] = {}
        # of each run `[envs, noise]`: of its latest reset, and of that of its last complete iteration
        self._latest: dict[int, Tensor] = {}
        self._complete: dict[int, Tensor] = {}

    def reset(
        self, runs: Sequence[int], noise: Float[Tensor, "runs envs noise"]
    ) -> tuple[EnvState, Float[Tensor, "runs envs observation"]]:
        """Let all copies of some runs begin: state and first observations.

        Args:
            noise: for runs that have not begun before.
        """
        if not self.used:
            return checked_reset(self._env, noise, runs)
        follow: Any = innermost(self._env)
        noise = torch.stack(
            [
                follow.following_noise(self._complete[run][None])[0] if run in self._complete else own
                for run, own in zip(runs, noise, strict=True)
            ]
        )
        self._latest.update(zip(runs, noise, strict=True))
        states = [self._states.pop(run, None) for run in runs]
        if any(state is None for state in states):
            return checked_reset(self._env, noise, runs)
        state = self._env.join(states) if len(states) > 1 else states[0]
        return restarted(self._env, state, torch.ones(noise.shape[:2], dtype=torch.bool), noise)

    def keep(self, run: int, state: EnvState, row: int) -> None:
        """The copies of a run whose episodes are over."""
        if self.used:
            self._states[run] = self._env.select(state, torch.tensor([row]))

    def complete(self, runs: Sequence[int]) -> None:
        """Some runs learn from their episodes."""
        self._complete.update({run: self._latest[run] for run in runs if run in self._latest})

    def drop(self, run: int) -> None:
        """Forget a run's copies."""
        self._states.pop(run, None)

    def state(self, runs: Sequence[int]) -> dict[str, Tensor] | None:
        """What the next episodes of some runs depend on, one row per run; None where it is nothing."""
        if not self._complete:
            return None
        none = torch.zeros_like(next(iter(self._complete.values())))
        return {
            "begun": torch.tensor([run in self._complete for run in runs]),
            "noise": torch.stack([self._complete.get(run, none) for run in runs]),
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave of all runs, in their order."""
        noise = moved(state["noise"], here())
        self._complete = {run: noise[run].clone() for run in state["begun"].nonzero()[:, 0].tolist()}
