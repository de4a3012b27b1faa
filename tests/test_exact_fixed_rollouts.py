"""Algorithms with fixed rollouts, exactly: the expected gradient over all rollouts, every update against plain torch.

Every possible rollout of a small decision process is a run of one batch; its gradient is weighted by its probability.
What that must be comes from dynamic programming over (state, step of the episode, step of the rollout).
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from small_mdp import ENDS_AT_DIFFERENT_TIMES, NEVER_TERMINATES, SmallMDP
from test_exact_gradient import RecordingLearner, random_parameters
from torch import Generator, Tensor

from pg_experiments import ConfigError, compose
from pg_experiments.algorithms.actor_critic import ActorCritic
from pg_experiments.algorithms.interface import Iteration
from pg_experiments.algorithms.ppo import PPO
from pg_experiments.baselines.value_network import ValueNetwork
from pg_experiments.optimizers import Learner, OptimizerSettings
from pg_experiments.policies.softmax import Softmax, TabularSoftmax
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


def first_gradients(
    mdp: SmallMDP, algorithm: Any, parameters: dict[str, Tensor], value: Tensor, rollouts: list[Played]
) -> tuple[dict[str, Tensor], dict[str, Tensor], Iteration]:
    """The first gradients of policy (upwards) and value function (downwards) from every rollout, one a row."""
    rows = len(rollouts)
    baseline = ValueNetwork(mdp.spec, (), "relu", 1, settings(rows))
    of_values = {"layer0.weight": value[None, :, None].repeat(rows, 1, 1), "layer0.bias": value.new_zeros(rows, 1)}
    learners = RecordingLearner(settings(rows), parameters), RecordingLearner(settings(rows), of_values)
    generators = [Generator().manual_seed(row) for row in range(rows)]
    iteration = algorithm.learn(
        TabularSoftmax(mdp.spec),
        learners[0],
        baseline,
        learners[1],
        nothing_finished(rows),
        trajectory_of(mdp, rollouts),
        torch.zeros(rows, dtype=torch.float64),
        generators,
    )
    return {name: -part for name, part in learners[0].gradients.items()}, learners[1].gradients, iteration


def expected_gradient(mdp: SmallMDP, algorithm: Any, table: Tensor, value: Tensor) -> Tensor:
    rollouts = every_rollout(mdp)
    gradient, _, _ = first_gradients(
        mdp, algorithm, {"table": table.expand(len(rollouts), -1, -1).clone()}, value, rollouts
    )
    softmax = table.softmax(-1)
    chances = [
        played.chance * torch.stack([softmax[state, action] for state, action, *_ in played.steps]).prod(0)
        for played in rollouts
    ]
    weights = torch.stack(chances)
    torch.testing.assert_close(weights.sum(), torch.ones((), dtype=torch.float64), **TOLERANCE)
    return torch.tensordot(weights, gradient["table"], 1)


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


def by_dynamic_programming(mdp: SmallMDP, table: Tensor, value: Tensor, numbers: Numbers, continuing: Tensor) -> Tensor:
    """Mean over the steps of Σ P(state, episode step) Σ over actions of ∇π(a|s) E[λ-return | ...].

    Args:
        value: V in the λ-return inside of episodes.
        continuing: V at truncations and at the cut.
    """
    leaf = table.clone().requires_grad_()
    policy = leaf.softmax(-1)
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
    return torch.autograd.grad(surrogate / STEPS, leaf)[0]


def random_table(mdp: SmallMDP) -> Tensor:
    return random_parameters(TabularSoftmax(mdp.spec), 1)["table"][0]


def random_value(mdp: SmallMDP) -> Tensor:
    return torch.randn(len(mdp.following), generator=Generator().manual_seed(SEED), dtype=torch.float64)


# --- expectations -----------------------------------------------------------------------------------------------------


@every_mdp
@pytest.mark.parametrize("make_algorithm", [actor_critic, ppo])
@pytest.mark.parametrize("gae_lambda", [1.0, 0.6, 0.0])
def test_with_the_values_of_the_policy_the_expected_gradient_is_exact_for_every_lambda(
    name, make_algorithm, gae_lambda
):
    mdp, numbers = MDPS[name], Numbers(gae_lambda=gae_lambda)
    table = random_table(mdp)
    value = value_of_policy(mdp, table.softmax(-1), numbers)
    found = expected_gradient(mdp, make_algorithm(len(every_rollout(mdp)), numbers), table, value)
    # with λ = 0 the dynamic program has one reward and V: the exact Q
    exact = by_dynamic_programming(mdp, table, value, Numbers(gae_lambda=0.0), value)
    torch.testing.assert_close(found, exact, **TOLERANCE)
    assert (exact != 0).any()


@every_mdp
@pytest.mark.parametrize("make_algorithm", [actor_critic, ppo])
@pytest.mark.parametrize("gae_lambda", [1.0, 0.6, 0.0])
def test_with_other_values_the_bias_is_that_of_the_lambda_return(name, make_algorithm, gae_lambda):
    mdp, numbers = MDPS[name], Numbers(gae_lambda=gae_lambda)
    table, value = random_table(mdp), random_value(mdp)
    found = expected_gradient(mdp, make_algorithm(len(every_rollout(mdp)), numbers), table, value)
    expected = by_dynamic_programming(mdp, table, value, numbers, value)
    torch.testing.assert_close(found, expected, **TOLERANCE)
    true = value_of_policy(mdp, table.softmax(-1), numbers)
    unbiased = by_dynamic_programming(mdp, table, true, numbers, true)
    assert (found - unbiased).abs().max() > 1e-3, "there is a bias"
    only_the_cut = by_dynamic_programming(mdp, table, true, numbers, value)
    assert torch.allclose(found, only_the_cut, atol=1e-12) is (gae_lambda == 1.0), "λ = 1: only the cut is off"


@every_mdp
@pytest.mark.parametrize("make_algorithm", [actor_critic, ppo])
def test_normalised_advantages_and_the_entropy_bonus_are_what_their_formulas_say(name, make_algorithm):
    mdp, numbers = MDPS[name], Numbers(gae_lambda=0.7, entropy_coefficient=0.3)
    table, value, rollouts = random_table(mdp), random_value(mdp), every_rollout(mdp)[::7]
    parameters = {"table": table.expand(len(rollouts), -1, -1).clone()}
    algorithm = make_algorithm(len(rollouts), numbers, normalize_advantage=True)
    found, _, iteration = first_gradients(mdp, algorithm, parameters, value, rollouts)
    for row, played in enumerate(rollouts):
        leaf = table.clone().requires_grad_()
        log_policy = leaf.log_softmax(-1)
        advantage = torch.tensor(advantages(played, value, numbers), dtype=torch.float64)
        weight = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)
        chosen = torch.stack([log_policy[state, action] for state, action, *_ in played.steps])
        entropy = torch.stack([-(log_policy[state].exp() * log_policy[state]).sum() for state, *_ in played.steps])
        objective = (chosen * weight + 0.3 * entropy).mean()
        torch.testing.assert_close(found["table"][row], torch.autograd.grad(objective, leaf)[0], **TOLERANCE)
        torch.testing.assert_close(iteration.metrics["policy/entropy"][row], entropy.mean().detach(), **TOLERANCE)


def advantages(played: Played, value: Tensor, numbers: Numbers) -> list[float]:
    """A plain loop, backwards."""
    found, following_advantage = [], 0.0
    for step, (state, _, following, reward, terminated, truncated) in reversed(list(enumerate(played.steps))):
        after = 0.0 if terminated else float(value[following])
        delta = reward * numbers.reward_scale + numbers.gamma * after - float(value[state])
        goes_on = not (terminated or truncated) and step < STEPS - 1
        following_advantage = delta + goes_on * numbers.gamma * numbers.gae_lambda * following_advantage
        found.insert(0, following_advantage)
    return found


@every_mdp
@pytest.mark.parametrize("normalize_advantage", [True, False])
def test_the_first_gradients_of_ppo_are_those_of_actor_critic(name, normalize_advantage):
    mdp, numbers = MDPS[name], Numbers(gae_lambda=0.9, entropy_coefficient=0.2)
    value, rollouts = random_value(mdp), every_rollout(mdp)
    parameters = {"table": random_table(mdp).expand(len(rollouts), -1, -1).clone()}
    results = [
        first_gradients(
            mdp, make(len(rollouts), numbers, normalize_advantage=normalize_advantage), parameters, value, rollouts
        )
        for make in (actor_critic, ppo)
    ]
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
@pytest.mark.parametrize("recompute_advantage", [True, False])
def test_all_updates_of_ppo_are_those_of_a_plain_loop_over_one_run(clip_range_value, target_kl, recompute_advantage):
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
        recompute_advantage=recompute_advantage,
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

    def targets() -> tuple[Tensor, Tensor]:
        value = forward(leaves[1], eye)[:, 0].detach()
        of_copies = [advantages(played, value, numbers) for played in rollouts]
        return value[state], torch.tensor([of_copies[copy][step] for step, copy in order], dtype=torch.float64)

    value, advantage = targets()
    old = forward(leaves[0], eye[state]).log_softmax(-1).gather(1, action[:, None])[:, 0].detach()
    generator = Generator().manual_seed(100 + row)
    deals = [torch.randperm(len(state), generator=generator) for _ in range(algorithm.epochs)]
    updates = 0
    for epoch, deal in enumerate(deals):
        if epoch and algorithm.recompute_advantage:
            value, advantage = targets()
        for place, own in enumerate(deal.tensor_split(algorithm.minibatches)):
            log_policy = forward(leaves[0], eye[state[own]]).log_softmax(-1)
            log_ratio = log_policy.gather(1, action[own][:, None])[:, 0] - old[own]
            weight = (advantage[own] - advantage[own].mean()) / (advantage[own].std(correction=0) + 1e-8)
            clipped = log_ratio.exp().clamp(1 - float(algorithm.clip_range[row]), 1 + float(algorithm.clip_range[row]))
            entropy = -(log_policy.exp() * log_policy).sum(-1)
            objective = (
                torch.minimum(log_ratio.exp() * weight, clipped * weight) + numbers.entropy_coefficient * entropy
            )
            returns, now = (value + advantage)[own], forward(leaves[1], eye[state[own]])[:, 0]
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
