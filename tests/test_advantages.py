"""Generalized advantages against a plain loop, with an end of every kind at every place."""

import itertools

import pytest
import torch
from torch import Generator, Tensor

from pg_experiments.advantages import continuations, generalized_advantages
from pg_experiments.policies.networks import MLP

SEED = 61
STEPS = 4
ENDS = list(itertools.product(("none", "terminated", "truncated", "both"), repeat=STEPS))  # a copy for each
GAMMA, LAMBDA = (0.9, 1.0, 0.7), (1.0, 0.0, 0.45)  # of three runs


def numbers(*shape: int, seed: int = SEED) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


SHAPE = (len(GAMMA), STEPS, len(ENDS))
REWARD, VALUE, CONTINUATION = numbers(*SHAPE), numbers(*SHAPE, seed=62), numbers(*SHAPE, seed=63)
TERMINATED = torch.tensor([[end in ("terminated", "both") for end in copy] for copy in ENDS]).T.expand(SHAPE)
TRUNCATED = torch.tensor([[end in ("truncated", "both") for end in copy] for copy in ENDS]).T.expand(SHAPE)


def found(gae_lambda: tuple[float, ...] = LAMBDA, weight: Tensor | None = None) -> Tensor:
    return generalized_advantages(
        REWARD,
        VALUE,
        CONTINUATION,
        TERMINATED,
        TRUNCATED,
        torch.tensor(GAMMA, dtype=torch.float64),
        torch.tensor(gae_lambda, dtype=torch.float64),
        weight,
    )


def next_value(run: int, step: int, copy: int) -> float:
    if TERMINATED[run, step, copy]:
        return 0.0
    if TRUNCATED[run, step, copy] or step == STEPS - 1:
        return float(CONTINUATION[run, step, copy])
    return float(VALUE[run, step + 1, copy])


def is_over(run: int, step: int, copy: int) -> bool:
    return bool(TERMINATED[run, step, copy] or TRUNCATED[run, step, copy] or step == STEPS - 1)


def test_advantages_are_the_sums_of_discounted_errors_up_to_the_end_wherever_that_is():
    expected = torch.zeros(SHAPE, dtype=torch.float64)
    for run, first, copy in itertools.product(*map(range, SHAPE)):
        weight = 1.0
        for step in range(first, STEPS):
            error = REWARD[run, step, copy] + GAMMA[run] * next_value(run, step, copy) - VALUE[run, step, copy]
            expected[run, first, copy] += weight * error
            weight *= GAMMA[run] * LAMBDA[run]
            if is_over(run, step, copy):
                break
    torch.testing.assert_close(found(), expected, rtol=0, atol=1e-12)


def test_with_lambda_one_they_are_the_n_step_returns_minus_the_values():
    expected = torch.zeros(SHAPE, dtype=torch.float64)
    for run, first, copy in itertools.product(*map(range, SHAPE)):
        total, discount = 0.0, 1.0
        for step in range(first, STEPS):
            total += discount * float(REWARD[run, step, copy])
            discount *= GAMMA[run]
            if is_over(run, step, copy):
                total += discount * next_value(run, step, copy)
                break
        expected[run, first, copy] = total - VALUE[run, first, copy]
    torch.testing.assert_close(found((1.0, 1.0, 1.0)), expected, rtol=0, atol=1e-12)


def test_with_weights_they_are_those_of_v_trace():
    """vₛ = V(sₛ) + Σₜ γᵗ⁻ˢ (Π c) ρₜ δₜ with ρ = w and c = λ w; with λ = 1, A = r + γ vₛ₊₁ - V(sₛ)."""
    weight = numbers(*SHAPE, seed=65).exp().clamp(max=1)
    assert 0.2 < (weight == 1).double().mean() < 0.8
    expected = VALUE.clone()
    for run, first, copy in itertools.product(*map(range, SHAPE)):
        product = 1.0
        for step in range(first, STEPS):
            error = REWARD[run, step, copy] + GAMMA[run] * next_value(run, step, copy) - VALUE[run, step, copy]
            expected[run, first, copy] += product * weight[run, step, copy] * error
            product *= GAMMA[run] * LAMBDA[run] * float(weight[run, step, copy])
            if is_over(run, step, copy):
                break
    advantage = found(weight=weight)
    torch.testing.assert_close(VALUE + weight * advantage, expected, rtol=0, atol=1e-12)
    assert LAMBDA[0] == 1.0
    for step, copy in itertools.product(range(STEPS), range(len(ENDS))):
        following = next_value(0, step, copy) if is_over(0, step, copy) else float(expected[0, step + 1, copy])
        of_one = float(REWARD[0, step, copy] + GAMMA[0] * following - VALUE[0, step, copy])
        assert float(advantage[0, step, copy]) == pytest.approx(of_one, abs=1e-12)


def test_weights_of_one_change_no_bit():
    assert torch.equal(found(weight=torch.ones(SHAPE, dtype=torch.float64)), found())


def test_what_follows_a_termination_does_not_matter_and_what_follows_a_truncation_only_by_its_value():
    before = found()
    CONTINUATION[TERMINATED] += 100.0
    assert torch.equal(found(), before)
    not_needed = ~TRUNCATED.clone()
    not_needed[:, -1] = False
    CONTINUATION[not_needed] += 100.0
    assert torch.equal(found(), before)
    CONTINUATION[TRUNCATED & ~TERMINATED] += 100.0
    assert not torch.equal(found(), before)
    CONTINUATION[TRUNCATED & ~TERMINATED] -= 100.0


@pytest.mark.parametrize("copies", [1, 5, 70])
def test_continuations_are_the_values_where_they_are_needed(copies: int):
    network = MLP(3, (7, 5), 1, "tanh", 1.0)
    parameters = network.init([Generator().manual_seed(run) for run in range(4)], torch.float64)
    observation = numbers(4, 90, copies, 3)
    truncated = numbers(4, 90, copies, seed=64) > 1.5
    values = continuations(network, parameters, observation, truncated)
    everywhere = network(parameters, observation.flatten(1, 2)).view(4, 90, copies)
    needed = truncated.clone()
    needed[:, -1] = True
    assert needed.any()
    torch.testing.assert_close(values[needed], everywhere[needed], rtol=0, atol=1e-12)
