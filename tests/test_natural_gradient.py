"""Fisher-vector products against the explicit matrix, conjugate gradients against a solver, and the trust region."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from test_exact_fixed_rollouts import nothing_finished, settings
from torch import Generator, Tensor

from pg_experiments import ConfigError, compose
from pg_experiments.algorithms.npg import NPG
from pg_experiments.algorithms.trpo import TRPO
from pg_experiments.baselines.value_network import ValueNetwork
from pg_experiments.dense import Dense
from pg_experiments.envs.interface import BoxActions, DiscreteActions, EnvSpec
from pg_experiments.natural_gradient import as_parameters, as_vector, conjugate_gradients, fisher_product
from pg_experiments.optimizers import Learner
from pg_experiments.policies.distributions import Categorical, DiagonalGaussian
from pg_experiments.policies.gaussian import Gaussian
from pg_experiments.policies.networks import ACTIVATIONS
from pg_experiments.policies.softmax import Softmax
from pg_experiments.rollout import Trajectory
from pg_experiments.runs import build, stack

SEED = 91
RUNS, STEPS, COPIES = 3, 4, 5
TOLERANCE = {"rtol": 0, "atol": 1e-12}
BOX = EnvSpec(3, BoxActions((-1.0, -1.0), (1.0, 1.0)), 10, 1)
DISCRETE = EnvSpec(3, DiscreteActions(4), 10, 1)
STD = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
POLICIES = {
    **{f"softmax_{name}": Softmax(DISCRETE, (4, 3), name) for name in ACTIVATIONS},
    "softmax_linear": Softmax(DISCRETE, (), "tanh"),
    "gaussian": Gaussian(BOX, (4, 3), "tanh", False, STD),
    "gaussian_state_dependent_std": Gaussian(BOX, (4, 3), "tanh", True, STD),
}
every_policy = pytest.mark.parametrize("name", POLICIES)


def numbers(*shape: int, seed: int = SEED) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def parameters_of(policy: Any) -> dict[str, Tensor]:
    """Random ones, far from the start."""
    first = policy.init([Generator().manual_seed(run) for run in range(RUNS)], torch.float64)
    return {name: 0.7 * numbers(*part.shape, seed=place) for place, (name, part) in enumerate(first.items())}


def explicit_fisher(policy: Any, parameters: dict[str, Tensor], observation: Tensor, run: int) -> Tensor:
    """Mean over the samples of Jᵀ M J, with M from the textbook: diag(p) - p pᵀ; 1/σ² of a mean, 2 of a log std."""
    own = {name: part[run : run + 1].clone().requires_grad_() for name, part in parameters.items()}
    fisher = torch.zeros((), dtype=torch.float64)
    for sample in observation:
        distribution = policy(own, sample[None, None])
        if isinstance(distribution, Categorical):
            numbers_now = distribution.logits[0, 0]
            p = numbers_now.detach().softmax(0)
            matrix = torch.diag(p) - torch.outer(p, p)
        else:
            log_std = distribution.log_std.expand_as(distribution.mean)[0, 0]
            numbers_now = torch.cat([distribution.mean[0, 0], log_std])
            matrix = torch.diag(torch.cat([(-2 * log_std.detach()).exp(), torch.full_like(log_std, 2.0)]))
        rows = [
            torch.cat(
                [
                    part.flatten()
                    for part in torch.autograd.grad(
                        number, list(own.values()), retain_graph=True, materialize_grads=True
                    )
                ]
            )
            for number in numbers_now
        ]
        jacobian = torch.stack(rows)
        fisher = fisher + jacobian.T @ matrix @ jacobian
    return fisher / len(observation)


@every_policy
def test_fisher_vector_products_are_those_of_the_explicit_matrix(name: str):
    policy, samples = POLICIES[name], Dense(RUNS, STEPS * COPIES)
    parameters, observation = parameters_of(policy), numbers(RUNS, STEPS * COPIES, 3)
    vector = numbers(*as_vector(parameters).shape, seed=SEED + 1)
    found = fisher_product(policy, parameters, samples, observation.flatten(0, 1), STEPS * COPIES, vector)
    for run in range(RUNS):
        fisher = explicit_fisher(policy, parameters, observation[run], run)
        torch.testing.assert_close(found[run], fisher @ vector[run], **TOLERANCE)
        assert (found[run] != 0).any()


def test_vectors_hold_all_parameters_and_give_them_back():
    parameters = parameters_of(POLICIES["gaussian"])
    vector = as_vector(parameters)
    assert vector.shape == (RUNS, sum(part[0].numel() for part in parameters.values()))
    again = as_parameters(vector, parameters)
    assert all(torch.equal(again[name], part) for name, part in parameters.items())


def test_conjugate_gradients_solve_each_runs_own_equation():
    root = numbers(RUNS, 12, 12)
    matrix = root @ root.mT + 0.1 * torch.eye(12, dtype=torch.float64)
    target = numbers(RUNS, 12, seed=SEED + 1)
    target[1] = 0
    found = conjugate_gradients(lambda x: (matrix @ x[..., None])[..., 0], target, 100)
    torch.testing.assert_close(found, torch.linalg.solve(matrix, target), rtol=1e-4, atol=1e-4)
    assert torch.equal(found[1], torch.zeros(12, dtype=torch.float64))


def test_conjugate_gradients_of_n_numbers_take_n_iterations():
    root = numbers(RUNS, 5, 5)
    matrix = root @ root.mT + torch.eye(5, dtype=torch.float64)
    target = numbers(RUNS, 5, seed=SEED + 1)

    def error(iterations: int) -> float:
        found = conjugate_gradients(lambda x: (matrix @ x[..., None])[..., 0], target, iterations)
        return float((found - torch.linalg.solve(matrix, target)).abs().max())

    assert error(5) < 1e-5 < error(2)


def test_divergences_are_torchs():
    logits, others = numbers(2, 3, 4), numbers(2, 3, 4, seed=SEED + 1)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=logits), torch.distributions.Categorical(logits=others)
    )
    torch.testing.assert_close(Categorical(logits).kl(Categorical(others)), expected, **TOLERANCE)
    one, other = (DiagonalGaussian(numbers(2, 3, 4, seed=seed), numbers(2, 3, 4, seed=seed + 9)) for seed in (1, 2))
    expected = torch.distributions.kl_divergence(
        *(torch.distributions.Normal(each.mean, each.log_std.exp()) for each in (one, other))
    ).sum(-1)
    torch.testing.assert_close(one.kl(other), expected, **TOLERANCE)


# --- the algorithms ---------------------------------------------------------------------------------------------------


def played(policy: Any, parameters: dict[str, Tensor]) -> Trajectory:
    """A rollout of random numbers, with actions of the policy."""
    observation = numbers(RUNS, STEPS, COPIES, 3, seed=SEED + 2)
    noise = policy.draw_noise(Generator().manual_seed(SEED), (RUNS, STEPS * COPIES), torch.float64)
    action = policy(parameters, observation.flatten(1, 2)).sample(noise).unflatten(1, (STEPS, COPIES))
    over = numbers(RUNS, STEPS, COPIES, seed=SEED + 3) > 1
    flags = (over, torch.zeros_like(over), torch.ones_like(over))
    reward = numbers(RUNS, STEPS, COPIES, seed=SEED + 4)
    return Trajectory(observation, action, reward, *flags, numbers(RUNS, STEPS, COPIES, 3, seed=SEED + 5))


def per_run(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def learned(algorithm: Any, policy: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The parameters before and after, and the metrics."""
    parameters = parameters_of(policy)
    baseline = ValueNetwork(policy.spec, (5,), "tanh", 2, settings(RUNS, lr=0.1))
    generators = [Generator().manual_seed(run) for run in range(RUNS)]
    learner, before = Learner(settings(RUNS, lr=1.0), parameters), as_vector(parameters)
    iteration = algorithm.learn(
        policy,
        learner,
        baseline,
        baseline.init(generators, torch.float64),
        nothing_finished(RUNS),
        played(policy, parameters),
        per_run(0, 0, 0),
        generators,
    )
    return before, as_vector(learner.parameters), iteration.metrics


COMMON = {
    "gamma": per_run(0.9, 0.8, 1.0),
    "reward_scale": per_run(1, 2, 3),
    "rollout_steps": STEPS,
    "gae_lambda": per_run(1, 0.5, 0.9),
    "damping": per_run(0.1, 0.01, 0.5),
    "conjugate_gradient_iterations": 200,
}


@every_policy
def test_the_natural_gradient_solves_for_the_gradient_of_actor_critic(name: str):
    policy = POLICIES[name]
    before, after, metrics = learned(NPG(**COMMON, normalize_advantage=False), policy)
    parameters = parameters_of(policy)
    observation = numbers(RUNS, STEPS, COPIES, 3, seed=SEED + 2).flatten(1, 2)
    for run in range(RUNS):
        fisher = explicit_fisher(policy, parameters, observation[run], run)
        damped = fisher + COMMON["damping"][run] * torch.eye(len(fisher), dtype=torch.float64)
        gradient = damped @ (after - before)[run]
        torch.testing.assert_close(gradient.norm(), metrics["gradient/norm"][run], rtol=1e-4, atol=0)
        step = (after - before)[run]
        torch.testing.assert_close(metrics["policy/predicted_kl"][run], step @ damped @ step / 2, rtol=1e-4, atol=0)


@every_policy
def test_the_trust_region_is_kept_by_each_run_and_nearly_used_up(name: str):
    targets = per_run(1e-2, 1e-4, 1e-3)
    policy = POLICIES[name]
    trpo = TRPO(**COMMON, normalize_advantage=True, target_kl=targets, line_search_steps=20)
    before, after, metrics = learned(trpo, policy)
    parameters = parameters_of(policy)
    old = policy(parameters, numbers(RUNS, STEPS, COPIES, 3, seed=SEED + 2).flatten(1, 2))
    new = policy(as_parameters(after, parameters), numbers(RUNS, STEPS, COPIES, 3, seed=SEED + 2).flatten(1, 2))
    divergence = old.kl(new).mean(1)
    torch.testing.assert_close(metrics["policy/kl"], divergence, rtol=1e-9, atol=1e-14)
    assert (divergence <= targets).all()
    assert (divergence > 0.1 * targets).all()
    assert ((after - before).abs().amax(1) > 0).all()


def test_a_run_whose_tries_all_fail_keeps_its_policy_while_others_step():
    """A trust region far beyond what the second order describes: one try is too long, and there is no other."""
    policy = POLICIES["gaussian"]
    trpo = TRPO(**COMMON, normalize_advantage=True, target_kl=per_run(1e-5, 1e4, 1e-5), line_search_steps=3)
    before, after, metrics = learned(trpo, policy)
    assert torch.equal(before[1], after[1])
    assert metrics["policy/step_fraction"][1] == 0
    assert (metrics["policy/step_fraction"][[0, 2]] > 0).all()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("algorithm=trpo", "optimizer=adam"), "optimizer=adam: would change the step .* fitting: sgd"),
        (("algorithm=trpo", "optimizer.momentum=0.9"), "optimizer=sgd with momentum: would change the step"),
        (("algorithm=trpo", "optimizer.lr=1.5"), "optimizer.lr=1.5: must be at most 1"),
        (("algorithm=trpo", "optimizer.accumulate_gradients=2"), "optimizer.accumulate_gradients=2: must be 1"),
        (("algorithm=trpo", "optimizer.schedule=kl_adaptive"), "optimizer.schedule=kl_adaptive: would change the step"),
        (
            ("algorithm=npg", "policy=tabular_softmax", "env=frozen_lake"),
            r"policy=tabular_softmax: has no network, .*policy.hidden_sizes=\[\] is a table, too",
        ),
    ],
)
def test_what_a_natural_gradient_cannot_use_is_refused_with_what_fits(overrides, message):
    config = compose("policy=softmax", "env=cartpole", *overrides)
    with pytest.raises(ConfigError, match=message):
        build(stack([config]))


@pytest.mark.parametrize("algorithm", ["npg", "trpo"])
def test_they_choose_plain_gradient_steps_unless_another_optimizer_is_given(algorithm):
    config = compose("policy=softmax", "env=cartpole", f"algorithm={algorithm}")
    assert config.optimizer._target_ == "torch.optim.SGD"
    assert config.optimizer.lr == config.algorithm.default_sgd_lr
    assert replace(config, seed=1).baseline.optimizer._target_ == "torch.optim.Adam"
    assert compose("algorithm=npg", "optimizer=adam").optimizer._target_ == "torch.optim.Adam"
