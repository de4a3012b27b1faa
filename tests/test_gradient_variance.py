"""The variance of the gradient estimate, exactly: by listing every joint outcome of an enumerated decision process.

Some orders hold for every process, by formula; those that are no theorem are named as facts of the processes here.
"""

import itertools
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from small_mdp import Episode, SmallMDP
from test_exact_gradient import (
    BASELINE_OVERRIDES,
    PROBLEMS,
    TOLERANCE,
    Setting,
    action_values,
    estimates,
    every_problem,
    make_policy,
    plain_loop_gradient,
    probability,
    random_parameters,
)
from torch import Generator, Tensor

from pg_experiments.baselines.interface import Experience

SETTING = Setting(gamma=0.8, reward_scale=1.0)
both_returns = pytest.mark.parametrize("reward_to_go", [True, False], ids=["reward to go", "whole return"])
both_discounts = pytest.mark.parametrize("discounted_objective", [True, False], ids=["discounted", "undiscounted"])


def table_of(mdp: SmallMDP) -> Tensor:
    return random_parameters(make_policy("tabular_softmax", mdp), 1)["table"]


@cache
def outcomes_of(problem: str, num_envs: int) -> tuple[list[tuple[Episode, ...]], Tensor]:
    """Every joint outcome, and its probability."""
    mdp = PROBLEMS[problem][0]
    probabilities = table_of(mdp)[0].softmax(-1)
    joint = list(itertools.product(mdp.episodes(), repeat=num_envs))
    chance = {episode: probability(mdp, episode, probabilities) for episode in mdp.episodes()}
    return joint, torch.stack([torch.stack([chance[one] for one in outcome]).prod(0) for outcome in joint])


def variances(
    problem: str, baseline: str, history: dict[str, Tensor] | None = None, num_envs: int = 1, **options: Any
) -> Tensor:
    """Of every coordinate of the estimate, [states, actions].

    Args:
        history: what the baseline keeps, of one run.
    """
    mdp = PROBLEMS[problem][0]
    joint, chance = outcomes_of(problem, num_envs)
    rows = len(joint)
    found = estimates(
        mdp,
        joint,
        make_policy("tabular_softmax", mdp),
        {"table": table_of(mdp).expand(rows, -1, -1)},
        BASELINE_OVERRIDES[baseline],
        [SETTING] * rows,
        history={name: part.expand(rows, *part.shape).clone() for name, part in (history or {}).items()} or None,
        normalize_advantage=False,
        **{"discounted_objective": True, **options},
    )["table"]
    mean = torch.tensordot(chance, found, 1)
    return torch.tensordot(chance, (found - mean).square(), 1)


def moments(problem: str, discounted_objective: bool, reward_to_go: bool) -> tuple[Tensor, Tensor]:
    """E[Xᵢ Sᵢ] and E[Sᵢ²] of one episode, with loops."""
    mdp, table = PROBLEMS[problem][0], table_of(PROBLEMS[problem][0])[0]
    product, square = torch.zeros_like(table), torch.zeros_like(table)
    for (episode,), chance in zip(*outcomes_of(problem, 1), strict=True):
        x = plain_loop_gradient(mdp, [episode], table, SETTING, False, discounted_objective, reward_to_go)
        s = torch.zeros_like(table)
        for step, (state, action, _) in enumerate(episode.steps):
            factor = SETTING.gamma**step if discounted_objective and reward_to_go else 1.0
            s[state] -= factor * table[state].softmax(-1)
            s[state, action] += factor
        product += chance * x * s
        square += chance * s**2
    return product, square


def constant(value: Tensor | float) -> dict[str, Tensor]:
    """The history of a `running_mean` that is this number at every step."""
    return {"total": torch.as_tensor(value, dtype=torch.float64).reshape(1), "weight": torch.ones(1).double()}


def optimal(product: Tensor, square: Tensor) -> dict[str, Tensor]:
    return {"product.constant": product.sum().reshape(1), "square.constant": square.sum().reshape(1)}


def mean_return(problem: str) -> Tensor:
    returns = [
        sum(SETTING.gamma**step * reward for step, (*_, reward) in enumerate(episode.steps))
        for (episode,) in outcomes_of(problem, 1)[0]
    ]
    return (outcomes_of(problem, 1)[1] * torch.tensor(returns, dtype=torch.float64)).sum()


# --- what holds for every process -------------------------------------------------------------------------------------


@every_problem
@both_discounts
@both_returns
def test_the_optimal_constant_takes_away_what_its_formula_says(
    problem: str, discounted_objective: bool, reward_to_go: bool
) -> None:
    """Var[X] - E[X · S]² / E[|S|²], and coordinate by coordinate Var[Xᵢ] - E[Xᵢ Sᵢ]² / E[Sᵢ²]."""
    options = {"discounted_objective": discounted_objective, "reward_to_go": reward_to_go}
    product, square = moments(problem, **options)
    none = variances(problem, "none", **options)
    scalar = variances(problem, "optimal_constant", optimal(product, square), **options)
    gain = product.sum() ** 2 / square.sum()
    torch.testing.assert_close(scalar.sum(), none.sum() - gain, **TOLERANCE)
    kept = {"product.table": product, "square.table": square}
    each = variances(problem, "optimal_constant_per_coordinate", kept, **options)
    torch.testing.assert_close(each, none - torch.where(square > 0, product**2 / square, 0.0), **TOLERANCE)
    assert none.sum() > scalar.sum() + 1e-3
    assert scalar.sum() > each.sum() + 1e-3


@every_problem
@both_discounts
@both_returns
def test_any_other_constant_has_more_variance_by_its_squared_distance(
    problem: str, discounted_objective: bool, reward_to_go: bool
) -> None:
    """Var[X - b S] = Var[X - b* S] + (b - b*)² E[|S|²]; the mean return and 0 are such constants."""
    options = {"discounted_objective": discounted_objective, "reward_to_go": reward_to_go}
    product, square = moments(problem, **options)
    best = product.sum() / square.sum()
    least = variances(problem, "optimal_constant", optimal(product, square), **options).sum()
    for value in (best + 0.1, best - 0.1, best, mean_return(problem), torch.tensor(-5.0).double()):
        found = variances(problem, "running_mean", constant(value), **options).sum()
        torch.testing.assert_close(found, least + (value - best) ** 2 * square.sum(), **TOLERANCE)
    zero = variances(problem, "running_mean", constant(0.0), **options)
    torch.testing.assert_close(zero, variances(problem, "none", **options), **TOLERANCE)


@every_problem
def test_with_whole_returns_it_is_the_constant_of_greensmith_bartlett_and_baxter(problem: str) -> None:
    """b = E[|S|² G] / E[|S|²], with S and G of every episode written down once more."""
    table, above, below = table_of(PROBLEMS[problem][0])[0], 0.0, 0.0
    for (episode,), chance in zip(*outcomes_of(problem, 1), strict=True):
        s = torch.zeros_like(table)
        for state, action, _ in episode.steps:
            s[state] -= table[state].softmax(-1)
            s[state, action] += 1
        whole = sum(SETTING.gamma**step * reward for step, (*_, reward) in enumerate(episode.steps))
        above += float(chance * s.square().sum() * whole)
        below += float(chance * s.square().sum())
    product, square = moments(problem, True, False)
    assert float(product.sum() / square.sum()) == pytest.approx(above / below, rel=1e-12)


@pytest.mark.parametrize("baseline", ["none", "optimal_constant"])
@both_returns
def test_two_episodes_have_half_the_variance_of_one(baseline: str, reward_to_go: bool) -> None:
    product, square = moments("ends_at_different_times", True, reward_to_go)
    history = optimal(product, square) if baseline == "optimal_constant" else None
    one, two = (
        variances("ends_at_different_times", baseline, history, num_envs, reward_to_go=reward_to_go)
        for num_envs in (1, 2)
    )
    torch.testing.assert_close(two, one / 2, **TOLERANCE)


@both_returns
def test_batch_mean_is_leave_one_out_made_smaller_where_all_episodes_have_one_length(reward_to_go: bool) -> None:
    """Gᵢ - mean = (1 - 1/N) (Gᵢ - mean of the others): less variance, and less gradient by the same factor."""
    others, own = (
        variances("never_terminates", baseline, None, 2, reward_to_go=reward_to_go)
        for baseline in ("leave_one_out", "batch_mean")
    )
    torch.testing.assert_close(own, others / 4, **TOLERANCE)


# --- facts of these two processes -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ExactValue:
    """b = V(s) of the steps that are left, exactly: [steps, states]."""

    table: Tensor

    def init(self, generators: list[Generator], dtype: torch.dtype) -> None:
        return None

    def values_then_learn(self, learner: None, one: Experience, progress: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.table[one.packing.step, one.observation.argmax(-1)], {}


def exact_value(problem: str) -> ExactValue:
    mdp = PROBLEMS[problem][0]
    policy, value = table_of(mdp)[0].softmax(-1), torch.zeros(len(mdp.following), dtype=torch.float64)
    values = []
    for _ in range(mdp.max_episode_steps):
        value = (policy * action_values(mdp, value, SETTING)).sum(-1)
        values.append(value)
    return ExactValue(torch.stack(values[::-1]))


@every_problem
def test_here_rewards_from_before_an_action_only_add_variance(problem: str) -> None:
    """No theorem: they have mean 0, but may by chance undo other noise."""
    assert variances(problem, "none").sum() < variances(problem, "none", reward_to_go=False).sum()


@every_problem
def test_here_the_exact_value_has_less_variance_than_no_baseline(problem: str) -> None:
    value = variances(problem, "none", own_baseline=exact_value(problem)).sum()
    assert value < 0.8 * variances(problem, "none").sum()


def test_the_exact_value_may_have_more_variance_than_the_best_constant() -> None:
    """It is the value that makes the *advantage* smallest, not the gradient: here 1.169 against 1.049, of 1.542."""
    history = optimal(*moments("ends_at_different_times", True, True))
    value = variances("ends_at_different_times", "none", own_baseline=exact_value("ends_at_different_times")).sum()
    best = variances("ends_at_different_times", "optimal_constant", history).sum()
    assert float(value) == pytest.approx(1.169, abs=1e-3)
    assert float(best) == pytest.approx(1.049, abs=1e-3)
