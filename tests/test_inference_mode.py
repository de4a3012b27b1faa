"""Playing and learning without autograd's bookkeeping: what users bring may ask for gradients all the same."""

from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import Any

import pytest
import torch
from small_mdp import SmallMDP, completed
from test_runs_are_independent import ALGORITHMS, FITTING, make_configs
from torch import Generator, Tensor
from type_checks import without_type_checks

from pg_experiments import compose, train
from pg_experiments.batch import Batch
from pg_experiments.dense import Dense, _passes
from pg_experiments.envs.constants import constants as _numbers_of_all_environments
from pg_experiments.envs.interface import EnvSpec, Transition
from pg_experiments.exact import _minus_one
from pg_experiments.fixed_rollout import FixedRollout
from pg_experiments.gradients import score_gradients
from pg_experiments.modes import mode_of
from pg_experiments.packing import Pass
from pg_experiments.policies.distributions import Categorical
from pg_experiments.policies.networks import MLP
from pg_experiments.policies.von_mises import _rule
from pg_experiments.rollout import Rollout, Trajectory
from pg_experiments.runs import Parts, build, stack

RUNS, ENVS, STEPS, SEED = 2, 3, 6, 5
SMALL = ("env.num_envs=3", "total_env_steps=200", "evaluation.episodes=2", "logging.progress=none")


def played(parts: Parts, fixed: bool) -> tuple[dict[str, Tensor], Trajectory, list[Tensor]]:
    """First parameters, a rollout with them, and what else it gives."""
    rollout = (
        FixedRollout(parts.policy, parts.env, ENVS, STEPS, torch.float32)
        if fixed
        else Rollout(parts.policy, parts.env, RUNS, ENVS, torch.float32)
    )
    generators = {run: Generator().manual_seed(SEED + run) for run in range(RUNS)}
    parameters = parts.policy.init([Generator().manual_seed(run) for run in range(RUNS)], torch.float32)
    rollout.begin(range(RUNS), parameters, generators)
    while not rollout.enough:
        rollout.play()
    _, episodes, trajectory = rollout.take()
    assert trajectory is not None
    return parameters, trajectory, [*episodes, *(rollout.state(range(RUNS)) or {}).values()]


@pytest.mark.parametrize("fixed", [False, True])
def test_a_graph_can_keep_everything_that_a_rollout_gives(fixed: bool) -> None:
    parts = build(stack(make_configs("softmax", "cartpole", "value_network", *ALGORITHMS["ppo"], runs=RUNS)))
    _, trajectory, others = played(parts, fixed)
    assert not [part for part in (*trajectory, *others) if part is not None and part.is_inference()]


@pytest.mark.parametrize("policy", FITTING)
def test_the_gradient_is_the_same_in_inference_mode_and_after_it(policy: str) -> None:
    algorithm = ("algorithm=actor_critic", f"algorithm.rollout_steps={STEPS}")
    parts = build(stack(make_configs(policy, FITTING[policy][0], "value_network", *algorithm, runs=RUNS)))
    parameters, trajectory, _ = played(parts, fixed=True)
    samples = Dense(RUNS, STEPS * ENVS)
    for kept in (_rule, _passes, _minus_one):  # is made anew, in inference mode, and no graph keeps it
        kept.cache_clear()

    def found() -> dict[str, Tensor]:
        # what a graph must not keep there: made in the mode that this is called in
        observation, action = (samples.pack(part).clone() for part in (trajectory.observation, trajectory.action))
        weight = torch.linspace(-1.0, 2.0, len(observation))

        def weigh(log_prob: Tensor, entropy: Tensor, blocks: Pass) -> Tensor:
            assert torch.is_inference_mode_enabled() == weight.is_inference()
            blocks.of(weight).add_(entropy)  # in place, as algorithms keep what they report
            return blocks.of(weight) * log_prob

        coefficient = torch.tensor([0.1, 0.0])
        return score_gradients(parts.policy, parameters, samples, observation, action, weigh, coefficient)

    with torch.inference_mode():
        inside = found()
    outside = found()
    assert inside.keys() == outside.keys() == parameters.keys()
    for name, gradient in outside.items():
        assert torch.equal(inside[name], gradient), name
        assert not gradient.is_inference(), name


WEIGHT = torch.nn.Parameter(torch.zeros(4))


class FittedByAutograd:
    """A baseline as somebody writes it who knows torch: a parameter, a loss, `backward` and an optimizer of torch."""

    def init(self, generators: Any, dtype: torch.dtype) -> None:
        return None

    def values_then_learn(self, learner: None, experience: Any, progress: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        optimizer = torch.optim.SGD([WEIGHT], lr=1e-3)
        value = experience.observation @ WEIGHT
        loss = (value - experience.returns).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return value.detach(), {"loss/own": loss.detach().expand(len(progress))}


def test_a_baseline_may_learn_with_torchs_own_backward() -> None:
    config = compose("policy=softmax", "env=cartpole", *SMALL)
    config = replace(config, baseline={"_target_": "test_inference_mode.FittedByAutograd"})  # type: ignore[arg-type]
    with without_type_checks():
        (result,) = train([config])
    assert (result.status, result.error) == ("completed", None)
    assert WEIGHT.abs().max() > 0


@dataclass(frozen=True)
class KeepsTensors(SmallMDP):
    """An environment that makes a tensor in its first step and changes it in place in every method."""

    def reset(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        self._count()
        return super().reset(noise)

    def step(self, state: Tensor, action: Tensor, running: Tensor) -> Transition:
        if "calls" not in vars(self):
            object.__setattr__(self, "calls", torch.zeros(1))
        self._count()
        return super().step(state, action, running)

    def select(self, state: Tensor, rows: Tensor) -> Tensor:
        self._count()
        return super().select(state, rows)

    def join(self, states: Any) -> Tensor:
        self._count()
        return super().join(states)

    def _count(self) -> None:
        if "calls" in vars(self):
            self.calls.add_(1)  # type: ignore[attr-defined]


KEPT: list[Tensor] = []


class KeepsForAll(SmallMDP):
    """The same with a tensor that outlives the environment."""

    def reset(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        for kept in KEPT:
            kept.add_(1)
        return super().reset(noise)

    def step(self, state: Tensor, action: Tensor, running: Tensor) -> Transition:
        if not KEPT:
            KEPT.append(torch.zeros(1))
        return super().step(state, action, running)


@pytest.mark.parametrize("algorithm", ["reinforce", *ALGORITHMS])
def test_an_environment_may_change_tensors_of_its_own_in_place(algorithm: str) -> None:
    own = ALGORITHMS.get(algorithm, (f"algorithm={algorithm}",))
    config = compose("policy=softmax", "env=cartpole", *own, *SMALL)
    for kind in ("KeepsTensors", "KeepsForAll", "KeepsForAll"):
        env: Any = {"_target_": f"test_inference_mode.{kind}", "num_envs": ENVS}
        configs = [
            replace(completed(replace(config, env=env)), seed=run, total_env_steps=100 + 100 * run)
            for run in range(RUNS)
        ]
        with without_type_checks():
            results = train(configs)
        assert [(result.status, result.error) for result in results] == [("completed", None)] * RUNS


@cache
def first_needed() -> Tensor:
    return torch.tensor([1.0, 2.0, 3.0, 4.0])


@dataclass(frozen=True)
class MakesWhatItNeeds:
    """A policy with constants that it makes when it first acts; a graph keeps them."""

    spec: EnvSpec

    @cached_property
    def more(self) -> Tensor:
        return torch.tensor([0.5, 1.0, 1.5, 2.0])

    def init(self, generators: Any, dtype: torch.dtype) -> dict[str, Tensor]:
        return {"weight": torch.zeros(len(generators), 4, 2, dtype=dtype)}

    def actor(self, parameters: dict[str, Tensor]) -> Any:
        return partial(self, parameters)

    def __call__(self, parameters: dict[str, Tensor], observation: Tensor) -> Categorical:
        weight = parameters["weight"] * (first_needed() * self.more)[:, None]
        return Categorical(observation.matmul(weight * self.more[:, None]))

    def draw_noise(self, generator: Generator, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return Categorical.draw_noise(generator, shape, 2, dtype)

    def env_action(self, action: Tensor) -> Tensor:
        return action


@pytest.mark.parametrize("algorithm", ["reinforce", "actor_critic", "ppo"])
def test_a_policy_may_make_its_constants_when_it_first_acts(algorithm: str) -> None:
    first_needed.cache_clear()
    config = compose("env=cartpole", *ALGORITHMS.get(algorithm, (f"algorithm={algorithm}",)), *SMALL, "policy=softmax")
    config = replace(config, policy={"_target_": "test_inference_mode.MakesWhatItNeeds"})  # type: ignore[arg-type]
    with without_type_checks():
        (result,) = train([config])
    assert (result.status, result.error) == ("completed", None)


@pytest.mark.parametrize("policy", ["gaussian", "squashed_gaussian", "beta", "von_mises"])
def test_actions_of_a_trained_policy_can_be_differentiated(policy: str) -> None:
    with without_type_checks():
        (result,) = train([compose("env=pendulum", f"policy={policy}", *SMALL)])
    assert result.policy is not None
    action = torch.zeros(1, 1, 1, requires_grad=True)
    result.policy.policy.env_action(action).sum().backward()
    assert action.grad is not None


@pytest.mark.parametrize("env", ["navigation", "mountain_car_continuous", "pendulum", "bioreactor"])
def test_an_environment_that_was_trained_in_can_be_differentiated(env: str) -> None:
    config = compose(f"env={env}", "policy=gaussian", *SMALL)
    _numbers_of_all_environments.cache_clear()
    with without_type_checks():
        train([config])
    task = build(stack([config])).env
    state, _ = task.reset(torch.full((1, 1, task.spec.reset_noise_size), 0.6))
    action = torch.full((1, 1, len(task.spec.actions.low)), 0.1, requires_grad=True)  # type: ignore[union-attr]
    after = task.step(state, action, torch.ones(1, 1, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(after.observation.sum((0, 1, 2)), action)
    assert gradient.abs().max() > 0


def test_what_a_learner_and_an_algorithm_give_can_be_changed_and_differentiated_with() -> None:
    configs = make_configs("softmax", "cartpole", "value_network", *ALGORITHMS["ppo"], runs=RUNS)
    batch = Batch(configs)
    with without_type_checks():
        _, iteration = batch.iterate()
        gradients = {name: torch.ones_like(part) for name, part in batch.policy.parameters.items()}
        norm, lr = batch.policy.step(gradients, torch.zeros(RUNS, dtype=torch.float64))
    assert not [name for name, part in iteration.metrics.items() if part.is_inference()]
    assert not norm.is_inference()
    assert not lr.is_inference()


@pytest.mark.parametrize(
    ("overrides", "mode"),
    [
        (("env=cartpole", "policy=softmax"), torch.inference_mode),
        (("env=cartpole", "policy=softmax", "env.backend=envpool"), torch.inference_mode),
        (("env=pendulum", "policy=mixed", "env.wrappers=[normalize_observation]"), torch.inference_mode),
        (("env=cartpole", "policy=softmax", "env.backend=sync"), torch.no_grad),
        (("env=cartpole", "policy=softmax", "env.backend=async"), torch.no_grad),
    ],
)
def test_only_what_is_of_this_package_alone_plays_in_inference_mode(overrides: tuple[str, ...], mode: Any) -> None:
    parts = build(stack([compose(*overrides, *SMALL)]))
    assert mode_of(parts.policy, parts.env) is mode
    assert mode_of(parts.policy, parts.env, FittedByAutograd()) is torch.no_grad
    assert mode_of(parts.policy, {"inside": [partial(FittedByAutograd)]}) is torch.no_grad


def test_no_second_derivative_through_a_network_that_would_be_wrong() -> None:
    network = MLP(2, [4], 1, "sigmoid", 1.0)
    parameters = network.init([Generator().manual_seed(SEED)], torch.float64)
    x = torch.ones(1, 3, 2, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(network(parameters, x).sum((0, 1, 2)), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"differentiate twice|does not require grad"):
        torch.autograd.grad(first.square().sum((0, 1, 2)), x)
