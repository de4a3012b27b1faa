"""A run in a batch is the run alone, bit for bit: through the public `train`, and part by part."""

import ast
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from small_mdp import completed
from torch import Generator, Tensor
from type_checks import without_type_checks

import pg_experiments
from pg_experiments import RunResult, compose, exact, train
from pg_experiments.composition import conf_dir
from pg_experiments.config import Config, OptimizerConfig, walk
from pg_experiments.env_config import GYMNASIUM_TASKS
from pg_experiments.gradients import gradients, network_gradients
from pg_experiments.packing import BLOCK_SIZES, Packing, block_sizes
from pg_experiments.policies.networks import ACTIVATIONS, MLP

SEED = 41
BASELINES = {
    "none": ("baseline=none",),
    "batch_mean": ("baseline=batch_mean",),
    "leave_one_out": ("baseline=leave_one_out",),
    "running_mean": ("baseline=running_mean",),
    "time_dependent": ("baseline=time_dependent",),
    "linear_features": ("baseline=linear_features",),
    "optimal_constant": ("baseline=optimal_constant",),
    "optimal_constant_per_coordinate": ("baseline=optimal_constant", "baseline.per_coordinate=true"),
    "value_network": ("baseline=value_network", "baseline.hidden_sizes=[9,6]"),
}
NETWORK = ("policy.hidden_sizes=[7,10]",)
POLICIES = {
    "softmax": ("policy=softmax", *NETWORK),
    "gaussian": ("policy=gaussian", *NETWORK),
    "gaussian_state_dependent_std": ("policy=gaussian", "policy.state_dependent_std=true", *NETWORK),
    "gaussian_fixed_std": ("policy=gaussian", "policy.fixed_std=true", *NETWORK),
    "squashed_gaussian": ("policy=squashed_gaussian", *NETWORK),
    "beta": ("policy=beta", *NETWORK),
    "von_mises": ("policy=von_mises", *NETWORK),
    "linear_softmax": ("policy=linear_softmax",),
    "linear_gaussian": ("policy=linear_gaussian",),
    "multi_categorical": ("policy=multi_categorical", *NETWORK),
    "bernoulli": ("policy=bernoulli", *NETWORK),
    "mixed": ("policy=mixed", *NETWORK),
    "mixed_dimensions": ("policy=mixed", "policy.parts=[von_mises,beta]", *NETWORK),
    "auto": ("policy=auto", *NETWORK),
    "tabular_softmax": ("policy=tabular_softmax",),
    "softmax_cnn": ("policy=softmax", "policy.network=cnn", "policy.channels=[5,6]", *NETWORK),
    "gaussian_cnn": ("policy=gaussian", "policy.network=cnn", "policy.channels=[5,20]", *NETWORK),
}
OWN_SPACES = ("env=gymnasium", "env.id=own_spaces:OwnSpaces-v0", "env.num_envs=4")
ENVS = {  # limits below and beyond the 64 steps of a chunk; native and slow ones
    "cartpole": ("env=cartpole", "env.num_envs=5"),
    "pendulum": ("env=pendulum", "env.num_envs=3", "env.max_episode_steps=67"),
    "navigation": ("env=navigation", "env.num_envs=4", "env.max_episode_steps=71"),
    "navigation_discrete": ("env=navigation_discrete", "env.num_envs=4", "env.max_episode_steps=66"),
    "acrobot": ("env=acrobot", "env.num_envs=3", "env.max_episode_steps=70"),
    "mountain_car": ("env=mountain_car", "env.num_envs=3", "env.max_episode_steps=30"),
    "mountain_car_continuous": ("env=mountain_car_continuous", "env.num_envs=3", "env.max_episode_steps=65"),
    "bioreactor": ("env=bioreactor", "env.num_envs=3", "env.max_episode_steps=67"),
    "gymnasium_acrobot": (
        "env=gymnasium",
        "env.id=Acrobot-v1",
        "env.backend=sync",
        "env.num_envs=3",
        "env.max_episode_steps=20",
    ),
    "envpool_cartpole": ("env=cartpole", "env.backend=envpool", "env.num_envs=3", "env.max_episode_steps=67"),
    "gymnasium_mountain_car": (
        "env=gymnasium",
        "env.id=MountainCarContinuous-v0",
        "env.backend=sync",
        "env.num_envs=3",
        "env.max_episode_steps=9",
    ),
    "frozen_lake": ("env=frozen_lake", "env.num_envs=7", "env.map=[SFF,FHG]"),  # every run finds the goal at once
    "cliff_walking": ("env=cliff_walking", "env.num_envs=3", "env.max_episode_steps=66", "env.is_slippery=true"),
    "gymnasium_frozen_lake": ("env=gymnasium", "env.id=FrozenLake-v1", "env.num_envs=6", "env.kwargs.desc=[SFH,FFG]"),
    "gymnasium_images": ("env=gymnasium", "env.id=image_envs:Catch-v0", "env.num_envs=5"),
    "gymnasium_images_stacked": (
        "env=gymnasium",
        "env.id=image_envs:Catch-v0",
        "env.num_envs=3",
        "env.kwargs.continuous=true",
        "env.wrappers=[{stack_frames:{frames:3}}]",
    ),
    "multi_discrete": (*OWN_SPACES, "env.kwargs.kind=multi_discrete"),
    "multi_binary": (*OWN_SPACES, "env.kwargs.kind=multi_binary"),
    "dict": (*OWN_SPACES, "env.kwargs.kind=dict"),
    "small_mdp": (),  # of this folder, see `base_config`
}
ALGORITHMS = {  # those with fixed rollouts, whose baseline has to be a value network
    "actor_critic": ("algorithm=actor_critic", "algorithm.rollout_steps=37", "algorithm.normalize_advantage=true"),
    "ppo": (
        "algorithm=ppo",
        "algorithm.rollout_steps=13",
        "algorithm.epochs=2",
        "algorithm.minibatches=3",
        "algorithm.recompute_advantage=true",
        "algorithm.vtrace=true",
    ),
    "npg": ("algorithm=npg", "algorithm.rollout_steps=13", "algorithm.conjugate_gradient_iterations=4"),
    "trpo": ("algorithm=trpo", "algorithm.rollout_steps=13", "algorithm.conjugate_gradient_iterations=4"),
}
NATURAL = ("npg", "trpo")  # need a policy with a network
FITTING = {
    "softmax": ("cartpole", "navigation_discrete", "acrobot", "mountain_car", "gymnasium_acrobot", "envpool_cartpole"),
    "gaussian": ("pendulum", "navigation", "mountain_car_continuous", "bioreactor", "gymnasium_mountain_car"),
    "gaussian_state_dependent_std": ("pendulum", "navigation", "gymnasium_mountain_car"),
    "gaussian_fixed_std": ("navigation",),
    "squashed_gaussian": ("pendulum",),
    "beta": ("navigation", "gymnasium_mountain_car"),
    "von_mises": ("pendulum",),
    "linear_softmax": ("cartpole",),
    "linear_gaussian": ("pendulum",),
    "multi_categorical": ("multi_discrete",),
    "bernoulli": ("multi_binary",),
    "mixed": ("dict",),
    "mixed_dimensions": ("navigation",),
    "auto": ("pendulum",),
    "tabular_softmax": ("frozen_lake", "cliff_walking", "gymnasium_frozen_lake", "small_mdp"),
    "softmax_cnn": ("gymnasium_images",),
    "gaussian_cnn": ("gymnasium_images_stacked",),
}
PAIRS = [(policy, env) for policy, envs in FITTING.items() for env in envs]
OPTIMIZERS = {
    "adam": ("optimizer=adam",),
    "adamw": ("optimizer=adamw",),
    "rmsprop": ("optimizer=rmsprop", "optimizer.momentum=0.8", "optimizer.centered=true"),
    "sgd": ("optimizer=sgd", "optimizer.momentum=0.9", "optimizer.nesterov=true"),
    "torch": ("optimizer=torch", "optimizer._target_=torch.optim.NAdam"),
    "adam_accumulated": ("optimizer=adam", "optimizer.accumulate_gradients=2"),
}
ONLY_DEFAULTS = {  # read while the config is composed
    "env.default_initial_std",
    "env.default_env_steps",
    "algorithm.default_lr",
    "algorithm.default_sgd_lr",
    "algorithm.default_max_gradient_norm",
    "algorithm.default_baseline_lr",
}
ALL = "PG_EXPERIMENTS_ALL" in os.environ  # every combination of policy, environment and partner: an hour and a half
WITH_ALL = (  # of each kind of policy one, which meets every baseline and algorithm
    ("softmax", "cartpole"),
    ("gaussian_state_dependent_std", "pendulum"),
    ("tabular_softmax", "frozen_lake"),
    ("mixed_dimensions", "navigation"),
)


def combinations(partners: Iterable[str]) -> list[tuple[str, str, str]]:
    """(policy, environment, partner): every pair of the former with one partner in turn, and `WITH_ALL` with all."""
    partners = list(partners)
    if ALL:
        return [(*pair, partner) for pair in PAIRS for partner in partners]
    in_turn = [(*pair, partners[place % len(partners)]) for place, pair in enumerate(PAIRS)]
    return list(dict.fromkeys([*in_turn, *((*pair, partner) for pair in WITH_ALL for partner in partners)]))


def combinations_of_fifty() -> list[tuple[str, str, str]]:
    """Every third pair and every baseline, with one partner each; `combinations` has the others in smaller batches."""
    if ALL:
        return combinations(BASELINES)
    names = list(BASELINES)
    of_pairs = [(*PAIRS[place], names[(place + 4) % len(names)]) for place in range(0, len(PAIRS), 3)]
    of_baselines = [(*WITH_ALL[place % len(WITH_ALL)], name) for place, name in enumerate(names)]
    return list(dict.fromkeys([*of_pairs, *of_baselines]))


@cache
def base_config(*overrides: str) -> Config:
    return compose(*overrides, "evaluation.episodes=11", "logging.progress=none")


def make_configs(policy: str, env: str, baseline: str, *overrides: str, runs: int) -> list[Config]:
    """Configs whose per-run numbers all differ, and whose budgets let them leave at different times."""
    images = baseline == "value_network" and "policy.network=cnn" in POLICIES[policy]
    network = ("baseline.network=cnn",) if images else ()
    base = base_config(*POLICIES[policy], *ENVS[env], *BASELINES[baseline], *network, *overrides)
    if env == "small_mdp":
        base = completed(replace(base, env={"_target_": "small_mdp.SmallMDP", "num_envs": 5}))
    return [numbered(base, run) for run in range(runs)]


def numbered(base: Config, run: int) -> Config:
    """The config with numbers of its own for the given run."""
    env = {"gamma": 0.9 + 0.01 * (run % 11), "reward_scale": 0.3 + 0.2 * (run % 7)}
    limit = None if run % 3 == 0 else 0.05 * (1 + run % 5)
    policy, baseline = base.policy, base.baseline
    if hasattr(policy, "initial_std"):
        policy = replace(policy, initial_std=0.5 + 0.3 * (run % 5))
    if hasattr(policy, "initial_shape"):
        policy = replace(policy, initial_shape=1.2 + 0.4 * (run % 5))
    if hasattr(policy, "initial_concentration"):
        policy = replace(policy, initial_concentration=0.3 + 0.4 * (run % 5))
    if hasattr(baseline, "optimizer"):
        own = replace(
            baseline.optimizer,
            lr=0.03 / (1 + run % 5),
            max_gradient_norm=None if run % 2 else 0.7,
            target_kl=0.01 / (1 + run),
        )
        baseline = replace(baseline, optimizer=own)
    if hasattr(baseline, "decay"):
        baseline = replace(baseline, decay=1 - 0.2 * (run % 4))
    if hasattr(baseline, "ridge"):
        baseline = replace(baseline, ridge=1e-5 * 4**run)
    return replace(
        base,
        seed=1000 + 17 * run,
        total_env_steps=60 + 100 * (run * 5 % 7),
        policy=policy,
        baseline=baseline,
        env={**base.env, **env} if isinstance(base.env, dict) else replace(base.env, **env),
        optimizer=replace(
            base.optimizer, lr=0.02 / (1 + run % 4), max_gradient_norm=limit, target_kl=0.03 / (1 + run % 6)
        ),
        algorithm=replace(base.algorithm, **numbers_of_algorithm(base.algorithm, run)),
    )


def numbers_of_algorithm(algorithm: Any, run: int) -> dict[str, Any]:
    """Those that it has, of all that there are."""
    numbers = {
        "entropy_coefficient": 0.01 * (run % 3),
        "gae_lambda": 1 - 0.1 * (run % 5),
        "clip_range": 0.01 + 0.04 * (run % 4),
        "clip_range_value": None if run % 3 == 0 else 0.1 * (1 + run % 4),
        "target_kl": None if run % 2 == 0 and hasattr(algorithm, "clip_range") else 0.0003 * (1 + run % 4),
        "damping": 0.01 * (1 + run % 4),
    }
    return {name: value for name, value in numbers.items() if hasattr(algorithm, name)}


def outcome(result: RunResult) -> tuple[Any, ...]:
    """Everything about a run that may not depend on its neighbours."""
    return (
        result.status,
        result.error,
        result.parameters_sha256,
        result.evaluation,
        result.env_steps,
        result.iterations,
        result.episodes,
    )


def assert_independent(
    configs: Sequence[Config], groups: Sequence[Sequence[int]], together: list[RunResult] | None = None
) -> list[RunResult]:
    """Train every group of runs as a batch of its own, in its order: the outcomes are those of all runs as one batch.

    Types are not checked: those of the loop are where every policy, environment and baseline is trained, and those of
    optimizers and networks in the tests of these.
    """
    with without_type_checks():
        together = together or train(configs)
        for group in groups:
            for run, result in zip(group, train([configs[run] for run in group]), strict=True):
                assert outcome(result) == outcome(together[run]), f"run {run} differs in the batch {group}"
    return together


def assert_leave_at_different_times(results: Sequence[RunResult]) -> None:
    assert len({result.iterations for result in results}) > 2
    assert len({result.parameters_sha256 for result in results}) == len(results)


# --- whole runs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "env", "baseline"), combinations(BASELINES))
def test_a_run_is_not_changed_by_its_neighbours(policy: str, env: str, baseline: str) -> None:
    configs = make_configs(policy, env, baseline, runs=7)
    results = assert_independent(configs, [[0], [5], [6, 3]], train(configs))
    assert {result.status for result in results} == {"completed"}
    assert_leave_at_different_times(results)


@pytest.mark.parametrize(
    ("policy", "env", "algorithm"),
    [each for each in combinations(ALGORITHMS) if each[0] != "tabular_softmax" or each[2] not in NATURAL],
)
def test_a_run_with_fixed_rollouts_is_not_changed_by_its_neighbours(policy: str, env: str, algorithm: str) -> None:
    configs = make_configs(policy, env, "value_network", *ALGORITHMS[algorithm], runs=7)
    results = assert_independent(configs, [[0], [5], [6, 3]], train(configs))
    assert {result.status for result in results} == {"completed"}
    assert_leave_at_different_times(results)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_run_with_fixed_rollouts_is_the_same_in_a_batch_of_fifty(algorithm: str) -> None:
    overrides = (*ALGORITHMS[algorithm], "algorithm.rollout_steps=64", "env.num_envs=16", "policy.hidden_sizes=[64,64]")
    configs = make_configs("softmax", "cartpole", "value_network", *overrides, runs=50)
    configs = [replace(config, total_env_steps=10 * config.total_env_steps) for config in configs]
    assert_independent(configs, [[0], [49], [13, 31], [4, 8, 15, 16, 23, 42, 48]])


@pytest.mark.parametrize(
    ("policy", "env", "baseline"),
    [("softmax", "cartpole", "value_network"), ("gaussian", "navigation", "leave_one_out")],
)
def test_a_run_is_the_same_in_a_batch_of_fifty(policy: str, env: str, baseline: str) -> None:
    configs = make_configs(policy, env, baseline, runs=50)
    assert_independent(configs, [[0], [49], [13, 31], [4, 8, 15, 16, 23, 42, 48]])


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "env", "baseline"), combinations_of_fifty())
def test_every_seventh_run_of_fifty_is_the_run_alone(policy: str, env: str, baseline: str) -> None:
    configs = make_configs(policy, env, baseline, runs=50)
    assert_independent(configs, [*([run] for run in range(0, 50, 7)), [45, 2], [1, 4, 9, 16, 25, 36, 48]])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", OptimizerConfig.__dataclass_fields__["schedule"].metadata["one_of"])
def test_a_run_is_not_changed_by_its_neighbours_with_any_optimizer(optimizer: str, schedule: str) -> None:
    overrides = (*OPTIMIZERS[optimizer], f"optimizer.schedule={schedule}", "env.max_episode_steps=37")
    configs = make_configs("softmax", "cartpole", "value_network", *overrides, runs=7)
    results = assert_independent(configs, [[2], [4], [6, 1]])
    assert_leave_at_different_times(results)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_run_is_not_changed_by_its_neighbours_with_any_optimizer_of_the_value_network(optimizer: str) -> None:
    group, *rest = OPTIMIZERS[optimizer]
    own = [f"optimizer@baseline.optimizer={group.partition('=')[2]}", *(f"baseline.{override}" for override in rest)]
    configs = make_configs("gaussian", "navigation", "value_network", *own, runs=7)
    assert_independent(configs, [[2], [6, 1]])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("policy", "env"),
    [
        ("softmax", "cartpole"),
        ("gaussian_state_dependent_std", "navigation"),
    ],
)
def test_a_run_is_not_changed_by_its_neighbours_with_any_activation_and_type(
    policy: str, env: str, activation: str, dtype: str
) -> None:
    overrides = [f"policy.activation={activation}", f"baseline.activation={activation}", f"dtype={dtype}"]
    configs = make_configs(policy, env, "value_network", *overrides, runs=7)
    results = assert_independent(configs, [[1], [6, 4]])
    assert next(results[0].policy.buffers()).dtype == getattr(torch, dtype)


@pytest.mark.parametrize("env", ["frozen_lake", "small_mdp"])
def test_a_tabular_run_is_not_changed_by_its_neighbours_in_float64(env: str) -> None:
    configs = make_configs("tabular_softmax", env, "value_network", "dtype=float64", runs=7)
    assert_independent(configs, [[1], [6, 4]])


@pytest.mark.parametrize("hidden_sizes", ["[]", "[1]", "[64,64]", "[5,3,17]"])
@pytest.mark.parametrize(("policy", "env"), [("softmax", "cartpole"), ("gaussian_state_dependent_std", "navigation")])
def test_a_run_is_not_changed_by_its_neighbours_with_any_network(policy: str, env: str, hidden_sizes: str) -> None:
    overrides = [f"policy.hidden_sizes={hidden_sizes}", f"baseline.hidden_sizes={hidden_sizes}", "env.num_envs=9"]
    configs = make_configs(policy, env, "value_network", *overrides, runs=7)
    assert_independent(configs, [[5], [3, 0]])


@pytest.mark.parametrize("discounted_objective", ["true", "false"])
@pytest.mark.parametrize("normalize_advantage", ["true", "false"])
@pytest.mark.parametrize("reward_to_go", ["true", "false"])
@pytest.mark.parametrize("baseline", ["leave_one_out", "optimal_constant"])
def test_a_run_is_not_changed_by_its_neighbours_with_any_estimator(
    baseline: str, reward_to_go: str, discounted_objective: str, normalize_advantage: str
) -> None:
    overrides = [
        f"algorithm.reward_to_go={reward_to_go}",
        f"algorithm.discounted_objective={discounted_objective}",
        f"algorithm.normalize_advantage={normalize_advantage}",
    ]
    configs = make_configs("softmax", "cartpole", baseline, *overrides, runs=7)
    assert_independent(configs, [[5], [6, 2], [4, 3, 1]])


def test_runs_whose_samples_fill_several_blocks_are_independent() -> None:
    """Episodes of up to 500 steps, so that some runs have one block of samples and others two or three."""
    configs = make_configs("softmax", "cartpole", "value_network", "env.num_envs=64", runs=5)
    configs = [
        replace(config, total_env_steps=40_000, optimizer=replace(config.optimizer, lr=0.02 / 4**run))
        for run, config in enumerate(configs)
    ]
    results = assert_independent(configs, [[0], [4, 2]])
    samples = [result.env_steps / result.iterations for result in results]
    assert len({tuple(block_sizes(int(count))) for count in samples}) > 3


def test_the_order_of_the_runs_does_not_matter() -> None:
    configs = make_configs("gaussian", "pendulum", "value_network", runs=6)
    assert_independent(configs, [[5, 4, 3, 2, 1, 0], [2, 0, 5, 1, 4, 3]])


def test_equal_configs_give_equal_runs_and_every_number_matters() -> None:
    """The comparison of this file can tell runs apart: each single number changes the outcome."""
    one = make_configs("gaussian", "pendulum", "value_network", runs=3)[2]
    changed = [
        replace(one, seed=one.seed + 1),
        replace(one, env=replace(one.env, gamma=0.5)),
        replace(one, optimizer=replace(one.optimizer, lr=0.0199)),
        replace(one, optimizer=replace(one.optimizer, max_gradient_norm=1e-9)),
        replace(one, algorithm=replace(one.algorithm, entropy_coefficient=0.021)),
        replace(one, policy=replace(one.policy, initial_std=0.9)),
        replace(one, baseline=replace(one.baseline, optimizer=replace(one.baseline.optimizer, lr=0.0123))),
    ]
    results = train([one, one, *changed])
    assert outcome(results[0]) == outcome(results[1])
    assert len({result.parameters_sha256 for result in results}) == len(results) - 1


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("policy", "env"), [("softmax", "cartpole"), ("gaussian", "pendulum")])
def test_a_run_with_fixed_rollouts_that_breaks_down_changes_no_bit_of_the_others(
    policy: str, env: str, algorithm: str
) -> None:
    configs = make_configs(policy, env, "value_network", *ALGORITHMS[algorithm], runs=7)
    configs = [replace(config, total_env_steps=config.total_env_steps + 300) for config in configs]
    configs[1] = replace(configs[1], env=replace(configs[1].env, reward_scale=1e38))
    results = assert_independent(configs, [[0], [1], [6, 2], [2, 1, 3], [5, 4, 0]])
    assert [run for run, result in enumerate(results) if result.status == "failed"] == [1]


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize(("policy", "env"), [("softmax", "cartpole"), ("gaussian", "pendulum")])
def test_a_run_that_breaks_down_changes_no_bit_of_the_others(policy: str, env: str, baseline: str) -> None:
    """Numbers that overflow make one run fail at once, or after a few iterations; the others never notice."""
    overrides = ["algorithm.normalize_advantage=false"]
    configs = make_configs(policy, env, baseline, *overrides, runs=7)
    configs = [replace(config, total_env_steps=config.total_env_steps + 300) for config in configs]
    configs[1] = replace(configs[1], env=replace(configs[1].env, reward_scale=1e38))
    configs[4] = replace(configs[4], optimizer=replace(configs[4].optimizer, lr=1e38))
    results = assert_independent(configs, [[0], [1], [4], [6, 2], [2, 1, 3], [5, 4, 0]])
    assert [run for run, result in enumerate(results) if result.status == "failed"] == [1, 4]
    for run in (1, 4):
        error = results[run].error
        assert error is not None
        assert "became" in error or "not finite" in error


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_run_is_not_changed_by_its_neighbours_with_a_falling_entropy_bonus(schedule: str) -> None:
    configs = make_configs("softmax", "cartpole", "none", f"algorithm.entropy_schedule={schedule}", runs=7)
    assert_independent(configs, [[5], [6, 2]])


def test_a_neighbour_with_an_entropy_bonus_gives_none_to_the_others() -> None:
    configs = make_configs("softmax", "cartpole", "none", runs=4)
    configs = [
        replace(config, algorithm=replace(config.algorithm, entropy_coefficient=0.5 if run == 2 else 0.0))
        for run, config in enumerate(configs)
    ]
    assert_independent(configs, [[0], [1], [3], [0, 1, 3]])


@pytest.mark.parametrize("number", ["seed", "lr"])
def test_runs_do_not_depend_on_the_global_random_stream(number: str) -> None:
    configs = make_configs("gaussian", "navigation", "value_network", runs=2)
    before = train(configs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        state = torch.random.get_rng_state()
        after = train(configs)
        assert torch.equal(torch.random.get_rng_state(), state), "something drew from the global stream"
    assert [outcome(result) for result in before] == [outcome(result) for result in after]


def test_every_number_differs_between_the_runs_of_this_file() -> None:
    """A new per-run number must join `numbered`."""
    trained: list[tuple[str, str, str, tuple[str, ...]]] = [  # a part has the same keys whatever the others are
        *((*pair, "value_network", ()) for pair in PAIRS),
        *((*pair, "value_network", own) for pair in WITH_ALL[:2] for own in ALGORITHMS.values()),
        *((*PAIRS[0], one, ()) for one in BASELINES),
    ]
    for policy, env, baseline, algorithm in trained:
        configs = make_configs(policy, env, baseline, *algorithm, runs=7)
        values: dict[str, set[Any]] = {}
        for config in configs:
            for key, value, metadata in walk(config):
                if metadata.get("per_run"):
                    values.setdefault(key, set()).add(value)
        assert {key for key, found in values.items() if len(found) == 1} == ONLY_DEFAULTS


def test_every_option_of_every_group_is_tested() -> None:
    """A new YAML file in `conf` must join this file's lists."""

    def options(group: str) -> set[str]:
        return {path.stem for path in (conf_dir() / group).glob("*.yaml")}

    def chosen(lists: dict[str, tuple[str, ...]]) -> set[str]:
        return {overrides[0].partition("=")[2] for overrides in lists.values() if overrides}

    assert chosen(POLICIES) == options("policy")
    assert chosen(ENVS) == options("env") - GYMNASIUM_TASKS.keys()  # those are in `test_backends.py`
    assert chosen(OPTIMIZERS) == options("optimizer")
    assert chosen(BASELINES) == options("baseline") - {"shared_value"}  # it needs fixed rollouts: test_shared_value.py
    assert chosen(ALGORITHMS) | {"reinforce"} == options("algorithm")
    assert FITTING.keys() == POLICIES.keys()
    assert {env for envs in FITTING.values() for env in envs} == ENVS.keys()


# --- parts ------------------------------------------------------------------------------------------------------------


def random_numbers(*shape: int, dtype: torch.dtype = torch.float32, seed: int = SEED) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed), dtype=dtype)


NETWORKS = [
    (3, (), 1),
    (4, (64, 64), 2),
    (1, (1,), 1),
    (5, (7, 10), 3),
    (2, (33,), 17),
    (17, (3, 5, 9), 16),
    (6, (8,), 40),
    (4, (64,), 6),
]
every_network = pytest.mark.parametrize("sizes", NETWORKS, ids=str)
every_activation = pytest.mark.parametrize("activation", ACTIVATIONS)
every_type = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
RUNS = 13
SUBSETS = ([0], [12], [5], [7, 2], [11, 1, 4], [0, 2, 3, 8, 12], list(range(12)))


def make_network(sizes: tuple[int, tuple[int, ...], int], activation: str, dtype: torch.dtype) -> tuple[MLP, Any]:
    size_in, hidden_sizes, size_out = sizes
    network = MLP(size_in, hidden_sizes, size_out, activation, 0.5)
    first = network.init([Generator().manual_seed(run) for run in range(RUNS)], dtype)
    return network, {
        name: part if name.endswith("weight") else random_numbers(*part.shape, dtype=dtype)
        for name, part in first.items()
    }


@every_network
@every_activation
@every_type
def test_a_network_of_a_batch_is_the_network_alone(sizes: Any, activation: str, dtype: torch.dtype) -> None:
    network, parameters = make_network(sizes, activation, dtype)
    act = network.actor(parameters)
    for samples in (1, 2, 3, 5, 8, 17, 63, 64, 130):
        x = random_numbers(RUNS, samples, sizes[0], dtype=dtype)
        with torch.no_grad():
            together, acting = network(parameters, x), act(x)
        with_gradient = network({name: part.clone().requires_grad_() for name, part in parameters.items()}, x)
        assert torch.equal(together, with_gradient)
        torch.testing.assert_close(acting, together)  # the same but for rounding
        for rows in SUBSETS:
            own = {name: part[rows] for name, part in parameters.items()}
            with torch.no_grad():
                assert torch.equal(network(own, x[rows]), together[rows]), (samples, rows)
                assert torch.equal(network.actor(own)(x[rows]), acting[rows]), (samples, rows)


@every_network
@every_activation
@every_type
def test_the_gradients_of_a_batch_are_those_of_each_network_alone(
    sizes: Any, activation: str, dtype: torch.dtype
) -> None:
    network, parameters = make_network(sizes, activation, dtype)

    def gradients_of(rows: Sequence[int], x: Tensor, target: Tensor) -> list[Tensor]:
        leaves = {name: part[rows].requires_grad_() for name, part in parameters.items()}
        loss = (network(leaves, x[rows]) - target[rows]).square().sum((1, 2))
        return list(torch.autograd.grad(loss.sum(0), list(leaves.values())))

    for samples in (1, 3, 17, 64, 130):
        x = random_numbers(RUNS, samples, sizes[0], dtype=dtype)
        target = random_numbers(RUNS, samples, sizes[2], dtype=dtype, seed=SEED + 1)
        together = gradients_of(range(RUNS), x, target)
        for rows in SUBSETS:
            for all_rows, own in zip(together, gradients_of(rows, x, target), strict=True):
                assert torch.equal(all_rows[rows], own), (samples, rows)


@every_network
@every_activation
def test_a_network_equals_plain_torch_with_its_gradients(sizes: Any, activation: str) -> None:
    """The hand-written backward pass against autograd, also for the input."""
    network, parameters = make_network(sizes, activation, torch.float64)
    leaves = [part.clone().requires_grad_() for part in parameters.values()]
    x = random_numbers(RUNS, 11, sizes[0], dtype=torch.float64).requires_grad_()
    y = x
    for layer in range(len(sizes[1]) + 1):
        y = torch.einsum("rsi,rio->rso", y, leaves[2 * layer]) + leaves[2 * layer + 1][:, None]
        y = REFERENCE_ACTIVATIONS[activation](y) if layer < len(sizes[1]) else y
    weight = random_numbers(*y.shape, dtype=torch.float64, seed=SEED + 1)
    found = network(dict(zip(parameters, leaves, strict=True)), x)
    torch.testing.assert_close(found, y, rtol=1e-12, atol=1e-12)
    expected_gradients = torch.autograd.grad((y * weight).sum((0, 1, 2)), [x, *leaves])
    found_gradients = torch.autograd.grad((found * weight).sum((0, 1, 2)), [x, *leaves])
    for one, other in zip(found_gradients, expected_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


REFERENCE_ACTIVATIONS = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "elu": torch.nn.functional.elu,
    "sigmoid": torch.sigmoid,
}
COUNTS = [1, 63, 64, 65, 700, 2047, 2048, 2049, 4500]


def ragged(counts: Sequence[int], envs: int = 7) -> Tensor:
    """Which steps were played, [runs, steps, envs]: episodes of different lengths, `counts` samples in all."""
    steps = -(-max(counts) // envs) + 3
    running = torch.zeros(len(counts), steps, envs, dtype=torch.bool)
    for run, count in enumerate(counts):
        lengths = [count // envs + (copy < count % envs) for copy in range(envs)]
        shift = min(2, min(lengths))
        lengths[0], lengths[-1] = lengths[0] + shift, lengths[-1] - shift
        for copy, length in enumerate(lengths):
            running[run, :length, copy] = True
    assert running.sum((1, 2)).tolist() == list(counts)
    return running


@every_type
def test_sums_over_samples_do_not_depend_on_the_neighbours(dtype: torch.dtype) -> None:
    """The grid of a run alone has fewer steps, and its packing fewer blocks."""
    running = ragged(COUNTS)
    grid = random_numbers(*running.shape, dtype=dtype)
    together = Packing.of(running, dtype)
    packed = together.pack(grid)
    for rows in ([0], [4], [8], [3, 6], [7, 2, 5], [8, 0], list(range(8))):
        steps = int(running[rows].any(2).sum(1).max(0).values)
        own = Packing.of(running[rows, :steps], dtype)
        own_packed = own.pack(grid[rows, :steps])
        for statistic in ("sum", "mean", "variance"):
            expected = getattr(together, statistic)(packed)[rows]
            assert torch.equal(getattr(own, statistic)(own_packed), expected), (statistic, rows)


@every_activation
@every_type
def test_gradients_over_blocks_do_not_depend_on_the_neighbours(activation: str, dtype: torch.dtype) -> None:
    runs = len(COUNTS)
    network, parameters = make_network((5, (7, 10), 3), activation, dtype)
    running = ragged(COUNTS)
    grid = random_numbers(*running.shape, 5, dtype=dtype)

    def gradients_of(rows: Sequence[int]) -> list[dict[str, Tensor]]:
        """Through a graph, and without."""
        steps = int(running[rows].any(2).sum(1).max(0).values)
        packing = Packing.of(running[rows, :steps], dtype)
        x = packing.pack(grid[rows, :steps])
        own = {name: part[rows] for name, part in parameters.items()}

        def loss(leaves: dict[str, Tensor], blocks: Any) -> Tensor:
            output = network(leaves, blocks.of(x)).square().sum(2)
            return (output * blocks.of(packing.weight)).sum(1)

        def loss_gradient(output: Tensor, blocks: Any) -> Tensor:
            return 2 * output * blocks.of(packing.weight)[..., None]

        return [gradients(own, packing, loss), network_gradients(network, own, packing, x, loss_gradient)]

    together = gradients_of(list(range(runs)))
    for rows in ([0], [4], [8], [3, 6], [7, 2, 5], [8, 0], list(range(8))):
        for of_batch, of_rows in zip(together, gradients_of(rows), strict=True):
            for name, part in of_rows.items():
                assert torch.equal(part, of_batch[name][rows]), (name, rows)


def test_block_sizes_of_a_run_hold_its_samples_and_little_more() -> None:
    for count in range(1, 3 * BLOCK_SIZES[0] + 2, 7):
        sizes = block_sizes(count)
        assert count <= sum(sizes) < count + BLOCK_SIZES[-1]
        assert sizes == sorted(sizes, reverse=True)


@every_type
@pytest.mark.parametrize("outputs", [1, 2, 3, exact.NARROW, exact.NARROW + 1])
@pytest.mark.parametrize("innermost", ["outputs", "samples"])
def test_log_softmax_is_torchs_and_the_same_wherever_a_sample_stands(
    innermost: str, outputs: int, dtype: torch.dtype
) -> None:
    """Value and gradient, for samples laid out side by side and one after the other."""
    x = random_numbers(1, 131, outputs, dtype=dtype) * 10
    x = x if innermost == "outputs" else x.mT.contiguous().mT
    weight = random_numbers(1, 131, outputs, dtype=dtype, seed=SEED + 1)

    def of(function: Callable[[Tensor], Tensor], chosen: slice) -> tuple[Tensor, Tensor]:
        leaf = x[:, chosen].clone(memory_format=torch.preserve_format).requires_grad_()
        value = function(leaf)
        return value.detach(), torch.autograd.grad((value * weight[:, chosen]).sum(), leaf)[0]

    together = of(exact.log_softmax, slice(None))
    torch.testing.assert_close(together, of(lambda leaf: torch.log_softmax(leaf, -1), slice(None)))
    for size in (1, 2, 3, 7, 8, 9, 16, 17, 64):
        for start in range(0, 131 - size, 13):
            chosen = slice(start, start + size)
            for part, whole in zip(of(exact.log_softmax, chosen), together, strict=True):
                assert torch.equal(part, whole[:, chosen])


def test_log_softmax_of_impossible_and_far_outputs_is_torchs() -> None:
    x = torch.tensor([[0.0, -math.inf, 3.0], [1e30, 0.0, -1e30], [-1e4, -1e4, -1e4], [math.nan, 0.0, 1.0]])
    torch.testing.assert_close(exact.log_softmax(x), torch.log_softmax(x, -1), equal_nan=True)


ELEMENT_WISE: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[float], float]]] = {
    "elu": (lambda x: ACTIVATIONS["elu"].function(x.clone()), lambda x: x if x > 0 else math.expm1(x)),
    "sigmoid": (exact.sigmoid, lambda x: 1 / (1 + math.exp(-x)) if x > -700 else 0.0),
    "softplus": (exact.softplus, lambda x: max(x, 0.0) + math.log1p(math.exp(-abs(x)))),
    "relu": (lambda x: ACTIVATIONS["relu"].function(x.clone()), lambda x: max(x, 0.0)),
    "tanh": (lambda x: ACTIVATIONS["tanh"].function(x.clone()), math.tanh),
}


@every_type
@pytest.mark.parametrize("name", ELEMENT_WISE)
def test_element_wise_functions_give_every_element_the_same_wherever_it_stands(name: str, dtype: torch.dtype) -> None:
    """torch computes the last few elements of a tensor by other code than the rest; here that must not matter."""
    function = ELEMENT_WISE[name][0]
    values = random_numbers(1003, dtype=dtype) * 4
    together = function(values)
    for size in (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63):
        for start in range(0, 1003 - size, 61):
            assert torch.equal(function(values[start : start + size].clone()), together[start : start + size])


@pytest.mark.parametrize("name", ELEMENT_WISE)
def test_element_wise_functions_have_the_right_values_even_far_out(name: str) -> None:
    function, reference = ELEMENT_WISE[name]
    x = [-1e4, -800.0, -30.0, -1.0, -1e-9, 0.0, 1e-9, 0.5, 30.0, 800.0, 1e4]
    found = function(torch.tensor(x, dtype=torch.float64))
    expected = torch.tensor([reference(value) for value in x], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("width", [32, 64, 96, 256])
def test_tanh_gives_every_row_of_whole_vectors_the_same_wherever_it_stands(width: int) -> None:
    values = random_numbers(5, 203, width, dtype=torch.float32) * 4
    together = exact.tanh_(values.clone())
    for size in (1, 2, 3, 5, 7, 8, 63, 130):
        for start in range(0, 203 - size, 17):
            for runs in (slice(0, 1), slice(4, 5), slice(1, 4)):
                rows = slice(start, start + size)
                assert torch.equal(exact.tanh_(values[runs, rows].clone()), together[runs, rows])
                part = values.clone()[runs, rows]  # where it lies among others
                assert torch.equal(exact.tanh_(part), together[runs, rows])


def test_tanh_of_whole_vectors_is_right_to_two_ten_millionths_even_far_out() -> None:
    near, far = torch.linspace(-20, 20, 2**20), torch.tensor([math.inf, -math.inf, 1e30, -1e30, 0.0, -0.0, 90.0, -90.0])
    x = torch.cat([near, far.repeat(4)]).view(-1, 32)
    found = exact.tanh_(x.clone())
    torch.testing.assert_close(found.double(), torch.tanh(x.double()), rtol=0, atol=2e-7)
    assert (found.abs() <= 1).all()
    assert exact.tanh_(torch.full((1, 32), math.nan)).isnan().all()


@every_activation
@every_type
def test_gradients_of_activations_give_every_element_the_same_wherever_it_stands(
    activation: str, dtype: torch.dtype
) -> None:
    function, gradient = ACTIVATIONS[activation]
    value = function(random_numbers(1003, dtype=dtype))
    upstream = random_numbers(1003, dtype=dtype, seed=SEED + 1)
    together = gradient(upstream.clone(), value)  # it may be changed in place
    for size in (1, 3, 7, 9, 17, 33):
        for start in range(0, 1003 - size, 61):
            part = slice(start, start + size)
            assert torch.equal(gradient(upstream[part].clone(), value[part].clone()), together[part])


def test_every_activation_is_compared_with_torch() -> None:
    assert ACTIVATIONS.keys() == REFERENCE_ACTIVATIONS.keys()
    assert ACTIVATIONS.keys() <= ELEMENT_WISE.keys()


# --- the sources ------------------------------------------------------------------------------------------------------

DRAWS = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson"}
DRAWS_IN_PLACE = {"normal_", "uniform_", "bernoulli_", "exponential_", "cauchy_", "random_", "orthogonal_"}
GLOBAL = {"manual_seed", "seed", "fork_rng", "set_rng_state", "clip_grad_norm_", "clip_grad_value_"}
OTHER_CODE_AT_THE_END = {"sigmoid", "sigmoid_", "softplus", "elu", "silu", "gelu", "atan2", "hypot", "pow", "pow_"}
WITHOUT_SUCH_AN_END = {("exact.py", "torch.sigmoid(x, out=x)")}  # of rows of whole vectors
STATISTICS = {"mean", "sum", "prod", "std", "var", "std_mean", "var_mean", "norm", "logsumexp", "any", "all"}
EXTREMES = {"max", "min", "amax", "amin", "median", "argmax", "argmin"}
OURS = {"exact.sigmoid", "exact.softplus", "packing.mean", "packing.sum", "packing.variance"}
MAY_REDUCE_ALL = {  # what may look at all runs at once, because no run's numbers come from it
    ("progress.py", "*"),
    ("envs/action_spaces.py", "np.prod(space.shape)"),
    ("envs/gymnasium_adapter.py", "np.isfinite(observation).all()"),  # whether to look for the copy that broke
    ("envs/gymnasium_adapter.py", "np.isfinite(reward).all()"),
    ("monitoring.py", "finite.all()"),  # whether to look for the run that broke
    ("monitoring.py", "flags.any()"),  # of one run
    ("rollout.py", "running.any()"),  # whether anybody is still playing
    ("wrappers/repeat_action.py", "running.any()"),  # the same
    ("envs/bioreactor_picture.py", "values.max()"),  # the height of a drawing
    ("fixed_rollout.py", "over.any()"),  # whether any copy begins a new episode
    ("fixed_rollout.py", "(over & unknown).any()"),  # when the noise of all copies' next episodes is found
    ("fixed_rollout.py", "left.min()"),  # when the first of all copies reaches its limit
    ("replaying.py", "played.max()"),  # how many steps to play again
    ("account.py", "iteration.episodes.finished[row].any()"),  # of one run
    ("rollout.py", "own.max()"),  # how long the grid has to be
    ("rollout.py", "first.max()"),
    ("algorithms/reinforce.py", "(self.entropy_coefficient > 0).any()"),  # whether to take a gradient that else is zero
    ("gradients.py", "loss(leaves, blocks).sum()"),  # each run's loss has a gradient for its own parameters only
    ("gradients.py", "loss(policy.distribution(leaves, output), blocks).sum()"),
}
PACKAGE = Path(pg_experiments.__file__).parent
SOURCES = sorted(set(PACKAGE.rglob("*.py")) - set(PACKAGE.glob("reports/*.py")))  # a report compares runs: its purpose


def offences(name: str, source: str) -> list[str]:
    """Every call in a source that draws from a global stream or crosses runs."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
            whole = isinstance(node.right, ast.Constant) and isinstance(node.right.value, int)
            numbers = isinstance(node.left, ast.Constant | ast.Name) and name != "algorithms/reinforce.py"
            if not whole and not numbers:
                found.append(ast.unparse(node))
        if isinstance(node, ast.Import) and any(alias.name == "random" for alias in node.names):
            found.append(ast.unparse(node))
        if isinstance(node, ast.ImportFrom) and node.module in ("random", "torch.nn.functional", "numpy.random"):
            found.append(ast.unparse(node))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("np.random", "numpy.random", "torch.random"):
            found.append(ast.unparse(node))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and is_offence(name, node, node.func):
            found.append(ast.unparse(node))
    return found


def is_offence(name: str, call: ast.Call, function: ast.Attribute) -> bool:
    owner, keywords = ast.unparse(function.value), {keyword.arg for keyword in call.keywords}
    if f"{owner}.{function.attr}" in OURS:
        return False
    if function.attr in DRAWS_IN_PLACE or (function.attr in DRAWS and owner == "torch"):
        return "generator" not in keywords
    if function.attr in GLOBAL:
        return owner not in ("Generator()", "env.action_space")  # the latter is of one copy, which is tried out
    if function.attr in OTHER_CODE_AT_THE_END:
        return (name, ast.unparse(call)) not in WITHOUT_SUCH_AN_END
    if function.attr in STATISTICS | EXTREMES:
        has_dim = bool({"dim", "axis"} & keywords) or len(call.args) > (owner in ("torch", "np"))
        allowed = {(name, "*"), (name, ast.unparse(call))} & MAY_REDUCE_ALL
        return not has_dim and not allowed
    return False


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_the_package_uses_no_operation_that_crosses_runs_or_draws_globally(path: Path) -> None:
    name = path.relative_to(Path(pg_experiments.__file__).parent).as_posix()
    assert offences(name, path.read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "x = torch.rand(3)",
        "x = torch.randn(3, dtype=dtype)",
        "x = torch.randint(0, 3, (4,))",
        "x = torch.normal(mean, std)",
        "x = noise.uniform_(0, 1)",
        "torch.manual_seed(seed)",
        "x = np.random.default_rng()",
        "import random",
        "from torch.nn.functional import softplus",
        "torch.nn.utils.clip_grad_norm_(parameters, 1.0)",
        "x = torch.sigmoid(x)",
        "x = x.sigmoid()",
        "x = F.softplus(x)",
        "x = F.elu(x)",
        "x = torch.atan2(x, y)",
        "x = torch.hypot(x, y)",
        "x = x.pow(3)",
        "x = self.x ** y",
        "x = (x + 1) ** 0.5",
        "x = loss.mean()",
        "x = torch.sum(x)",
        "x = x.std(correction=0)",
        "x = x.max()",
        "torch.nn.init.orthogonal_(weight, gain)",
    ],
)
def test_forbidden_operations_are_found(line: str) -> None:
    assert len(offences("some_module.py", line)) == 1


@pytest.mark.parametrize(
    "line",
    [
        "x = torch.rand(3, generator=generator)",
        "x = Generator().manual_seed(3)",
        "x = exact.sigmoid(x)",
        "x = x.mean(1)",
        "x = x.sum(dim=(1, 2))",
        "x = torch.sum(x, -1)",
        "x = length**2",
        "x = packing.mean(x)",
    ],
)
def test_allowed_operations_are_not_found(line: str) -> None:
    assert offences("some_module.py", line) == []
