"""Learning: small problems whose failure says what is broken, and the defaults on the real tasks (slow)."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_mdp import completed
from torch import Generator, Tensor
from type_checks import without_type_checks

from pg_experiments import compose
from pg_experiments.batch import Batch
from pg_experiments.config import SCHEMAS, Config
from pg_experiments.envs.interface import BoxActions, EnvSpec, Transition

SEEDS = 10


@dataclass(frozen=True)
class Aim:
    """One step with one continuous action between 0 and 4; the reward is -(action - 1)²: the best sample is -0.5."""

    spec: EnvSpec = EnvSpec(2, BoxActions((0.0,), (4.0,)), 1, 2)

    def reset(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        return noise, noise

    def step(self, state: Tensor, action: Tensor, running: Tensor) -> Transition:
        over = torch.ones_like(running)
        return Transition(state, state, -(action[..., 0] - 1).square(), over, ~over)

    def select(self, state: Tensor, rows: Tensor) -> Tensor:
        return state[rows]

    def join(self, states: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(states))


def mdp(**changes: Any) -> dict[str, Any]:
    """An environment of `small_mdp.py` as a user's own config would name it."""
    return {"_target_": "small_mdp.SmallMDP", "num_envs": 16, **changes}


def configs_of(env: dict[str, Any], *overrides: str, gammas: tuple[float, ...] = (0.9, 0.5, 1.0)) -> list[Config]:
    """One run for each discount, with seeds of their own."""
    base = compose(
        "optimizer.lr=0.03",
        "baseline.optimizer.lr=0.03",
        "baseline.hidden_sizes=[16]",
        "evaluation.episodes=20",
        "logging.progress=none",
        *overrides,
    )
    return [
        completed(replace(base, env={**env, "gamma": gamma}, seed=100 + run, total_env_steps=10**9))
        for run, gamma in enumerate(gammas)
    ]


def trained(configs: list[Config], iterations: int = 150) -> Batch:
    batch = Batch(configs)
    batch.iterate()
    with without_type_checks():  # the calls are those of the first iteration
        while min(batch.iterations) < iterations:
            batch.iterate()
    return batch


def values(batch: Batch) -> Tensor:
    """What the value network says of every state, [runs, states]."""
    assert batch.baseline is not None
    states = batch.parts.env.spec.observation_size
    observation = torch.eye(states).expand(len(batch.configs), states, states)
    return batch.parts.baseline.network(batch.baseline.parameters, observation)[..., 0].detach()  # type: ignore[attr-defined]


def probabilities(batch: Batch) -> Tensor:
    """Of every action in every state, [runs, states, actions]."""
    states = batch.parts.env.spec.observation_size
    observation = torch.eye(states).expand(len(batch.configs), states, states)
    distribution: Any = batch.parts.policy(batch.policy.parameters, observation)
    return distribution.logits.softmax(-1).detach()


def policy_overrides(policy: str) -> list[str]:
    return [f"policy={policy}", *(["policy.hidden_sizes=[16]"] if policy == "softmax" else [])]


every_policy = pytest.mark.parametrize("policy", ["softmax", "tabular_softmax"])
# shared_value learns from fixed rollouts alone
every_baseline = pytest.mark.parametrize("baseline", [name for name in SCHEMAS["baseline"] if name != "shared_value"])


# --- probes of the value network --------------------------------------------------------------------------------------


def test_value_of_a_single_step_becomes_its_reward() -> None:
    """Else the loss of the value network or its optimizer is broken."""
    env = mdp(following=((1, 1), (1, 1)), rewards=((0.7, 0.7), (0.0, 0.0)), terminal=(1,), start_probabilities=(1.0, 0))
    batch = trained(configs_of(env, *policy_overrides("softmax")))
    torch.testing.assert_close(values(batch)[:, 0], torch.full((3,), 0.7), rtol=0, atol=0.02)


def test_value_depends_on_the_observation() -> None:
    """Else the network does not see the observation, or not that of its own sample."""
    env = mdp(
        following=((2, 2), (2, 2), (2, 2)),
        rewards=((1.0, 1.0), (-1.0, -1.0), (0.0, 0.0)),
        terminal=(2,),
        start_probabilities=(0.5, 0.5, 0.0),
    )
    batch = trained(configs_of(env, *policy_overrides("softmax")))
    torch.testing.assert_close(values(batch)[:, :2], torch.tensor([[1.0, -1.0]] * 3), rtol=0, atol=0.05)


def test_value_two_steps_before_a_reward_becomes_the_discount() -> None:
    """Else returns are not discounted, or by the discount of another run."""
    env = mdp(
        following=((1, 1), (2, 2), (2, 2)),
        rewards=((0.0, 0.0), (1.0, 1.0), (0.0, 0.0)),
        terminal=(2,),
        start_probabilities=(1.0, 0.0, 0.0),
    )
    batch = trained(configs_of(env, *policy_overrides("softmax")))
    expected = torch.tensor([[0.9, 1.0], [0.5, 1.0], [1.0, 1.0]])
    torch.testing.assert_close(values(batch)[:, :2], expected, rtol=0, atol=0.05)


def test_value_of_an_endless_task_is_the_return_within_the_limit() -> None:
    """One state and reward 1 at each of four steps: the mean of the rewards to go, 4, 3, 2 and 1."""
    env = mdp(following=((0, 0),), rewards=((1.0, 1.0),), terminal=(), start_probabilities=(1.0,), max_episode_steps=4)
    batch = trained(configs_of(env, *policy_overrides("softmax")))
    expected = [sum(gamma**k * (4 - k) for k in range(4)) / 4 for gamma in (0.9, 0.5, 1.0)]
    torch.testing.assert_close(values(batch)[:, 0], torch.tensor(expected), rtol=0, atol=0.05)


# --- probes of the policy ---------------------------------------------------------------------------------------------


@every_policy
@every_baseline
def test_policy_picks_the_rewarded_action(policy: str, baseline: str) -> None:
    """Else the loss has the wrong sign, or actions and rewards do not belong together."""
    env = mdp(
        following=((1, 1, 1), (1, 1, 1)),
        rewards=((0.0, 0.0, 1.0), (0.0, 0.0, 0.0)),
        terminal=(1,),
        start_probabilities=(1.0, 0.0),
    )
    own = ["baseline.hidden_sizes=[16]", "baseline.optimizer.lr=0.03"] if baseline == "value_network" else []
    base = compose(
        *policy_overrides(policy), f"baseline={baseline}", *own, "optimizer.lr=0.03", "logging.progress=none"
    )
    configs = [completed(replace(base, env=env, seed=100 + run, total_env_steps=10**9)) for run in range(3)]
    assert probabilities(trained(configs))[:, 0, 2].min() > 0.9


@every_policy
def test_policy_picks_the_action_that_the_observation_asks_for(policy: str) -> None:
    """Else observations and actions do not belong together."""
    env = mdp(
        following=((2, 2), (2, 2), (2, 2)),
        rewards=((1.0, -1.0), (-1.0, 1.0), (0.0, 0.0)),
        terminal=(2,),
        start_probabilities=(0.5, 0.5, 0.0),
    )
    found = probabilities(trained(configs_of(env, *policy_overrides(policy))))
    assert found[:, 0, 0].min() > 0.9
    assert found[:, 1, 1].min() > 0.9


@every_policy
def test_policy_gives_up_a_small_reward_now_for_a_larger_one_later_if_it_looks_ahead(policy: str) -> None:
    """0.6 now against 1 a step later: the discounts 0.9 and 1 wait, 0.5 does not. Else credit is not passed back."""
    env = mdp(
        following=((2, 1), (2, 2), (2, 2)),
        rewards=((0.6, 0.0), (1.0, 1.0), (0.0, 0.0)),
        terminal=(2,),
        start_probabilities=(1.0, 0.0, 0.0),
    )
    waits = probabilities(trained(configs_of(env, *policy_overrides(policy))))[:, 0, 1]
    assert waits[0] > 0.9
    assert waits[1] < 0.1
    assert waits[2] > 0.9


def test_von_mises_and_beta_need_fewer_samples_than_the_gaussian() -> None:
    """Navigation, seeds 0 to 2, with the settings of `docs/draw_policies.py`: fewer actions in as many env steps."""
    mixed = ("policy=mixed", "policy.parts=[von_mises,beta]", "policy.initial_shape=1.2", "optimizer.lr=0.08")
    gaussian = ("policy=gaussian", "policy.initial_std=0.15", "optimizer.lr=0.02")
    lengths = []
    for policy in (mixed, gaussian):
        shared = ("env=navigation", "total_env_steps=200000", "logging.progress=none")
        batch = Batch([compose(*policy, *shared, f"seed={seed}") for seed in range(3)])
        played: dict[int, list[float]] = {seed: [] for seed in range(3)}
        batch.iterate()
        with without_type_checks():
            while min(batch.env_steps) < 20_000:
                runs, iteration = batch.iterate()
                for row, run in enumerate(runs):
                    if batch.env_steps[run] >= 14_000:
                        played[run].append(iteration.episodes.length[row].double().mean(0).item())
        lengths.append([sum(each) / len(each) for each in played.values()])
    for own, other in zip(*lengths, strict=True):
        assert own < other


@pytest.mark.parametrize("state_dependent_std", ["false", "true"])
def test_gaussian_policy_finds_the_best_action_and_narrows(state_dependent_std: str) -> None:
    """Else log-probability, rescaling or the spread's gradient is broken."""
    env = {"_target_": f"{__name__}.Aim", "num_envs": 32, "default_initial_std": 0.5}
    overrides = ["policy=gaussian", "policy.hidden_sizes=[16]", f"policy.state_dependent_std={state_dependent_std}"]
    batch = trained(configs_of(env, *overrides), 250)
    observation = torch.rand(3, 20, 2, generator=Generator().manual_seed(81))
    distribution: Any = batch.parts.policy(batch.policy.parameters, observation)
    torch.testing.assert_close(distribution.mode().detach(), torch.full((3, 20, 1), -0.5), rtol=0, atol=0.12)
    assert distribution.log_std.exp().max() < 0.35


def test_entropy_bonus_keeps_the_policy_open() -> None:
    """With a bonus of c nats the best policy is softmax(reward / c): probability 0.731 for a reward of c."""
    env = mdp(
        following=((1, 1), (1, 1)), rewards=((0.5, 0.0), (0.0, 0.0)), terminal=(1,), start_probabilities=(1.0, 0.0)
    )
    overrides = [*policy_overrides("tabular_softmax"), "algorithm.normalize_advantage=false"]
    configs = [
        replace(config, algorithm=replace(config.algorithm, entropy_coefficient=coefficient))
        for config, coefficient in zip(configs_of(env, *overrides), (0.0, 0.5, 5.0), strict=True)
    ]
    found = probabilities(trained(configs, 300))[:, 0, 0]
    assert found[0] > 0.9
    assert found[1].item() == pytest.approx(1 / (1 + torch.tensor(-1.0).exp().item()), abs=0.05)
    assert found[2].item() == pytest.approx(1 / (1 + torch.tensor(-0.1).exp().item()), abs=0.05)


# --- the defaults on the real tasks -----------------------------------------------------------------------------------


def evaluations_of_all_seeds(folder: Path, *overrides: str) -> list[dict[str, float]]:
    """Ten seeds in one batch with nothing but defaults, evaluated on 100 deterministic episodes each.

    By the command, in a process of its own: what lets shapes and types be checked here takes time even when it is off.
    """
    more = ("hydra.launcher.workers=1", f"hydra.sweep.dir={folder}", "logging.progress=none")
    command = [sys.executable, "-m", "pg_experiments.train", "-m", *overrides, f"seed=range({SEEDS})", *more]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    results = [json.loads(path.read_text()) for path in folder.glob("*/result.json")]
    assert [result["status"] for result in results] == ["completed"] * SEEDS
    assert all(result["evaluation"]["episodes"] == 100 for result in results)
    return [result["evaluation"] for result in results]


@pytest.mark.slow
def test_default_settings_swing_up_the_pendulum_with_every_seed(tmp_path: Path) -> None:
    found = evaluations_of_all_seeds(tmp_path, "policy=gaussian", "env=pendulum")
    assert min(each["return_mean"] for each in found) >= -200, found


@pytest.mark.slow
def test_default_settings_balance_the_pole_with_every_seed(tmp_path: Path) -> None:
    found = evaluations_of_all_seeds(tmp_path, "policy=softmax", "env=cartpole")
    assert min(each["return_mean"] for each in found) >= 475, found


@pytest.mark.slow
def test_default_settings_navigate_by_nearly_the_shortest_continuous_path(tmp_path: Path) -> None:
    found = evaluations_of_all_seeds(tmp_path, "policy=gaussian", "env=navigation")
    assert sum(each["length_mean"] for each in found) / SEEDS <= 12, found


@pytest.mark.slow
def test_default_settings_navigate_by_nearly_the_shortest_discrete_path(tmp_path: Path) -> None:
    found = evaluations_of_all_seeds(tmp_path, "policy=softmax", "env=navigation_discrete")
    assert sum(each["length_mean"] for each in found) / SEEDS <= 110, found
