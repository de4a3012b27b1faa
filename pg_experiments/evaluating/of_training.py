"""Evaluations of the runs of a training, on the way and at their ends: many runs as one program, and their videos."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from pg_experiments.batch import State
from pg_experiments.config import Config, evaluation_seed
from pg_experiments.devices import CPU, here, moved, on
from pg_experiments.evaluating.on_the_way import video_of
from pg_experiments.evaluation import Evaluation, evaluate_each
from pg_experiments.policies.interface import Policy
from pg_experiments.runs import DTYPES, Parts, build, stack


class Ended(NamedTuple):
    """A run, as an index into the configs, and a state of it, of one row: mostly its last one."""

    run: int
    state: State


class Evaluations:
    """What the runs of one training are evaluated with.

    Args:
        configs: of the runs.
        parts: of the training.
    """

    def __init__(self, configs: Sequence[Config], parts: Parts) -> None:
        self._configs, self._parts = configs, parts
        self._parts_on_cpu: Parts | None = None

    def of(self, ended: Sequence[Ended]) -> list[Evaluation | str]:
        """The deterministic evaluation of each run, from random numbers of its own; what it raised, if it did."""
        states = [moved(state["policy"]["parameters"], here()) for _, state in ended]
        seeds, config = [evaluation_seed(self._configs[run]) for run, _ in ended], self._configs[0]
        parts, episodes = self._parts, config.evaluation.episodes
        return evaluate_each(parts.policy, states, parts.env, seeds, episodes, DTYPES[config.dtype])

    def video(self, ended: Ended) -> Any:
        """Of one episode of a run's evaluation, if it is asked for; or why there is none."""
        parts = self._on_cpu()
        with on(CPU):
            return video_of(self._configs[ended.run], parts.policy, ended.state["policy"]["parameters"], parts.env)

    @property
    def policy(self) -> Policy:
        """The policy that acts, for parameters on the CPU, where states are."""
        return self._on_cpu().policy

    def _on_cpu(self) -> Parts:
        """The parts with their numbers on the CPU; made once, and only where the others are elsewhere."""
        if torch.device(self._configs[0].device).type == CPU:
            return self._parts
        if self._parts_on_cpu is None:
            with on(CPU):
                self._parts_on_cpu = build(stack(self._configs[:1]))
        return self._parts_on_cpu
