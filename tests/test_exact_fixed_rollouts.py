"""Algorithms with fixed rollouts, exactly: the expected gradient over all rollouts, every update against plain torch.

Every possible rollout of a small decision process is a run of one batch; its gradient is weighted by its probability.
What that must be comes from dynamic programming over (state, step of the episode, step of the rollout).
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from golden import options
from small_mdp import ENDS_AT_DIFFERENT_TIMES, NEVER_TERMINATES, SmallMDP
from test_exact_gradient import (
    POLICIES,
    RecordingLearner,
    Setting,
    gradient_by_step,
    gradient_of,
    make_policy,
    random_parameters,
    weighted_sum,
)
from torch import Generator, Tensor

from pg_experiments import ConfigError, compose
from pg_experiments.algorithms.actor_critic import ActorCritic
from pg_experiments.algorithms.interface import Iteration
from pg_experiments.algorithms.npg import NPG
from pg_experiments.algorithms.ppo import PPO
from pg_experiments.algorithms.trpo import TRPO
from pg_experiments.baselines.value_network import ValueNetwork
from pg_experiments.natural_gradient import as_parameters, as_vector
from pg_experiments.optimizer_settings import OptimizerSettings
from pg_experiments.optimizers import Learner
from pg_experiments.policies.softmax import Softmax
from pg_experiments.rollout import Episodes, Trajectory
from pg_experiments.runs import build, stack

SEED = 81
STEPS = 5  # of a rollout: more than an episode has, so that some end in it and some at its cut
TOLERANCE = {"rtol": 0, "atol": 1e-12}
MDPS = {"never_terminates": NEVER_TERMINATES, "ends_at_different_times": ENDS_AT_DIFFERENT_TIMES}
every_mdp = pytest.mark.parametrize("name", MDPS)


class Played(NamedTuple):
    """One possible rollout of one copy: (state, action, following state, reward, terminated, truncated) of each step.

    `chance` is that of its starts; those of the actions follow from the policy.
    """

    chance: float
    steps: tuple[tuple[int, int, int, float, bool, bool], ...]


@cache
def every_rollout(mdp: SmallMDP) -> list[Played]:
    found = []
    starts = [(state, p) for state, p in enumerate(mdp.start_probabilities) if p > 0]
    unfinished = [(p, (), state, 0) for state, p in starts]
    while unfinished:
        chance, steps, state, played = unfinished.pop()
        if len(steps) == STEPS:
            found.append(Played(chance, steps))
            continue
        for action, (following, reward) in enumerate(zip(mdp.following[state], mdp.rewards[state], strict=True)):
            terminated = following in mdp.terminal
            truncated = not terminated and played + 1 == mdp.max_episode_steps
            after = (*steps, (state, action, following, reward, terminated, truncated))
            if not (terminated or truncated):
                unfinished.append((chance, after, following, played + 1))
            elif len(after) == STEPS:
                found.append(Played(chance, after))
            else:
                unfinished += [(chance * p, after, start, 0) for start, p in starts]
    return found


def trajectory_of(mdp: SmallMDP, rollouts: list[Played]) -> Trajectory:
    table = torch.tensor([played.steps for played in rollouts], dtype=torch.float64)
    state, action, following, reward, terminated, truncated = (part[..., None] for part in table.unbind(-1))
    running = torch.ones_like(reward, dtype=torch.bool)
    one_hot = [mdp.one_hot(part.long(), torch.float64) for part in (state, following)]
    return Trajectory(one_hot[0], action.long(), reward, terminated.bool(), truncated.bool(), running, one_hot[1])


def nothing_finished(rows: int) -> Episodes:
    return Episodes(torch.zeros(rows, 1), torch.zeros(rows, 1).long(), torch.zeros(rows, 1, dtype=torch.bool))


def settings(rows: int, lr: float = 0.0) -> OptimizerSettings:
    numbers = torch.ones(rows, dtype=torch.float64)
    return OptimizerSettings(torch.optim.SGD, {}, lr * numbers, "constant", numbers * torch.inf)


@dataclass(frozen=True)
class Numbers:
    """Of one setting."""

    gamma: float = 0.8
    reward_scale: float = 1.5
    gae_lambda: float = 1.0
    entropy_coefficient: float = 0.0


def actor_critic(rows: int, numbers: Numbers, **options: Any) -> ActorCritic:
    own = {name: torch.full((rows,), value, dtype=torch.float64) for name, value in vars(numbers).items()}
    return ActorCritic(
        rollout_steps=STEPS, **{"entropy_schedule": "constant", "normalize_advantage": False, **options}, **own
    )


def ppo(rows: int, numbers: Numbers, **options: Any) -> PPO:
    own = {name: torch.full((rows,), value, dtype=torch.float64) for name, value in vars(numbers).items()}
    more = {"clip_range": 0.2, "clip_range_value": torch.inf, "target_kl": torch.inf}
    own |= {name: torch.full((rows,), options.pop(name, value), dtype=torch.float64) for name, value in more.items()}
    defaults = {"epochs": 1, "minibatches": 1, "normalize_advantage": False, "recompute_advantage": False}
    return PPO(rollout_steps=STEPS, **{"entropy_schedule": "constant", **defaults, **options}, **own)


def natural(rows: int, numbers: Numbers, **options: Any) -> dict[str, Any]:
    """What both natural gradients take. With this damping, x is g times a number: F no longer matters."""
    own = {name: torch.full((rows,), value, dtype=torch.float64) for name, value in vars(numbers).items()}
    assert not own.pop("entropy_coefficient").any()
    own["damping"] = torch.full((rows,), 1e15, dtype=torch.float64)
    return {"rollout_steps": STEPS, "conjugate_gradient_iterations": 3, "normalize_advantage": False, **own, **options}


def npg(rows: int, numbers: Numbers, **options: Any) -> NPG:
    return NPG(**natural(rows, numbers, **options))


def trpo(rows: int, numbers: Numbers, **options: Any) -> TRPO:
    target_kl = torch.full((rows,), 0.01, dtype=torch.float64)
    return TRPO(**natural(rows, numbers, **options), target_kl=target_kl, line_search_steps=3)


ALGORITHMS = {"actor_critic": actor_critic, "ppo": ppo, "npg": npg, "trpo": trpo}
FITTING = [
    (policy, algorithm)
    for policy in POLICIES
    for algorithm in ALGORITHMS
    if policy not in ("tabular_softmax", "auto") or algorithm in ("actor_critic", "ppo")  # the others need a network
]
every_fitting = pytest.mark.parametrize(("policy", "algorithm"), FITTING)


def first_gradients(
    mdp: SmallMDP, algorithm: Any, policy: str, parameters: dict[str, Tensor], value: Tensor, rollouts: list[Played]
) -> tuple[dict[str, Tensor], dict[str, Tensor], Iteration]:
    """The first gradients of policy (upwards) and value function (downwards) from every rollout, one a row."""
    rows = len(rollouts)
    parameters = {name: part.expand(rows, *part.shape).clone() for name, part in parameters.items()}
    baseline = ValueNetwork(mdp.spec, (), "relu", 1, settings(rows))
    of_values = {"layer0.weight": value[None, :, None].repeat(rows, 1, 1), "layer0.bias": value.new_zeros(rows, 1)}
    learners = RecordingLearner(settings(rows), parameters), RecordingLearner(settings(rows), of_values)
    generators = [Generator().manual_seed(row) for row in range(rows)]
    iteration = algorithm.learn(
        make_policy(policy, mdp),
        learners[0],
        baseline,
        learners[1],
        nothing_finished(rows),
        trajectory_of(mdp, rollouts),
        torch.zeros(rows, dtype=torch.float64),
        generators,
    )
    upwards = {name: -part for name, part in learners[0].gradients.items()}
    if isinstance(algorithm, NPG | TRPO):  # it steps along g, and tells how long that is
        step = as_vector(upwards)
        length = step.norm(dim=1, keepdim=True)
        unit = torch.where(length > 0, step / length, 0.0)
        upwards = as_parameters(unit * iteration.metrics["gradient/norm"][:, None], upwards)
    return upwards, learners[1].gradients, iteration


def softmax_of(mdp: SmallMDP, policy: str, parameters: dict[str, Tensor]) -> Tensor:
    """π(a | s), `[states, actions]`, by plain torch."""
    return POLICIES[policy][1](parameters, len(mdp.following)).softmax(-1)


def expected_gradient(
    mdp: SmallMDP, make_algorithm: Any, numbers: Numbers, policy: str, parameters: dict[str, Tensor], value: Tensor
) -> dict[str, Tensor]:
    rollouts = every_rollout(mdp)
    algorithm = make_algorithm(len(rollouts), numbers)
    gradient, _, _ = first_gradients(mdp, algorithm, policy, parameters, value, rollouts)
    softmax = softmax_of(mdp, policy, parameters)
    chances = [
        played.chance * torch.stack([softmax[state, action] for state, action, *_ in played.steps]).prod(0)
        for played in rollouts
    ]
    weights = torch.stack(chances)
    torch.testing.assert_close(weights.sum(), torch.ones((), dtype=torch.float64), **TOLERANCE)
    return {name: torch.tensordot(weights, part, 1) for name, part in gradient.items()}


def value_of_policy(mdp: SmallMDP, softmax: Tensor, numbers: Numbers) -> Tensor:
    """V without a time limit: what continues at truncations and cuts."""
    states = len(mdp.following)
    move = torch.zeros(states, states, dtype=torch.float64)
    reward = torch.zeros(states, dtype=torch.float64)
    for state in range(states):
        for action, following in enumerate(mdp.following[state]):
            reward[state] += softmax[state, action] * mdp.rewards[state][action] * numbers.reward_scale
            if following not in mdp.terminal:
                move[state, following] += softmax[state, action]
    return torch.linalg.solve(torch.eye(states, dtype=torch.float64) - numbers.gamma * move, reward)


def by_dynamic_programming(
    mdp: SmallMDP,
    policy_name: str,
    parameters: dict[str, Tensor],
    value: Tensor,
    numbers: Numbers,
    continuing: Tensor,
) -> dict[str, Tensor]:
    """Mean over the steps of Σ P(state, episode step) Σ over actions of ∇π(a|s) E[λ-return | ...].

    Args:
        value: V in the λ-return inside of episodes.
        continuing: V at truncations and at the cut.
    """
    leaves = {name: part.clone().requires_grad_() for name, part in parameters.items()}
    policy = softmax_of(mdp, policy_name, leaves)
    states, limit, detached = len(mdp.following), mdp.max_episode_steps, policy.detach()
    later = torch.zeros(states, limit, dtype=torch.float64)  # expected λ-return of the next step of the rollout
    credits = []
    for step in reversed(range(STEPS)):
        credit = torch.zeros(states, limit, policy.shape[1], dtype=torch.float64)
        for state in range(states):
            for played in range(limit):
                for action, following in enumerate(mdp.following[state]):
                    reward = mdp.rewards[state][action] * numbers.reward_scale
                    if following in mdp.terminal:
                        after = 0.0
                    elif played + 1 == limit or step == STEPS - 1:
                        after = continuing[following]
                    else:
                        mixed = (1 - numbers.gae_lambda) * value[following]
                        after = mixed + numbers.gae_lambda * later[following, played + 1]
                    credit[state, played, action] = reward + numbers.gamma * after
        later = (detached[:, None] * credit).sum(-1)
        credits.insert(0, credit)
    start = torch.tensor(mdp.start_probabilities, dtype=torch.float64)
    chance = torch.zeros(states, limit, dtype=torch.float64)
    chance[:, 0] = start
    surrogate = torch.zeros((), dtype=torch.float64)
    for credit in credits:
        surrogate = surrogate + (chance[..., None] * policy[:, None] * credit).sum()
        following_chance = torch.zeros_like(chance)
        for state in range(states):
            for played in range(limit):
                for action, following in enumerate(mdp.following[state]):
                    share = chance[state, played] * detached[state, action]
                    if following in mdp.terminal or played + 1 == limit:
                        following_chance[:, 0] += share * start
                    else:
                        following_chance[following, played + 1] += share
        chance = following_chance
    return gradient_of(surrogate / STEPS, leaves)


def some_parameters(mdp: SmallMDP, policy: str) -> dict[str, Tensor]:
    return {name: part[0] for name, part in random_parameters(make_policy(policy, mdp), 1).items()}


def random_value(mdp: SmallMDP) -> Tensor:
    return torch.randn(len(mdp.following), generator=Generator().manual_seed(SEED), dtype=torch.float64)


# --- expectations -----------------------------------------------------------------------------------------------------


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for part_name, part in expected.items():
        torch.testing.assert_close(found[part_name], part, **TOLERANCE)
        assert (part != 0).any()


def largest_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max(float((part - other[part_name]).abs().max()) for part_name, part in one.items())


@every_mdp
@every_fitting
@pytest.mark.parametrize("gae_lambda", [1.0, 0.6, 0.0])
def test_with_the_values_of_the_policy_the_expected_gradient_is_exact_for_every_lambda(
    name, policy, algorithm, gae_lambda
):
    mdp, numbers = MDPS[name], Numbers(gae_lambda=gae_lambda)
    parameters = some_parameters(mdp, policy)
    value = value_of_policy(mdp, softmax_of(mdp, policy, parameters), numbers)
    found = expected_gradient(mdp, ALGORITHMS[algorithm], numbers, policy, parameters, value)
    # with λ = 0 the dynamic program has one reward and V: the exact Q
    assert_equal(found, by_dynamic_programming(mdp, policy, parameters, value, Numbers(gae_lambda=0.0), value))


@every_mdp
@every_fitting
@pytest.mark.parametrize("gae_lambda", [1.0, 0.6, 0.0])
def test_with_other_values_the_bias_is_that_of_the_lambda_return(name, policy, algorithm, gae_lambda):
    mdp, numbers = MDPS[name], Numbers(gae_lambda=gae_lambda)
    parameters, value = some_parameters(mdp, policy), random_value(mdp)
    found = expected_gradient(mdp, ALGORITHMS[algorithm], numbers, policy, parameters, value)
    assert_equal(found, by_dynamic_programming(mdp, policy, parameters, value, numbers, value))
    true = value_of_policy(mdp, softmax_of(mdp, policy, parameters), numbers)
    unbiased = by_dynamic_programming(mdp, policy, parameters, true, numbers, true)
    assert largest_difference(found, unbiased) > 1e-3, "there is a bias"
    only_the_cut = by_dynamic_programming(mdp, policy, parameters, true, numbers, value)
    assert (largest_difference(found, only_the_cut) < 1e-12) is (gae_lambda == 1.0), "λ = 1: only the cut is off"


@every_mdp
@every_fitting
def test_values_at_limits_and_cuts_add_exactly_what_they_are_discounted_to(name, policy, algorithm):
    """The bias of continuing a truncated episode, for who wants the return within the limit: λ = 1, V against 0."""
    mdp, numbers = MDPS[name], Numbers()
    parameters, value = some_parameters(mdp, policy), random_value(mdp)
    with_values, without = (
        expected_gradient(mdp, ALGORITHMS[algorithm], numbers, policy, parameters, each)
        for each in (value, torch.zeros_like(value))
    )
    bias = {part_name: part - without[part_name] for part_name, part in with_values.items()}
    no_reward = replace(numbers, reward_scale=0.0)
    assert_equal(bias, by_dynamic_programming(mdp, policy, parameters, value, no_reward, value))


@every_fitting
def test_without_values_the_steps_of_an_episode_count_as_those_of_reinforce_without_their_discount(policy, algorithm):
    """What leaving out γᵗ does, step by step: a rollout is one whole episode, and the beginning of another."""
    mdp, numbers = NEVER_TERMINATES, Numbers()
    parameters, limit = some_parameters(mdp, policy), mdp.max_episode_steps
    assert limit < STEPS < 2 * limit
    nothing = torch.zeros(len(mdp.following), dtype=torch.float64)
    found = expected_gradient(mdp, ALGORITHMS[algorithm], numbers, policy, parameters, nothing)
    setting = Setting(numbers.gamma, numbers.reward_scale)
    parts = [
        part
        for length in (limit, STEPS - limit)
        for part in gradient_by_step(replace(mdp, max_episode_steps=length), policy, parameters, setting)
    ]
    assert_equal(found, weighted_sum(parts, [1 / STEPS] * STEPS))
    discounts = [numbers.gamma**step for length in (limit, STEPS - limit) for step in range(length)]
    with_discount = weighted_sum(parts, [discount / STEPS for discount in discounts])
    assert largest_difference(found, with_discount) > 1e-3, "leaving it out is of effect"


def test_every_algorithm_with_fixed_rollouts_has_its_expected_gradient_tested():
    assert {"reinforce", *ALGORITHMS} == set(options("algorithm"))


@every_mdp
@every_fitting
def test_normalised_advantages_and_the_entropy_bonus_are_what_their_formulas_say(name, policy, algorithm):
    coefficient = 0.3 if algorithm in ("actor_critic", "ppo") else 0.0
    mdp, numbers = MDPS[name], Numbers(gae_lambda=0.7, entropy_coefficient=coefficient)
    parameters, value, rollouts = some_parameters(mdp, policy), random_value(mdp), every_rollout(mdp)[::7]
    made = ALGORITHMS[algorithm](len(rollouts), numbers, normalize_advantage=True)
    found, _, iteration = first_gradients(mdp, made, policy, parameters, value, rollouts)
    for row, played in enumerate(rollouts):
        leaves = {part_name: part.clone().requires_grad_() for part_name, part in parameters.items()}
        log_policy = softmax_of(mdp, policy, leaves).log()
        advantage = torch.tensor(advantages(played, value, numbers), dtype=torch.float64)
        weight = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)
        chosen = torch.stack([log_policy[state, action] for state, action, *_ in played.steps])
        entropy = torch.stack([-(log_policy[state].exp() * log_policy[state]).sum() for state, *_ in played.steps])
        expected = gradient_of((chosen * weight + coefficient * entropy).mean(), leaves)
        for part_name, part in expected.items():
            torch.testing.assert_close(found[part_name][row], part, **TOLERANCE)
        torch.testing.assert_close(iteration.metrics["policy/entropy"][row], entropy.mean().detach(), **TOLERANCE)


def advantages(played: Played, value: Tensor, numbers: Numbers, weight: Tensor | None = None) -> list[float]:
    """A plain loop, backwards; `weight` is that of V-trace at every step."""
    found, following_advantage = [], 0.0
    for step, (state, _, following, reward, terminated, truncated) in reversed(list(enumerate(played.steps))):
        after = 0.0 if terminated else float(value[following])
        delta = reward * numbers.reward_scale + numbers.gamma * after - float(value[state])
        goes_on = not (terminated or truncated) and step < STEPS - 1
        following_advantage = delta + goes_on * numbers.gamma * numbers.gae_lambda * following_advantage
        found.insert(0, following_advantage)
        following_advantage *= 1.0 if weight is None else float(weight[step])
    return found


@every_mdp
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("normalize_advantage", [True, False])
def test_the_first_gradients_of_ppo_are_those_of_actor_critic(name, policy, normalize_advantage):
    mdp, numbers = MDPS[name], Numbers(gae_lambda=0.9, entropy_coefficient=0.2)
    value, rollouts, parameters = random_value(mdp), every_rollout(mdp), some_parameters(mdp, policy)
    results = []
    for make_algorithm in (actor_critic, ppo):
        made = make_algorithm(len(rollouts), numbers, normalize_advantage=normalize_advantage)
        results.append(first_gradients(mdp, made, policy, parameters, value, rollouts))
    for one, other in zip(results[0][:2], results[1][:2], strict=True):
        for part in one:
            torch.testing.assert_close(one[part], other[part], **TOLERANCE)
    for tag in ("loss/baseline", "policy/entropy", "baseline/explained_variance"):
        torch.testing.assert_close(results[0][2].metrics[tag], results[1][2].metrics[tag], **TOLERANCE)
    assert (results[1][2].metrics["policy/approximate_kl"].abs() < 1e-12).all()
    assert (results[1][2].metrics["policy/clip_fraction"] == 0).all()


# --- every update, against plain torch --------------------------------------------------------------------------------


def forward(leaves: list[Tensor], x: Tensor) -> Tensor:
    hidden = torch.tanh(x @ leaves[0] + leaves[1])
    return hidden @ leaves[2] + leaves[3]


@pytest.mark.parametrize("clip_range_value", [None, 0.05])
@pytest.mark.parametrize("target_kl", [None, 2e-3])
@pytest.mark.parametrize("again", ["no", "recompute", "vtrace"])
def test_all_updates_of_ppo_are_those_of_a_plain_loop_over_one_run(clip_range_value, target_kl, again):
    mdp, numbers, rows = ENDS_AT_DIFFERENT_TIMES, Numbers(gae_lambda=0.8, entropy_coefficient=0.01), 3
    spec, copies = mdp.spec, 7
    rollouts = every_rollout(mdp)
    chosen = torch.randint(len(rollouts), (rows, copies), generator=Generator().manual_seed(SEED)).tolist()
    grids = [trajectory_of(mdp, [rollouts[index] for index in row]) for row in chosen]
    whole = Trajectory(
        *(torch.stack([grid.squeeze(2).transpose(0, 1) for grid in parts]) for parts in zip(*grids, strict=True))
    )
    policy = Softmax(spec, (6,), "tanh")
    baseline = ValueNetwork(spec, (5,), "tanh", 1, settings(rows, lr=0.3))
    first = [Generator().manual_seed(row) for row in range(rows)]
    learners = [Learner(settings(rows, lr=2.0), policy.init(first, torch.float64)), baseline.init(first, torch.float64)]
    before = [{name: part.clone() for name, part in learner.parameters.items()} for learner in learners]
    algorithm = ppo(
        rows,
        numbers,
        epochs=3,
        minibatches=4,
        normalize_advantage=True,
        recompute_advantage=again != "no",
        vtrace=again == "vtrace",
        clip_range=0.05,
        clip_range_value=clip_range_value or torch.inf,
        target_kl=target_kl or torch.inf,
    )
    generators = [Generator().manual_seed(100 + row) for row in range(rows)]
    zeros = torch.zeros(rows, dtype=torch.float64)
    iteration = algorithm.learn(
        policy, learners[0], baseline, learners[1], nothing_finished(rows), whole, zeros, generators
    )
    updates = []
    for row in range(rows):
        leaves = [[part[row].clone().requires_grad_() for part in each.values()] for each in before]
        updates.append(plain_ppo([rollouts[index] for index in chosen[row]], mdp, leaves, algorithm, row))
        for learner, own in zip(learners, leaves, strict=True):
            for part, expected in zip(learner.parameters.values(), own, strict=True):
                torch.testing.assert_close(part[row], expected.detach(), rtol=0, atol=1e-10)
    assert iteration.metrics["policy/updates"].tolist() == updates
    assert (min(updates) < 12) is (target_kl is not None)
    assert (iteration.metrics["policy/clip_fraction"] > 0).all()


def plain_ppo(rollouts: list[Played], mdp: SmallMDP, leaves: Any, algorithm: PPO, row: int) -> int:
    """One run with autograd and plain steps; how many there were."""
    numbers = Numbers(*(float(getattr(algorithm, name)[row]) for name in vars(Numbers())))
    eye = torch.eye(len(mdp.following), dtype=torch.float64)
    order = [(step, copy) for step in range(STEPS) for copy in range(len(rollouts))]
    state = torch.tensor([rollouts[copy].steps[step][0] for step, copy in order])
    action = torch.tensor([rollouts[copy].steps[step][1] for step, copy in order])

    def targets(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value = forward(leaves[1], eye)[:, 0].detach()
        of_copies = [advantages(played, value, numbers, weight[:, copy]) for copy, played in enumerate(rollouts)]
        found = torch.tensor([of_copies[copy][step] for step, copy in order], dtype=torch.float64)
        return value[state], found, value[state] + weight.flatten() * found

    def log_prob() -> Tensor:
        return forward(leaves[0], eye[state]).log_softmax(-1).gather(1, action[:, None])[:, 0].detach()

    ones = torch.ones(STEPS, len(rollouts), dtype=torch.float64)
    value, advantage, of_all = targets(ones)
    old = log_prob()
    generator = Generator().manual_seed(100 + row)
    deals = [torch.randperm(len(state), generator=generator) for _ in range(algorithm.epochs)]
    updates = 0
    for epoch, deal in enumerate(deals):
        if epoch and algorithm.recompute_advantage:
            weight = (log_prob() - old).exp().clamp(max=1).view_as(ones) if algorithm.vtrace else ones
            value, advantage, of_all = targets(weight)
        for place, own in enumerate(deal.tensor_split(algorithm.minibatches)):
            log_policy = forward(leaves[0], eye[state[own]]).log_softmax(-1)
            log_ratio = log_policy.gather(1, action[own][:, None])[:, 0] - old[own]
            weight = (advantage[own] - advantage[own].mean()) / (advantage[own].std(correction=0) + 1e-8)
            clipped = log_ratio.exp().clamp(1 - float(algorithm.clip_range[row]), 1 + float(algorithm.clip_range[row]))
            entropy = -(log_policy.exp() * log_policy).sum(-1)
            objective = (
                torch.minimum(log_ratio.exp() * weight, clipped * weight) + numbers.entropy_coefficient * entropy
            )
            returns, now = of_all[own], forward(leaves[1], eye[state[own]])[:, 0]
            limit = float(algorithm.clip_range_value[row])
            near = value[own] + (now - value[own]).clamp(-limit, limit)
            loss = torch.maximum((now - returns) ** 2, (near - returns) ** 2)
            if (epoch or place) and (log_ratio.exp() - 1 - log_ratio).mean() > algorithm.target_kl[row]:
                return updates
            of_policy = torch.autograd.grad(-objective.mean(), leaves[0])
            of_values = torch.autograd.grad(loss.mean(), leaves[1])
            with torch.no_grad():
                for lr, own_leaves, found in ((2.0, leaves[0], of_policy), (0.3, leaves[1], of_values)):
                    for leaf, gradient in zip(own_leaves, found, strict=True):
                        leaf -= lr * gradient
            updates += 1
    return updates


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("algorithm.minibatches=513",), "algorithm.minibatches=513: an iteration has 512 samples"),
        (("baseline.updates_per_iteration=2",), "baseline.updates_per_iteration=2: has to be 1"),
    ],
)
def test_what_minibatches_cannot_be_says_why(overrides, message):

    config = compose("policy=softmax", "env=cartpole", "algorithm=ppo", "env.num_envs=4", *overrides)
    with pytest.raises(ConfigError, match=message):
        build(stack([config]))
