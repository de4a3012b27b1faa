"""Action spaces of Gymnasium and the policies for them: what a policy plays is what the space holds."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from own_spaces import ACTION_SPACES, OwnSpaces, leaves
from torch import Generator, Tensor
from type_checks import without_type_checks

from pg_experiments import ConfigError, UserError, compose, load_policy, train
from pg_experiments.envs.action_spaces import actions_of, converter
from pg_experiments.envs.interface import (
    BoxActions,
    DiscreteActions,
    EnvSpec,
    MixedActions,
    MultiBinaryActions,
    MultiDiscreteActions,
    action_width,
)
from pg_experiments.policies.fitting import FITS
from pg_experiments.policies.mixed import Mixed
from pg_experiments.policy_config import PART_NAMES
from pg_experiments.runs import build, stack

SEED = 83
POLICIES = {
    "multi_discrete": "multi_categorical",
    "multi_discrete_grid": "multi_categorical",
    "multi_binary": "bernoulli",
    "multi_binary_grid": "bernoulli",
    "whole_box": "gaussian",
    "tuple": "mixed",
    "dict": "mixed",
}
every_space = pytest.mark.parametrize("kind", ACTION_SPACES)
QUICK = ("optimizer.lr=0.01", "env.num_envs=16", "baseline=leave_one_out")  # found on seeds 1000 to 1002
SMALL = ("evaluation.episodes=5", "logging.progress=none")


def env(kind: str) -> tuple[str, ...]:
    return ("env=gymnasium", "env.id=own_spaces:OwnSpaces-v0", f"env.kwargs.kind={kind}", *SMALL)


def best_return(kind: str) -> float:
    """Of five steps with the largest numbers."""

    def largest(space: spaces.Space[Any]) -> float:
        if isinstance(space, spaces.Dict):
            return sum(largest(child) for child in space.values())
        if isinstance(space, spaces.Tuple):
            return sum(largest(child) for child in space)
        if isinstance(space, spaces.Discrete):
            return float(space.start + space.n - 1)
        if isinstance(space, spaces.MultiDiscrete):
            return float((space.start + space.nvec - 1).sum())
        return float(np.sum(space.high)) if isinstance(space, spaces.Box) else float(np.prod(space.shape or ()))

    return 5 * largest(ACTION_SPACES[kind])


def test_every_space_of_the_test_environment_has_its_policy_named() -> None:
    assert POLICIES.keys() == ACTION_SPACES.keys()
    assert {name for name, fit in FITS.items() if fit.of_a_part} == set(PART_NAMES)


def test_spaces_become_actions_with_the_right_sizes() -> None:
    assert actions_of(ACTION_SPACES["multi_discrete"]) == MultiDiscreteActions((3, 2, 4))
    assert actions_of(ACTION_SPACES["multi_binary_grid"]) == MultiBinaryActions(6)
    assert actions_of(ACTION_SPACES["tuple"]) == MixedActions((DiscreteActions(3), BoxActions((-1, -1), (2, 2))))
    mixed = actions_of(ACTION_SPACES["dict"])
    parts = (DiscreteActions(5), MultiDiscreteActions((2, 3)), MultiBinaryActions(2), BoxActions((-1,), (1,)))
    assert mixed == MixedActions(parts)  # Gymnasium sorts the names of a Dict
    assert action_width(mixed) == 1 + 2 + 2 + 1
    assert actions_of(spaces.Text(3)) is None
    assert actions_of(spaces.Tuple((spaces.Discrete(2), spaces.Text(3)))) is None
    assert actions_of(spaces.Tuple(())) is None


def test_numbers_come_back_in_the_spaces_own_range_and_type() -> None:
    discrete, box = spaces.Discrete(3, start=5), spaces.Box(-1, np.array([2, 3]), (2,), np.float32)
    assert converter(discrete)(np.int64(2)) == 7
    assert converter(box)(np.array([0.5, 1.5])).dtype == np.float32
    np.testing.assert_array_equal(converter(spaces.Box(0, 9, (1, 2), np.int32))(np.array([0.6, 8.4])), [[1, 8]])


def test_a_row_of_numbers_becomes_the_structure_of_a_nested_space() -> None:
    made = converter(ACTION_SPACES["dict"])(np.array([3.0, 1.0, 2.0, 0.0, 1.0, 0.25]))
    assert made["gear"] == 2  # from -1
    assert made["lights"]["all"].tolist() == [1, 2]
    assert made["lights"]["front"].tolist() == [0, 1]
    assert made["wheel"].tolist() == [0.25]
    assert ACTION_SPACES["dict"].contains(made)


@every_space
def test_the_largest_action_of_every_kind_is_found(kind: str) -> None:
    """The environment raises for what its space does not hold. Seeds 0 to 2; the best return, or 10 % below it."""
    configs = [
        compose(f"policy={POLICIES[kind]}", *env(kind), "total_env_steps=8000", *QUICK, f"seed={seed}")
        for seed in range(3)
    ]
    with without_type_checks():
        results = train(configs)
    for result in results:
        assert result.status == "completed", result.error
        assert result.evaluation is not None
        assert result.evaluation["return_mean"] > 0.9 * best_return(kind)


@every_space
def test_auto_is_the_policy_of_the_space_bit_for_bit(kind: str) -> None:
    auto, named = (
        train([compose(f"policy={policy}", *env(kind), "env.num_envs=4", "total_env_steps=200")])[0]
        for policy in ("auto", POLICIES[kind])
    )
    assert auto.parameters_sha256 == named.parameters_sha256


@every_space
def test_a_wrong_policy_is_refused_with_the_right_ones(kind: str) -> None:
    with pytest.raises(ConfigError, match=rf"^policy=tabular_softmax: needs .*fitting: .*{POLICIES[kind]}"):
        build(stack([compose("policy=tabular_softmax", *env(kind))]))


def test_a_space_that_no_policy_acts_in_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ACTION_SPACES, "dict", spaces.Text(4))
    with pytest.raises(ConfigError, match="actions must be Discrete, Box, MultiDiscrete, MultiBinary, or a Tuple or"):
        build(stack([compose("policy=auto", *env("dict"))]))


def test_a_loaded_mixed_policy_gives_the_row_of_its_parts(tmp_path: Any) -> None:
    config = compose("policy=mixed", *env("dict"), "env.num_envs=4", "total_env_steps=200")
    (result,) = train([config], [tmp_path])
    action = load_policy(tmp_path, trust="own_spaces")(torch.zeros(2, 3))
    assert action.shape == (2, 6)
    assert torch.equal(action, result.policy(torch.zeros(2, 3)))
    assert ACTION_SPACES["dict"].contains(converter(ACTION_SPACES["dict"])(action[0].numpy()))
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "completed"
    assert len(leaves(converter(ACTION_SPACES["dict"])(action[1].numpy()))) == 4


@every_space
def test_a_loaded_policy_acts_in_the_space_of_the_environment(kind: str, tmp_path: Any) -> None:
    (result,) = train([compose("policy=auto", *env(kind), "env.num_envs=4", "total_env_steps=40")], [tmp_path])
    copy = OwnSpaces(kind)
    observation, _ = copy.reset(seed=0)
    for policy in (load_policy(tmp_path, trust="own_spaces"), result.policy):
        copy.step(policy.act(observation))  # which refuses what is not in its space


# --- parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ("[beta]", r"^policy\.parts=\['beta'\]: must name 2 parts: 1 continuous action, 1 continuous action$"),
        ("[beta,softmax]", r"^policy\.parts\[1\]=softmax: needs discrete actions, but this part has 1 continuous"),
        ("[beta,vonmises]", r"^policy\.parts=vonmises: must be one of .* Did you mean 'von_mises'\?$"),
    ],
)
def test_parts_that_do_not_fit_are_named(parts: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(stack([compose("policy=mixed", "env=navigation", f"policy.parts={parts}")]))


def number(value: float) -> Tensor:
    return torch.full((1,), value, dtype=torch.float64)


def test_an_action_of_parts_stays_within_the_bounds_of_each_dimension() -> None:
    box = BoxActions((-math.pi, 0.0, -3.0, -1.0), (math.pi, 0.2, math.inf, 4.0))
    parts = ["von_mises", "beta", "gaussian", "squashed_gaussian"]
    spec = EnvSpec(3, box, 9, 1)
    policy = Mixed(spec, (5,), "tanh", parts, number(1.0), number(1.5), number(0.5))
    parameters = policy.init([Generator().manual_seed(SEED)], torch.float64)
    assert "part2.log_std" in parameters
    observation = torch.randn(1, 500, 3, generator=Generator().manual_seed(SEED), dtype=torch.float64)
    distribution = policy(parameters, observation)
    noise = policy.draw_noise(Generator().manual_seed(SEED), (1, 500), torch.float64)
    action = distribution.sample(noise)
    for played in (policy.env_action(action), policy.env_action(distribution.mode())):
        assert ((played >= torch.tensor(box.low)) & (played <= torch.tensor(box.high))).all()
    spread = policy.env_action(action)[0].std(0)
    assert (spread > torch.tensor([1.0, 0.02, 0.5, 0.5])).all()
