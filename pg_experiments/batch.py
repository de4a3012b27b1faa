"""The runs of one program while they train."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pg_experiments.algorithms.interface import Iteration, rollout_steps_of
from pg_experiments.baselines.shared_value import SharedValue
from pg_experiments.config import Config
from pg_experiments.devices import CPU, drawn, here, moved
from pg_experiments.envs.checks import name_of
from pg_experiments.errors import reason_of
from pg_experiments.evaluating.on_the_way import check_video
from pg_experiments.fixed_rollout import FixedRollout
from pg_experiments.metrics import mean_kl
from pg_experiments.monitoring import with_env_problems
from pg_experiments.optimizers import Learner
from pg_experiments.policies.networks import Parameters
from pg_experiments.randomness import generator_for
from pg_experiments.rollout import Episodes, Rollout, Trajectory
from pg_experiments.runs import DTYPES, Parts, Runs, build, num_envs, stack
from pg_experiments.schedules import KL_ADAPTIVE
from pg_experiments.sizing import check_parameters_fit
from pg_experiments.wrappers.learning import as_learned, first_statistics, of_the_policy

State = Mapping[str, Any]


class Batch:
    """Parts, learners, generators and counters of runs of equal structure. Row k of every tensor is run k.

    With whole episodes each run is in an iteration of its own: it plays its episodes while others play theirs, and
    learns together with those that have finished at about the same time. With fixed rollouts all play and learn
    together.

    Attributes:
        configs: of the runs.
        active: the runs that go on; the others have ended, and keep their row.
        env_steps: of the iterations that a run has completed.
        iterations: that a run has completed.
        episodes: that have finished in them.
    """

    def __init__(self, configs: Sequence[Config], state: State | None = None) -> None:
        """Begin, or go on from a `state` of the same runs in the same order."""
        self.configs = list(configs)
        self.runs = stack(configs)
        self.parts = build(self.runs)
        check_parameters_fit(configs[0], self.parts, len(configs))
        check_video(configs[0], self.parts.env)
        dtype = DTYPES[configs[0].dtype]
        first = [generator_for(config.seed, "parameters") for config in configs]
        self.policy = Learner(self.parts.optimizer, drawn(lambda: self.parts.trained_policy.init(first, dtype)))
        self.statistics = first_statistics(self.parts, len(configs), num_envs(configs[0]))
        self.baseline = drawn(lambda: self.parts.baseline.init(first, dtype))
        if self.baseline:
            self.baseline.parameters = moved(self.baseline.parameters, here())
        self.generators = {run: generator_for(config.seed, "rollout") for run, config in enumerate(configs)}
        self.active = list(range(len(configs)))
        self.env_steps = [0] * len(configs)
        self.iterations = [0] * len(configs)
        self.episodes = [0] * len(configs)
        self._rollout = self._make_rollout(dtype)
        self._latest: tuple[list[int], Runs, Parts] | None = None
        self._lent = False  # whether a state has the learners' own tensors, which must not change then
        if state is not None:
            self._load(state)
        self._before = {run: generator.get_state() for run, generator in self.generators.items()}

    def _make_rollout(self, dtype: torch.dtype) -> Rollout | FixedRollout:
        policy, env, copies = self.parts.policy, self.parts.env, num_envs(self.configs[0])
        steps = rollout_steps_of(self.parts.algorithm)
        if steps is None:
            return Rollout(policy, env, len(self.configs), copies, dtype)
        return FixedRollout(policy, env, copies, steps, dtype)

    def iterate(self) -> tuple[list[int], Iteration]:
        """Play on until an iteration of some runs is complete.

        Returns:
            These runs in ascending order, and what each of them did in its iteration.
        """
        rollout = self._rollout
        waiting = [run for run in self.active if run not in rollout.playing]
        acting = self.policy.parameters | of_the_policy(self.statistics)
        rows = torch.tensor(waiting, dtype=torch.long)
        parameters = {name: parameter.index_select(0, rows) for name, parameter in acting.items()}
        rollout.begin(waiting, parameters, self.generators)
        while not rollout.enough:
            rollout.play()
        runs, episodes, trajectory = rollout.take()
        assert trajectory is not None
        return runs, self._learn(runs, episodes, trajectory)

    def _learn(self, runs: Sequence[int], episodes: Episodes, trajectory: Trajectory) -> Iteration:
        """Let some runs learn from their episodes. Only when all went well it changes anything."""
        rows = torch.tensor(runs)
        own, parts = self._own(runs)
        everyone = list(runs) == list(range(len(self.configs)))
        policy = self.policy.copy() if everyone else self.policy.select(rows)
        baseline = self.baseline
        if baseline:
            baseline = baseline.copy() if everyone else baseline.select(rows)
        played = torch.tensor([self.env_steps[run] for run in runs], dtype=torch.float64)
        progress = played / own.numbers["total_env_steps"]
        before = {name: value[rows] for name, value in self.statistics.items()}
        learned, statistics = as_learned(parts, before, trajectory, own.numbers["env.gamma"])
        adapts = policy.settings.schedule == KL_ADAPTIVE
        old = {name: part.clone() for name, part in policy.parameters.items()} if adapts else {}
        steps = list(policy.steps)
        iteration = parts.algorithm.learn(
            parts.trained_policy,
            policy,
            parts.baseline,
            baseline,
            episodes,
            learned,
            progress,
            [self.generators[run] for run in runs],
        )
        if adapts:
            kl = mean_kl(parts.trained_policy, old, policy.parameters, learned)
            stepped = torch.tensor(policy.steps) > torch.tensor(steps)
            policy.adapt(kl, stepped)
            if isinstance(parts.baseline, SharedValue) and isinstance(baseline, Learner):
                baseline.adapt(kl, stepped)
            iteration = iteration._replace(metrics={**iteration.metrics, "policy/kl": kl})
        iteration = with_env_problems(iteration, trajectory, name_of(self.parts.env))
        if everyone:
            self.policy, self.baseline, self._lent = policy, baseline, False
        else:
            if self._lent:
                self.policy, self._lent = self.policy.copy(), False
                self.baseline = self.baseline.copy() if self.baseline else None
            self.policy.load(rows, policy.state())
            if self.baseline and baseline:
                self.baseline.load(rows, baseline.state())
        for name, value in statistics.items():
            self.statistics[name][rows] = value
        counts = zip(runs, iteration.env_steps, episodes.finished.sum(1).tolist(), strict=True)
        for run, env_steps, finished in counts:
            self.env_steps[run] += env_steps
            self.episodes[run] += finished
            self.iterations[run] += 1
            self._before[run] = self.generators[run].get_state()
        return iteration

    def _own(self, runs: Sequence[int]) -> tuple[Runs, Parts]:
        """Numbers and parts of some runs: those of the iteration before, when they are the same runs."""
        if self._latest is None or self._latest[0] != list(runs):
            own = self.runs.select(torch.tensor(runs))
            self._latest = list(runs), own, build(own, self.parts.env)
        return self._latest[1:]

    def end(self, run: int) -> None:
        """Let a run not go on; of what it has begun since its last complete iteration, nothing is left."""
        self.active.remove(run)
        self._rollout.drop(run)

    def finite(self, runs: Sequence[int]) -> list[bool]:
        """Whether every parameter of policy and baseline is a finite number, for each of the given runs."""
        learners = [self.policy, self.baseline] if self.baseline else [self.policy]
        tensors = [parameter for learner in learners for parameter in learner.parameters.values()]
        tensors += self.statistics.values()
        total = torch.stack([tensor.flatten(1).sum(1) for tensor in tensors]).sum(0)
        finite = total.isfinite().tolist()
        if not all(finite):  # or large numbers have a sum that is not
            finite = torch.cat([tensor.flatten(1) for tensor in tensors], 1).isfinite().all(1).tolist()
        return [finite[run] for run in runs]

    def state(self, runs: Sequence[int] | None = None) -> State:
        """On the CPU, all that training changes, of each run after its last complete iteration; it stays as it is.

        Args:
            runs: whose rows are wanted, in this order; None: all.
        """
        chosen = list(self.generators) if runs is None else list(runs)
        rows = torch.tensor(chosen)
        statistics = {name: value[rows] for name, value in self.statistics.items()}
        everyone = chosen == list(range(len(self.configs)))
        self._lent = self._lent or everyone
        of_learners = None if everyone else rows
        policy = self.policy.state(of_learners)
        policy["parameters"] |= of_the_policy(statistics)
        state = {
            "policy": policy,
            "statistics": {name: value for name, value in statistics.items() if name not in policy["parameters"]},
            "baseline": self.baseline.state(of_learners) if self.baseline else None,
            "generator": torch.stack([self._before[run] for run in chosen]),
            "env_steps": torch.tensor([self.env_steps[run] for run in chosen]),
            "iterations": torch.tensor([self.iterations[run] for run in chosen]),
            "episodes": torch.tensor([self.episodes[run] for run in chosen]),
            "rollout": self._rollout.state(chosen),
        }
        return moved(state, torch.device(CPU))

    def _load(self, state: State) -> None:
        rows = torch.arange(len(self.configs))
        self.policy.load(rows, state["policy"])
        if self.baseline:
            self.baseline.load(rows, state["baseline"])
        for name, value in self.statistics.items():
            value.copy_((state["statistics"] | state["policy"]["parameters"])[name])
        for run, saved in enumerate(state["generator"]):
            self.generators[run].set_state(saved.clone())  # torch reads from the beginning of the storage
        self.env_steps = state["env_steps"].tolist()
        self.iterations = state["iterations"].tolist()
        self.episodes = state["episodes"].tolist()
        if state["rollout"]:
            self._rollout.load(state["rollout"])


def what_they_raise(configs: Sequence[Config], states: Sequence[State]) -> list[str | None]:
    """Per run, what it raises when it plays its next iteration alone; None when it raises nothing.

    A run alone does what it does in a batch, so this finds the run whose part raised there.

    Args:
        configs, states: of the runs, before that iteration.
    """
    reasons: list[str | None] = []
    for config, state in zip(configs, states, strict=True):
        try:
            Batch([config], state).iterate()
            reasons.append(None)
        except Exception as error:  # of a user's part: any kind
            reasons.append(reason_of(error))
    return reasons


def rows_of(state: Any, rows: Sequence[int]) -> Any:
    """Some rows of what `Batch.state` gave, copied; with one row, tensors are `[1, ...]`: what a checkpoint holds."""
    if isinstance(state, Tensor):
        return state[rows[0] : rows[0] + 1].clone() if len(rows) == 1 else state[list(rows)]
    if isinstance(state, dict):
        return {key: rows_of(value, rows) for key, value in state.items()}
    return state


class OneOf(Mapping[str, Any]):
    """The state of one run among those of a batch, which must not change: copied part by part when it is asked for.

    Most states are never asked for: they are what a failure or an interruption would fall back to. `dict` of it is a
    copy of all parts, which keeps nothing of the batch's.

    Args:
        states: as `Batch.state` gave it.
        row: of the run among them; its tensors are `[1, ...]` here.
    """

    def __init__(self, states: State, row: int) -> None:
        self._states, self._row = states, row

    def __getitem__(self, key: str) -> Any:
        return rows_of(self._states[key], [self._row])

    def __iter__(self) -> Iterator[str]:
        return iter(self._states)

    def __len__(self) -> int:
        return len(self._states)


def joined(states: Sequence[Any]) -> Any:
    """States of one run each as the state of one batch, in their order: what `rows_of` takes apart.

    What only some of them have, such as an optimizer's state of runs that have learned before, is zero in the others:
    a `Learner` does not read it there, nor does a `FixedRollout`, whose runs that have not `begun` begin.
    """
    first = next(state for state in states if state is not None)
    if isinstance(first, Tensor):
        return torch.cat([torch.zeros_like(first) if state is None else state for state in states])
    keys = dict.fromkeys(key for state in states for key in state or ())
    columns = {key: [state.get(key) if state else None for state in states] for key in keys}
    return {key: None if all(part is None for part in column) else joined(column) for key, column in columns.items()}


def parameters_of(state: State) -> Parameters:
    """The tensors of policy and baseline in a state, by full name."""
    return {
        f"{part}.{name}": tensor
        for part in ("policy", "baseline")
        if state[part]
        for name, tensor in state[part]["parameters"].items()
    }
