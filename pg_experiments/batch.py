"""The runs of one program while they train."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pg_experiments.algorithms.reinforce import Iteration
from pg_experiments.config import Config
from pg_experiments.errors import first_line
from pg_experiments.optimizers import Learner
from pg_experiments.policies.networks import Parameters
from pg_experiments.randomness import generator_for
from pg_experiments.runs import DTYPES, build, num_envs, stack
from pg_experiments.sizing import check_parameters_fit

State = dict[str, Any]


class Batch:
    """Parts, learners, generators and counters of runs of equal structure. Row k of every tensor is run k.

    Attributes:
        configs: of the rows; a run that leaves takes its row along.
        env_steps: played so far, per row.
        iterations: done by every row.
    """

    def __init__(self, configs: Sequence[Config], state: State | None = None) -> None:
        """Begin, or go on from a `state` of the same runs in the same order."""
        self.configs = list(configs)
        self.runs = stack(configs)
        self.parts = build(self.runs)
        check_parameters_fit(configs[0], self.parts, len(configs))
        dtype = DTYPES[configs[0].dtype]
        first = [generator_for(config.seed, "parameters") for config in configs]
        self.policy = Learner(self.parts.optimizer, self.parts.policy.init(first, dtype))
        self.baseline = self.parts.baseline.init(first, dtype)
        self.generators = [generator_for(config.seed, "rollout") for config in configs]
        self.env_steps = [0] * len(configs)
        self.iterations = 0
        if state is not None:
            self._load(state)

    @property
    def num_envs(self) -> int:
        """Copies of the environment per run, and so episodes per iteration."""
        return num_envs(self.configs[0])

    def iterate(self) -> Iteration:
        """One iteration of the algorithm for all rows."""
        played = torch.tensor(self.env_steps, dtype=torch.float64)
        iteration = self.parts.algorithm.iterate(
            self.parts.policy,
            self.policy,
            self.parts.baseline,
            self.baseline,
            self.parts.env,
            self.generators,
            self.num_envs,
            played / self.runs.numbers["total_env_steps"],
        )
        self.env_steps = [before + now for before, now in zip(self.env_steps, iteration.env_steps, strict=True)]
        self.iterations += 1
        return iteration

    def finite(self) -> list[bool]:
        """Per row, whether every parameter of policy and baseline is a finite number."""
        learners = [self.policy, self.baseline] if self.baseline else [self.policy]
        flags = [
            parameter.flatten(1).isfinite().all(1) for learner in learners for parameter in learner.parameters.values()
        ]
        return torch.stack(flags).all(0).tolist()

    def keep(self, rows: Sequence[int]) -> None:
        """Let all other rows leave."""
        index = torch.tensor(rows)
        self.configs = [self.configs[row] for row in rows]
        self.generators = [self.generators[row] for row in rows]
        self.env_steps = [self.env_steps[row] for row in rows]
        self.runs = self.runs.select(index)
        self.parts = build(self.runs, self.parts.env)
        self.policy = self.policy.select(index)
        self.baseline = self.baseline.select(index) if self.baseline else None

    def state(self) -> State:
        """A copy of everything that training changes."""
        return {
            "policy": self.policy.state(),
            "baseline": self.baseline.state() if self.baseline else None,
            "generator": torch.stack([generator.get_state() for generator in self.generators]),
            "env_steps": torch.tensor(self.env_steps),
            "iterations": self.iterations,
        }

    def _load(self, state: State) -> None:
        self.policy.load(state["policy"])
        if self.baseline:
            self.baseline.load(state["baseline"])
        for generator, saved in zip(self.generators, state["generator"], strict=True):
            generator.set_state(saved.clone())  # torch reads from the beginning of the storage, not of the view
        self.env_steps = state["env_steps"].tolist()
        self.iterations = state["iterations"]


def what_they_raise(configs: Sequence[Config], state: State) -> list[str | None]:
    """Per run, what it raises when it plays its next iteration alone; None when it raises nothing.

    A run alone does what it does in a batch, so this finds the run whose part raised there.

    Args:
        configs, state: of the runs, before that iteration.
    """
    reasons: list[str | None] = []
    for row, config in enumerate(configs):
        try:
            Batch([config], rows_of(state, [row])).iterate()
            reasons.append(None)
        except Exception as error:  # of a user's part: any kind
            reasons.append(f"{type(error).__name__}: {first_line(error)}")
    return reasons


def rows_of(state: Any, rows: Sequence[int]) -> Any:
    """Some rows of what `Batch.state` gave, copied; with one row, tensors are `[1, ...]`: what a checkpoint holds."""
    if isinstance(state, Tensor):
        return state[list(rows)] if state.ndim else state.clone()
    if isinstance(state, dict):
        return {key: rows_of(value, rows) for key, value in state.items()}
    return state


def parameters_of(state: State) -> Parameters:
    """The tensors of policy and baseline in a state, by full name."""
    return {
        f"{part}.{name}": tensor
        for part in ("policy", "baseline")
        if state[part]
        for name, tensor in state[part]["parameters"].items()
    }
