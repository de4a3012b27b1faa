"""The distributions over actions against `torch.distributions`, closed forms, quadrature and numerical derivatives."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Generator, Tensor

from pg_experiments import compose
from pg_experiments.envs.interface import BoxActions, DiscreteActions, EnvSpec, Transition
from pg_experiments.policies.distributions import Categorical, DiagonalGaussian
from pg_experiments.policies.gaussian import Gaussian
from pg_experiments.policies.softmax import Softmax, TabularSoftmax
from pg_experiments.rollout import play_episodes
from pg_experiments.runs import build, stack

SEED = 71
FAILURE_RATE = 1e-6  # of each statistical test below, were its seed drawn anew
RUNS, SAMPLES = 3, 11
every_count = pytest.mark.parametrize("actions", [1, 2, 3, 7])
every_type = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
every_spread = pytest.mark.parametrize("spread", ["one for all samples", "one for each sample"])


def random_numbers(*shape: int, dtype: torch.dtype = torch.float64, seed: int = SEED) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed), dtype=dtype)


def categorical(actions: int, dtype: torch.dtype = torch.float64) -> Categorical:
    return Categorical(2 * random_numbers(RUNS, SAMPLES, actions, dtype=dtype))


def gaussian(spread: str, size: int = 4, dtype: torch.dtype = torch.float64) -> DiagonalGaussian:
    samples = 1 if spread == "one for all samples" else SAMPLES
    mean = random_numbers(RUNS, SAMPLES, size, dtype=dtype)
    return DiagonalGaussian(mean, 0.7 * random_numbers(RUNS, samples, size, dtype=dtype, seed=SEED + 1))


def reference(own: DiagonalGaussian) -> torch.distributions.Independent:
    normal = torch.distributions.Normal(own.mean, own.log_std.exp().expand_as(own.mean))
    return torch.distributions.Independent(normal, 1)


# --- categorical ------------------------------------------------------------------------------------------------------


@every_count
@every_type
def test_categorical_equals_that_of_torch(actions: int, dtype: torch.dtype) -> None:
    own = categorical(actions, dtype)
    expected = torch.distributions.Categorical(logits=own.logits)
    tolerance = {"rtol": 0, "atol": 1e-14 if dtype == torch.float64 else 2e-6}
    for action in range(actions):
        chosen = torch.full((RUNS, SAMPLES), action)
        torch.testing.assert_close(own.log_prob(chosen), expected.log_prob(chosen), **tolerance)
    torch.testing.assert_close(own.entropy(), expected.entropy(), **tolerance)
    assert torch.equal(own.mode(), expected.mode)


@every_count
def test_categorical_probabilities_add_up_to_one(actions: int) -> None:
    own = categorical(actions)
    log_probs = [own.log_prob(torch.full((RUNS, SAMPLES), action)) for action in range(actions)]
    torch.testing.assert_close(torch.stack(log_probs).exp().sum(0), torch.ones(RUNS, SAMPLES, dtype=torch.float64))


@every_count
def test_categorical_sample_is_the_largest_sum_of_logit_and_noise(actions: int) -> None:
    own = categorical(actions)
    noise = random_numbers(RUNS, SAMPLES, actions, seed=SEED + 1)
    found = own.sample(noise)
    assert found.dtype == torch.int64
    for run, sample in itertools.product(range(RUNS), range(SAMPLES)):
        sums = [(own.logits + noise)[run, sample, action].item() for action in range(actions)]
        assert found[run, sample] == sums.index(max(sums))


@every_type
@pytest.mark.parametrize("actions", [2, 3, 7])
def test_categorical_draws_every_action_as_often_as_its_probability(actions: int, dtype: torch.dtype) -> None:
    """Pearson's χ² over 200,000 draws; fails once in a million seeds."""
    draws, logits = 200_000, random_numbers(1, 1, actions, dtype=dtype)
    noise = Categorical.draw_noise(Generator().manual_seed(SEED), (1, draws), actions, dtype)
    found = Categorical(logits.expand(1, draws, actions)).sample(noise)
    counts = torch.bincount(found[0], minlength=actions).double()
    expected = logits[0, 0].double().softmax(0) * draws
    statistic = ((counts - expected).square() / expected).sum().item()
    assert statistic < stats.chi2.isf(FAILURE_RATE, actions - 1)


@every_type
def test_gumbel_noise_has_its_distribution(dtype: torch.dtype) -> None:
    """Kolmogorov and Smirnov's test over 60,000 numbers; fails once in a million seeds."""
    noise = Categorical.draw_noise(Generator().manual_seed(SEED), (20_000,), 3, dtype)
    assert stats.kstest(noise.flatten().double().numpy(), "gumbel_r").pvalue > FAILURE_RATE


def test_gradients_of_the_categorical_are_numerically_right() -> None:
    logits = (2 * random_numbers(2, 3, 5)).requires_grad_()
    action = torch.tensor([[0, 4, 2], [1, 1, 3]])
    assert torch.autograd.gradcheck(lambda x: Categorical(x).log_prob(action), logits)
    assert torch.autograd.gradcheck(lambda x: Categorical(x).entropy(), logits)


@every_type
@pytest.mark.parametrize(
    ("logits", "entropy"),
    [
        ([1e4, -1e4, 0.0], 0.0),
        ([1e30, 0.0, -1e30], 0.0),
        ([-1e30, -1e30, -1e30], math.log(3)),
        ([0.0, -math.inf, 0.0], math.log(2)),
        ([-math.inf, 5.0, -math.inf], 0.0),
        ([300.0, 300.0, 300.0], math.log(3)),
    ],
    ids=str,
)
def test_categorical_with_extreme_logits_stays_finite(logits: list[float], entropy: float, dtype: torch.dtype) -> None:
    leaf = torch.tensor([[logits]], dtype=dtype).requires_grad_()
    own = Categorical(leaf)
    assert own.entropy().item() == pytest.approx(entropy, abs=1e-6)
    (gradient,) = torch.autograd.grad(own.entropy().sum((0, 1)), leaf, retain_graph=True)
    assert gradient.isfinite().all()
    best = own.mode()
    assert best.item() == logits.index(max(logits))
    assert own.log_prob(best).item() == pytest.approx(-entropy, abs=1e-6)
    (gradient,) = torch.autograd.grad(own.log_prob(best).sum((0, 1)), leaf)
    assert gradient.isfinite().all()
    noise = Categorical.draw_noise(Generator().manual_seed(SEED), (1, 1000), 3, dtype)
    drawn = Categorical(leaf.detach().expand(1, 1000, 3)).sample(noise)
    impossible = [action for action, logit in enumerate(logits) if logit < max(logits) - 1000]
    assert not torch.isin(drawn, torch.tensor(impossible, dtype=torch.long)).any()


# --- Gaussian ---------------------------------------------------------------------------------------------------------


@every_spread
@every_type
def test_gaussian_equals_that_of_torch(spread: str, dtype: torch.dtype) -> None:
    own = gaussian(spread, dtype=dtype)
    expected = reference(own)
    action = random_numbers(RUNS, SAMPLES, 4, dtype=dtype, seed=SEED + 2)
    tolerance = {"rtol": 1e-13, "atol": 1e-13} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(own.log_prob(action), expected.log_prob(action), **tolerance)
    torch.testing.assert_close(own.entropy(), expected.entropy(), **tolerance)
    assert torch.equal(own.mode(), expected.mean)


@every_spread
def test_gaussian_sample_is_mean_plus_spread_times_noise(spread: str) -> None:
    own = gaussian(spread)
    noise = random_numbers(RUNS, SAMPLES, 4, seed=SEED + 2)
    torch.testing.assert_close(own.sample(noise), own.mean + own.log_std.exp() * noise, rtol=1e-15, atol=1e-15)
    assert torch.equal(own.sample(torch.zeros_like(noise)), own.mode())


@every_type
def test_gaussian_draws_are_normal_and_independent(dtype: torch.dtype) -> None:
    """Kolmogorov and Smirnov's test of each dimension, Pearson's of their correlation; one in a million seeds fails."""
    draws = 100_000
    mean, log_std = torch.tensor([0.3, -2.0], dtype=dtype), torch.tensor([-0.5, 0.9], dtype=dtype)
    noise = DiagonalGaussian.draw_noise(Generator().manual_seed(SEED), (1, draws), 2, dtype)
    found = DiagonalGaussian(mean.expand(1, draws, 2), log_std.expand(1, 1, 2)).sample(noise)[0].double().numpy()
    for dimension in range(2):
        normal = stats.norm(mean[dimension].item(), math.exp(log_std[dimension].item()))
        assert stats.kstest(found[:, dimension], normal.cdf).pvalue > FAILURE_RATE
    assert stats.pearsonr(found[:, 0], found[:, 1]).pvalue > FAILURE_RATE


@every_spread
def test_gradients_of_the_gaussian_are_numerically_right(spread: str) -> None:
    own = gaussian(spread, size=2)
    leaves = (own.mean.requires_grad_(), own.log_std.requires_grad_())
    action = random_numbers(RUNS, SAMPLES, 2, seed=SEED + 2)
    assert torch.autograd.gradcheck(lambda mean, log_std: DiagonalGaussian(mean, log_std).log_prob(action), leaves)
    assert torch.autograd.gradcheck(lambda mean, log_std: DiagonalGaussian(mean, log_std).entropy(), leaves)


def test_gaussian_score_weighted_by_a_return_is_the_gradient_of_its_expectation() -> None:
    """E[∇log π(a) f(a)] = ∇E[f(a)], exactly: Gauss-Hermite quadrature of a polynomial f; and E[∇log π(a)] = 0."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)
    grid = torch.tensor(list(itertools.product(nodes, nodes)))
    chances = torch.tensor([w * v for w, v in itertools.product(weights, weights)]) / (2 * math.pi)
    mean = torch.tensor([0.4, -0.7], dtype=torch.float64).requires_grad_()
    log_std = torch.tensor([-0.3, 0.2], dtype=torch.float64).requires_grad_()
    own = DiagonalGaussian(mean.expand(1, len(grid), 2), log_std.expand(1, 1, 2))

    def credit(action: Tensor) -> Tensor:
        return 2 + action[..., 0] ** 3 - action[..., 0] * action[..., 1] ** 2 + 5 * action[..., 1]

    pathwise = torch.autograd.grad((chances * credit(own.sample(grid[None]))).sum((0, 1)), (mean, log_std))
    action = own.sample(grid[None]).detach()
    score = torch.autograd.grad((chances * credit(action) * own.log_prob(action)).sum((0, 1)), (mean, log_std))
    nothing = torch.autograd.grad((chances * own.log_prob(action)).sum((0, 1)), (mean, log_std))
    for one, other, zero in zip(score, pathwise, nothing, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(zero, torch.zeros_like(zero), rtol=0, atol=1e-12)


# --- policies ---------------------------------------------------------------------------------------------------------

BOUNDS = BoxActions((-2.0, 0.0, -math.inf, 1.0, -math.inf), (2.0, 5.0, math.inf, math.inf, -3.0))


def gaussian_policy(
    actions: BoxActions, state_dependent_std: bool = False, initial_std: tuple[float, ...] = (1.0,)
) -> Gaussian:
    spec = EnvSpec(3, actions, 9, 1)
    return Gaussian(spec, (6, 5), "tanh", state_dependent_std, torch.tensor(initial_std, dtype=torch.float64))


@every_type
def test_env_action_spans_finite_bounds_and_only_clips_at_the_others(dtype: torch.dtype) -> None:
    policy = gaussian_policy(BOUNDS)
    samples = torch.tensor([[-3.0], [-1.0], [-0.5], [0.0], [0.5], [1.0], [4.0]], dtype=dtype).repeat(1, 5)
    expected = [
        [-2.0, 0.0, -3.0, 1.0, -3.0],
        [-2.0, 0.0, -1.0, 1.0, -3.0],
        [-1.0, 1.25, -0.5, 1.0, -3.0],
        [0.0, 2.5, 0.0, 1.0, -3.0],
        [1.0, 3.75, 0.5, 1.0, -3.0],
        [2.0, 5.0, 1.0, 1.0, -3.0],
        [2.0, 5.0, 4.0, 4.0, -3.0],
    ]
    assert torch.equal(policy.env_action(samples), torch.tensor(expected, dtype=dtype))
    below = torch.full((2, 3, 5), -7.0, dtype=dtype)
    assert policy.env_action(below)[1, 2].tolist() == [-2.0, 0.0, -7.0, 1.0, -7.0]


@dataclass(frozen=True)
class Listener:
    """Ends after four steps and remembers every action it was given."""

    heard: list[Tensor] = field(default_factory=list)
    spec: EnvSpec = EnvSpec(3, BoxActions((-2.0, 0.0), (2.0, 5.0)), 4, 3)

    def reset(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        return noise, noise

    def step(self, state: Tensor, action: Tensor, running: Tensor) -> Transition:
        self.heard.append(action)
        never = torch.zeros_like(running)
        return Transition(state, state, state[..., 0], never, never)

    def select(self, state: Tensor, rows: Tensor) -> Tensor:
        return state[rows]

    def join(self, states: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(states))


def test_learning_sees_the_sample_and_the_environment_the_clipped_action() -> None:
    env = Listener()
    runs, envs = 2, 50
    policy = Gaussian(env.spec, (6,), "tanh", False, torch.tensor([3.0, 0.1], dtype=torch.float64))
    parameters = policy.init([Generator().manual_seed(run) for run in range(runs)], torch.float64)
    generators = [Generator().manual_seed(SEED + run) for run in range(runs)]
    _, trajectory = play_episodes(policy, parameters, env, generators, envs, torch.float64)
    assert trajectory is not None
    heard, sampled = torch.stack(env.heard, 1), trajectory.action
    assert (sampled[0].abs() > 1).double().mean((0, 1, 2)) > 0.5
    assert (sampled[1].abs() < 1).all()
    assert torch.equal(heard, policy.env_action(sampled))
    low, high = torch.tensor(env.spec.actions.low), torch.tensor(env.spec.actions.high)  # type: ignore[union-attr]
    assert ((heard >= low) & (heard <= high)).all()
    distribution = policy(parameters, trajectory.observation.flatten(1, 2))
    assert isinstance(distribution, DiagonalGaussian)
    expected = reference(distribution).log_prob(sampled.flatten(1, 2))
    torch.testing.assert_close(distribution.log_prob(sampled.flatten(1, 2)), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("state_dependent_std", [False, True])
def test_gaussian_policy_starts_near_zero_with_the_spread_of_its_run(state_dependent_std: bool) -> None:
    """And its spread depends on the observation exactly when it should."""
    initial = (0.2, 1.0, 3.0)
    policy = gaussian_policy(BOUNDS, state_dependent_std, initial)
    parameters = policy.init([Generator().manual_seed(run) for run in range(3)], torch.float64)
    assert ("log_std" in parameters) != state_dependent_std
    observation = random_numbers(3, SAMPLES, 3)
    own = policy(parameters, observation)
    spread = own.log_std.exp().expand(3, SAMPLES, 5)
    assert own.mean.abs().max() < 0.05
    torch.testing.assert_close(spread[:, 0], torch.tensor(initial).double()[:, None].expand(3, 5), rtol=0.05, atol=0)
    assert (spread[:, :1] == spread).all() == (not state_dependent_std)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_table_and_network_give_a_categorical_over_all_actions(count: int) -> None:
    spec = EnvSpec(4, DiscreteActions(count), 9, 1, 4)
    generators = [Generator().manual_seed(run) for run in range(3)]
    observation = torch.eye(4, dtype=torch.float64).expand(3, 4, 4)
    tabular: Any
    for tabular in (TabularSoftmax(spec), Softmax(spec, (), "relu")):
        parameters = {
            name: random_numbers(*part.shape) if part.ndim == 3 else part
            for name, part in tabular.init(generators, torch.float64).items()
        }
        own = tabular(parameters, observation)
        assert own.logits.shape == (3, 4, count)
        torch.testing.assert_close(own.logits, next(iter(parameters.values())), rtol=0, atol=1e-15)
        action = own.sample(tabular.draw_noise(Generator().manual_seed(SEED), (3, 4), torch.float64))
        assert torch.equal(tabular.env_action(action), action)
    table = TabularSoftmax(spec).init(generators, torch.float64)
    torch.testing.assert_close(
        TabularSoftmax(spec)(table, observation).entropy(), torch.full((3, 4), math.log(count), dtype=torch.float64)
    )


@pytest.mark.parametrize("initial_shape", [1.001, 2.0, 90.0, 110.0, 700.0, 1250.0, 1e6])
def test_a_beta_policy_begins_with_the_shape_that_is_asked_for(initial_shape: float) -> None:
    """α and β of every action, in float64; also where exp(α) is more than a number can be."""
    more = ("policy=beta", "env=pendulum", f"policy.initial_shape={initial_shape}", "dtype=float64")
    policy = build(stack([compose(*more)])).policy
    parameters = policy.init([Generator().manual_seed(SEED)], torch.float64)
    distribution: Any = policy(parameters, torch.zeros(1, 5, 3, dtype=torch.float64))
    for excess in (distribution.excess_alpha, distribution.excess_beta):
        torch.testing.assert_close(1 + excess, torch.full((1, 5, 1), initial_shape).double(), rtol=1e-6, atol=0)
