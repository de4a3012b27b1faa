"""What the baselines compute, against plain loops, NumPy and autograd; and that they know earlier iterations only."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from pg_experiments import ConfigError, compose, train
from pg_experiments.baselines.history import History, weighted_mean
from pg_experiments.baselines.interface import Experience
from pg_experiments.composition import conf_dir
from pg_experiments.envs.interface import BoxActions, DiscreteActions, EnvSpec
from pg_experiments.packing import Packing
from pg_experiments.rollout import Trajectory
from pg_experiments.runs import make, stack
from pg_experiments.score_moments import NUMBERS_AT_ONCE, ScoreMoments, score_moments

SEED = 61
RUNS, STEPS, ENVS, OBSERVED = 3, 70, 5, 2
SPEC = EnvSpec(OBSERVED, DiscreteActions(3), STEPS + 4, 1)
OF_EARLIER_ITERATIONS = {  # what they subtract from a return is known before it is played
    "none": ["baseline=none"],
    "running_mean": ["baseline=running_mean"],
    "time_dependent": ["baseline=time_dependent"],
    "linear_features": ["baseline=linear_features"],
    "optimal_constant": ["baseline=optimal_constant"],
    "value_network": ["baseline=value_network"],
}
OF_THIS_ITERATION = ["batch_mean", "leave_one_out"]
NOT_OF_EPISODES = ["shared_value"]  # it learns with the policy, from fixed rollouts


def experience(seed: int, rows: list[int] | None = None, steps: int = STEPS) -> Experience:
    """Episodes of different lengths with random observations and returns; with `rows`, of these runs only."""
    generator = Generator().manual_seed(seed)
    length = torch.randint(1, steps + 1, (RUNS, ENVS), generator=generator)
    length[0, 0] = steps
    running = torch.arange(steps)[None, :, None] < length[:, None]
    observation = 20 * torch.randn(RUNS, steps, ENVS, OBSERVED, generator=generator, dtype=torch.float64)
    returns = torch.randn(RUNS, steps, ENVS, generator=generator, dtype=torch.float64) + 3
    chosen = rows or list(range(RUNS))
    running, observation, returns = (part[chosen] for part in (running, observation, returns))
    returns = torch.where(running, returns, 0.0)
    packing = Packing.of(running, torch.float64)
    return Experience(packing.pack(observation), packing.pack(returns), returns, running, packing)


def make_baseline(*overrides: str, rows: list[int] | None = None, spec: EnvSpec = SPEC, **numbers: list[float]) -> Any:
    config = compose(*overrides)
    chosen = rows or list(range(RUNS))
    own = stack([config]).select(torch.zeros(len(chosen), dtype=torch.long)).numbers
    own |= {f"baseline.{name}": torch.tensor(value, dtype=torch.float64)[chosen] for name, value in numbers.items()}
    policy = make("policy", compose("policy=softmax", "env=cartpole").policy, own, spec=spec)
    return make("baseline", config.baseline, own, spec=spec, policy=policy)


def generators(count: int = RUNS) -> list[Generator]:
    return [Generator().manual_seed(SEED + run) for run in range(count)]


def values_of(baseline: Any, learner: Any, one: Experience) -> Tensor:
    """b on the grid, after which the baseline has learned."""
    values, _ = baseline.values_then_learn(learner, one, torch.zeros(len(one.running), dtype=torch.float64))
    return one.packing.unpack(values)


def test_running_mean_is_adams_moving_mean_of_the_mean_returns_of_earlier_iterations() -> None:
    """m / (1 - βᵏ) with m ← β m + (1 - β) x; β = 1 is the plain mean, β = 0 the last one."""
    decays = [0.9, 0.0, 1.0]
    baseline = make_baseline("baseline=running_mean", decay=decays)
    learner = baseline.init(generators(), torch.float64)
    means: list[list[float]] = []
    for iteration in range(6):
        one = experience(SEED + iteration)
        found = values_of(baseline, learner, one)
        for run, decay in enumerate(decays):
            moving = 0.0
            for mean in means:
                moving = decay * moving + (1 - decay) * mean[run]
            last = moving / (1 - decay**iteration) if decay < 1 and iteration else 0.0
            expected = np.mean([mean[run] for mean in means]) if decay == 1 and iteration else last
            assert found[run][one.running[run]].numpy() == pytest.approx(expected, rel=1e-12)
        means.append([float(one.returns_grid[run][one.running[run]].mean()) for run in range(RUNS)])


def test_time_dependent_is_the_mean_over_the_earlier_episodes_that_reached_the_step() -> None:
    """The first iterations are shorter than the later ones: a step that nobody has reached has 0."""
    decays = [0.8, 0.0, 1.0]
    baseline = make_baseline("baseline=time_dependent", decay=decays)
    learner = baseline.init(generators(), torch.float64)
    past: list[Experience] = []
    for iteration, steps in enumerate([20, 9, 70, 40]):
        one = experience(SEED + iteration, steps=steps)
        found = values_of(baseline, learner, one)
        for run, decay in enumerate(decays):
            for step in range(steps):
                total = weight = 0.0
                for age, other in enumerate(reversed(past)):
                    if step < other.running.shape[1]:
                        total += decay**age * float(other.returns_grid[run, step].sum())
                        weight += decay**age * float(other.running[run, step].sum())
                expected = total / weight if weight > 0 else 0.0
                running = one.running[run, step]
                assert found[run, step][running].numpy() == pytest.approx(expected, rel=1e-12)
        past.append(one)


def rllab_features(observation: np.ndarray) -> np.ndarray:
    """`LinearFeatureBaseline._features` of rllab, for one episode."""
    seen = np.clip(observation, -10, 10)
    time = np.arange(len(observation)).reshape(-1, 1) / 100.0
    return np.concatenate([seen, seen**2, time, time**2, time**3, np.ones((len(observation), 1))], axis=1)


def test_linear_features_are_those_of_rllab_fitted_as_there_to_the_iteration_before() -> None:
    """`np.linalg.lstsq` of the normal equations, as rllab has it; some observations are beyond the limit of 10."""
    ridges = [1e-5, 0.3, 100.0]
    baseline = make_baseline("baseline=linear_features", ridge=ridges)
    learner = baseline.init(generators(), torch.float64)
    first, second = experience(SEED), experience(SEED + 1)
    assert first.observation.abs().max() > 10
    assert torch.equal(values_of(baseline, learner, first), torch.zeros(RUNS, STEPS, ENVS, dtype=torch.float64))
    found = values_of(baseline, learner, second)
    for run, ridge in enumerate(ridges):

        def episodes(one: Experience, run: int = run) -> list[tuple[np.ndarray, np.ndarray]]:
            grid = torch.stack([one.packing.unpack(part) for part in one.observation.unbind(-1)], -1)
            lengths = one.running[run].sum(0).tolist()
            return [
                (rllab_features(grid[run, :length, env].numpy()), one.returns_grid[run, :length, env].numpy())
                for env, length in enumerate(lengths)
            ]

        features, returns = (np.concatenate(parts) for parts in zip(*episodes(first), strict=True))
        weights = np.linalg.lstsq(
            features.T @ features + ridge * np.identity(features.shape[1]), features.T @ returns, rcond=None
        )[0]
        for env, (own, _) in enumerate(episodes(second)):
            assert found[run, : len(own), env].numpy() == pytest.approx(own @ weights, rel=1e-8, abs=1e-8)


def test_linear_features_fit_where_features_repeat_each_other_and_the_ridge_is_lost_in_rounding() -> None:
    """One-hot observations equal their squares and add up to 1: without a ridge there is no single answer."""
    baseline = make_baseline("baseline=linear_features", ridge=[1e-300] * RUNS)
    learner = baseline.init(generators(), torch.float64)
    one = experience(SEED)
    state = (one.observation[:, 0] > 0).long()
    one = one._replace(observation=torch.eye(2, dtype=torch.float64)[state], returns=3.0 * state.double() + 1.0)
    values_of(baseline, learner, one)
    found = values_of(baseline, learner, one)
    expected = one.packing.unpack(one.returns)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-2)


def test_linear_features_of_broken_numbers_are_broken_for_their_own_run_only() -> None:
    baseline = make_baseline("baseline=linear_features")
    one = experience(SEED)
    broken = one.returns.clone()
    broken[one.packing.run == 1] = torch.nan
    observation = one.observation.clone()
    observation[one.packing.run == 2] = torch.nan
    learner, other = (baseline.init(generators(), torch.float64) for _ in range(2))
    values_of(baseline, learner, one._replace(returns=broken, observation=observation))
    values_of(baseline, other, one)
    weights = learner.parameters["weights"]
    assert torch.equal(weights[0], other.parameters["weights"][0])
    assert weights[1].isnan().any()
    assert weights[2].isnan().any()


def test_linear_features_refuse_observations_whose_normal_equations_would_fill_the_memory() -> None:
    with pytest.raises(ConfigError, match="baseline=linear_features: takes observations of at most 2000 numbers, and"):
        make_baseline("baseline=linear_features", spec=EnvSpec(2001, DiscreteActions(2), 9, 1))


@pytest.mark.parametrize("name", OF_EARLIER_ITERATIONS)
def test_what_is_subtracted_does_not_depend_on_this_iterations_returns(name: str) -> None:
    """It depends on the last one's, or on nothing."""
    baseline = make_baseline(*OF_EARLIER_ITERATIONS[name])
    first, second = experience(SEED), experience(SEED + 1)
    other = second._replace(returns=-7 * second.returns, returns_grid=-7 * second.returns_grid)
    values = []
    for before, now in ((first, second), (first, other)):
        learner = baseline.init(generators(), torch.float64)
        values_of(baseline, learner, before)
        values.append(values_of(baseline, learner, now))
    assert torch.equal(*values)


@pytest.mark.parametrize("name", OF_EARLIER_ITERATIONS)
def test_what_a_run_keeps_does_not_depend_in_any_bit_on_its_neighbours(name: str) -> None:
    """With blocks of all sizes; see also `test_runs_are_independent.py` for whole runs."""
    numbers = {}
    if name in ("running_mean", "time_dependent", "optimal_constant"):
        numbers["decay"] = [0.9, 0.5, 1.0]
    if name == "linear_features":
        numbers["ridge"] = [1e-5, 3e-4, 0.1]

    def played(rows: list[int]) -> tuple[list[Tensor], dict[str, Tensor]]:
        baseline = make_baseline(*OF_EARLIER_ITERATIONS[name], rows=rows, **numbers)
        learner = baseline.init([generators()[row] for row in rows], torch.float64)
        values = [values_of(baseline, learner, experience(SEED + k, rows, steps)) for k, steps in enumerate([30, 70])]
        return values, learner.parameters if learner else {}

    together, kept = played([0, 1, 2])
    for rows in ([0], [2], [2, 1]):
        values, own = played(rows)
        assert all(torch.equal(one, every[rows]) for one, every in zip(values, together, strict=True))
        assert all(torch.equal(own[name], kept[name][rows]) for name in kept)


def test_every_baseline_says_whether_it_knows_this_iteration() -> None:
    options = {path.stem for path in (conf_dir() / "baseline").glob("*.yaml")}
    assert options == OF_EARLIER_ITERATIONS.keys() | set(OF_THIS_ITERATION) | set(NOT_OF_EPISODES)


# --- the optimal constant ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers_at_once", [1, NUMBERS_AT_ONCE])
@pytest.mark.parametrize("kind", ["softmax", "gaussian", "gaussian_state_dependent_std", "tabular_softmax"])
def test_score_moments_are_those_of_autograd_episode_by_episode(
    kind: str, numbers_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pg_experiments.score_moments.NUMBERS_AT_ONCE", numbers_at_once)
    discrete = "softmax" in kind
    spec = EnvSpec(3, DiscreteActions(4) if discrete else BoxActions((-1.0, -2.0), (1.0, 2.0)), STEPS, 1, 3)
    overrides = [f"policy={kind.removesuffix('_state_dependent_std')}", "env=cartpole"]
    if kind != "tabular_softmax":
        overrides.append("policy.hidden_sizes=[7,5]")
    if kind.endswith("std"):
        overrides.append("policy.state_dependent_std=true")
    config = compose(*overrides)
    numbers = stack([config]).select(torch.zeros(RUNS, dtype=torch.long)).numbers
    policy = make("policy", config.policy, numbers, spec=spec)
    generator = Generator().manual_seed(SEED)
    parameters = {
        name: 0.5 * torch.randn(part.shape, generator=generator, dtype=torch.float64)
        for name, part in policy.init(generators(), torch.float64).items()
    }
    running = experience(SEED).running
    observation = torch.randn(*running.shape, 3, generator=generator, dtype=torch.float64)
    if kind == "tabular_softmax":
        observation = torch.eye(3, dtype=torch.float64)[observation.argmax(-1)]
    action = torch.randn(*running.shape, 2, generator=generator, dtype=torch.float64)
    if discrete:
        action = torch.randint(4, running.shape, generator=generator)
    weight, factor = torch.randn(2, *running.shape, generator=generator, dtype=torch.float64)
    flags = torch.zeros_like(running)
    trajectory = Trajectory(observation, action, torch.zeros_like(weight), flags, flags, running)
    found = score_moments(policy, parameters, trajectory, weight, factor)
    for run in range(RUNS):
        products = {name: torch.zeros_like(part[run]) for name, part in parameters.items()}
        squares, scores = ({name: part.clone() for name, part in products.items()} for _ in range(2))
        for env in range(ENVS):
            chosen = running[run, :, env]
            leaves = {name: part[run : run + 1].clone().requires_grad_() for name, part in parameters.items()}
            log_prob = policy(leaves, observation[run, chosen, env][None]).log_prob(action[run, chosen, env][None])[0]
            x, s = (
                torch.autograd.grad(
                    (log_prob * by[run, chosen, env]).sum(), list(leaves.values()), retain_graph=True, allow_unused=True
                )
                for by in (weight, factor)
            )
            for name, one, other in zip(leaves, x, s, strict=True):
                scores[name] += other[0] / ENVS
                products[name] += one[0] * other[0] / ENVS
                squares[name] += other[0] ** 2 / ENVS
        for name in parameters:
            for part, expected in zip(found, (scores, products, squares), strict=True):
                torch.testing.assert_close(part[name][run], expected[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("per_coordinate", [False, True])
def test_optimal_constant_is_the_ratio_of_the_moving_sums_of_earlier_iterations(per_coordinate: bool) -> None:
    decays = torch.tensor([0.9, 0.0, 1.0], dtype=torch.float64)
    baseline = make_baseline(
        "baseline=optimal_constant", f"baseline.per_coordinate={str(per_coordinate).lower()}", decay=decays.tolist()
    )
    learner = baseline.init(generators(), torch.float64)
    shapes = {name: part.shape for name, part in baseline.policy.init(generators(), torch.float64).items()}
    generator = Generator().manual_seed(SEED)

    def random() -> dict[str, Tensor]:
        return {
            name: torch.randn(shape, generator=generator, dtype=torch.float64) ** 2 for name, shape in shapes.items()
        }

    product, square = ({name: torch.zeros(shape) for name, shape in shapes.items()} for _ in range(2))
    for iteration in range(4):
        moments, gradient = ScoreMoments(random(), random(), random()), random()
        corrected, metrics = baseline.correct_then_learn(learner, gradient, moments)
        assert set(metrics) == (set() if per_coordinate else {"baseline/constant"})
        for name, part in gradient.items():
            for run in range(RUNS):
                above, below = (
                    kept[name][run] if per_coordinate else sum(part[run].sum() for part in kept.values())
                    for kept in (product, square)
                )
                constant = above / below if iteration else 0.0
                expected = part[run] + constant * moments.score[name][run]
                torch.testing.assert_close(corrected[name][run], expected, rtol=1e-12, atol=1e-12)
        for kept, news in ((product, moments.product), (square, moments.square)):
            for name in shapes:
                kept[name] = decays.reshape(-1, *[1] * (len(shapes[name]) - 1)) * kept[name] + news[name]


@pytest.mark.parametrize("per_coordinate", ["false", "true"])
def test_optimal_constant_draws_nothing_from_a_runs_generator(per_coordinate: str) -> None:
    baseline = make_baseline("baseline=optimal_constant", f"baseline.per_coordinate={per_coordinate}")
    own = generators()
    before = [generator.get_state() for generator in own]
    baseline.init(own, torch.float32)
    assert all(torch.equal(generator.get_state(), one) for generator, one in zip(own, before, strict=True))


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_a_history_is_selected_saved_and_loaded_row_by_row() -> None:
    kept = History({"a": torch.arange(6.0).reshape(3, 2), "b": torch.arange(3.0)})
    state = kept.state()
    part = kept.select(torch.tensor([2, 0]))
    part.add(torch.tensor([0.5, 0.0]), {"b": torch.tensor([10.0, 20.0])})
    assert part.parameters["b"].tolist() == [11.0, 20.0]
    assert kept.parameters["b"].tolist() == [0.0, 1.0, 2.0], "select copies"
    kept.load(torch.tensor([2, 0]), part.state())
    assert kept.parameters["b"].tolist() == [20.0, 1.0, 11.0]
    assert state["parameters"]["b"].tolist() == [0.0, 1.0, 2.0], "state copies"


def test_nothing_weighed_means_zero() -> None:
    assert weighted_mean(torch.tensor([0.0, 3.0]), torch.tensor([0.0, 2.0])).tolist() == [0.0, 1.5]


@pytest.mark.parametrize("baseline", ["running_mean", "optimal_constant"])
def test_a_constant_is_of_no_effect_on_normalised_advantages_but_the_optimal_one_is(baseline: str) -> None:
    """What the YAML files say of them: rounding apart, for `running_mean`."""
    common = ("policy=softmax", "env=cartpole", "total_env_steps=2000", "dtype=float64", "logging.progress=none")
    none, other = (train([compose(*common, f"baseline={name}")])[0].policy for name in ("none", baseline))
    distance = max(float((one - own).abs().max()) for one, own in zip(none.buffers(), other.buffers(), strict=True))
    assert (distance < 1e-9) == (baseline == "running_mean")
