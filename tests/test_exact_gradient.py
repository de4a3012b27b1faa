"""The expectation of the REINFORCE estimator, exactly: every joint outcome of its episodes, weighted by probability.

Each joint outcome is a run of one batch, so that the package's own code (rollout, returns, packing, baseline, loss,
gradient) computes all estimates in one call. The exact gradient comes from dynamic programming and autograd.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from small_mdp import ENDS_AT_DIFFERENT_TIMES, NEVER_TERMINATES, Episode, SmallMDP
from torch import Generator, Tensor

from pg_experiments import compose
from pg_experiments.algorithms.reinforce import Reinforce
from pg_experiments.baselines.history import History
from pg_experiments.baselines.interface import Experience
from pg_experiments.composition import conf_dir
from pg_experiments.optimizer_settings import OptimizerSettings
from pg_experiments.optimizers import Learner
from pg_experiments.packing import Packing
from pg_experiments.rollout import play_episodes
from pg_experiments.runs import make, stack

SEED = 31
TOLERANCE = {"rtol": 0, "atol": 1e-12}
EXACT_BASELINES = [
    "none",
    "leave_one_out",
    "running_mean",
    "time_dependent",
    "linear_features",
    "optimal_constant",
    "optimal_constant_per_coordinate",
    "value_network",
]
SCALED_BASELINES = ["batch_mean"]  # by a factor that is known exactly, see the test of its name
PROBLEMS = {"never_terminates": (NEVER_TERMINATES, 2), "ends_at_different_times": (ENDS_AT_DIFFERENT_TIMES, 3)}

composed = cache(compose)  # takes a while, and is asked for a few configs only
every_exact_baseline = pytest.mark.parametrize("baseline", EXACT_BASELINES)
every_problem = pytest.mark.parametrize("problem", PROBLEMS)


class Setting(NamedTuple):
    """The numbers of one run; a batch holds several of them at once."""

    gamma: float
    reward_scale: float
    entropy_coefficient: float = 0.0


SETTINGS = (Setting(gamma=0.8, reward_scale=1.0), Setting(gamma=0.55, reward_scale=2.5))
UNDISCOUNTED = (Setting(gamma=1.0, reward_scale=0.4), Setting(gamma=1.0, reward_scale=3.0))


class RecordingLearner(Learner):
    """Keeps the gradients of its one step instead of stepping."""

    def step(
        self, gradients: dict[str, Tensor], progress: Tensor, going: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        self.gradients = gradients
        return torch.zeros(len(progress), dtype=torch.float64), torch.zeros(len(progress), dtype=torch.float64)


@dataclass(frozen=True)
class ScriptedMDP(SmallMDP):
    """Starts where it is told: `starts` [runs, envs]."""

    starts: Any = None

    def reset(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        state = self.one_hot(self.starts, noise.dtype)
        return state, state


@dataclass(frozen=True)
class ScriptedPolicy:
    """A policy whose noise is such that it samples the given actions [runs, steps, envs], whatever its logits."""

    policy: Any
    actions: Tensor
    row_of: dict[int, int]

    def __call__(self, parameters: dict[str, Tensor], observation: Tensor) -> Any:
        return self.policy(parameters, observation)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.policy, name)

    def draw_noise(self, generator: Generator, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        noise = torch.zeros(*shape, self.policy.num_actions, dtype=dtype)
        actions = self.actions[self.row_of[id(generator)]]
        noise[: len(actions)] = 1e6 * torch.nn.functional.one_hot(actions, self.policy.num_actions)
        return noise


# --- policies, twice: the package's, and written down once more with plain torch --------------------------------------


def table_logits(parameters: dict[str, Tensor], states: int) -> Tensor:
    return parameters["table"]


def network_logits(activation: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor], int], Tensor]:
    def logits(parameters: dict[str, Tensor], states: int) -> Tensor:
        x = torch.eye(states, dtype=torch.float64)
        for layer in range(3):
            x = x @ parameters[f"layer{layer}.weight"] + parameters[f"layer{layer}.bias"]
            x = activation(x) if layer < 2 else x
        return x

    return logits


POLICIES = {
    "auto": (["policy=auto"], table_logits),  # a table, because the states can be counted
    "tabular_softmax": (["policy=tabular_softmax"], table_logits),
    "linear_softmax": (
        ["policy=linear_softmax"],
        lambda parameters, states: parameters["layer0.weight"] + parameters["layer0.bias"],
    ),
    "softmax_relu": (
        ["policy=softmax", "policy.hidden_sizes=[5,3]", "policy.activation=relu"],
        network_logits(torch.relu),
    ),
    "softmax_tanh": (
        ["policy=softmax", "policy.hidden_sizes=[5,3]", "policy.activation=tanh"],
        network_logits(torch.tanh),
    ),
}


OF_OTHER_ACTIONS = (
    "gaussian",
    "linear_gaussian",
    "squashed_gaussian",
    "beta",
    "von_mises",
    "multi_categorical",
    "bernoulli",
    "mixed",
)


def make_policy(name: str, mdp: SmallMDP) -> Any:
    config = composed(*POLICIES[name][0])
    return make("policy", config.policy, stack([config]).numbers, spec=mdp.spec)


def random_parameters(policy: Any, settings: int) -> dict[str, Tensor]:
    """Parameters [settings, ...] far from the symmetric start."""
    generator = Generator().manual_seed(SEED)
    first = policy.init([Generator().manual_seed(SEED) for _ in range(settings)], torch.float64)
    return {name: torch.randn(first[name].shape, generator=generator, dtype=torch.float64) for name in first}


# --- the exact side ---------------------------------------------------------------------------------------------------


class StepGradient(NamedTuple):
    """Of one time step: Σ over states of P(state) Σ over actions of ∇π(a|s) Q(s, a), and P(an episode is running)."""

    gradient: dict[str, Tensor]
    reached: Tensor


def exact_objective(mdp: SmallMDP, logits: Tensor, setting: Setting) -> Tensor:
    """J = E[Σ γᵗ rₜ] from the last step backwards."""
    value = torch.zeros(len(mdp.following), dtype=torch.float64)
    for _ in range(mdp.max_episode_steps):
        value = (logits.softmax(-1) * action_values(mdp, value, setting)).sum(-1)
    return (torch.tensor(mdp.start_probabilities, dtype=torch.float64) * value).sum()


def action_values(mdp: SmallMDP, value: Tensor, setting: Setting) -> Tensor:
    ended = torch.tensor([state in mdp.terminal for state in range(len(value))])
    following = torch.tensor(mdp.following)
    reward = torch.tensor(mdp.rewards, dtype=torch.float64) * setting.reward_scale
    return reward + setting.gamma * torch.where(ended, 0.0, value)[following]


def gradient_of(scalar: Tensor, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    parts = torch.autograd.grad(scalar, list(parameters.values()), retain_graph=True)
    return dict(zip(parameters, parts, strict=True))


def exact_gradient(mdp: SmallMDP, policy: str, parameters: dict[str, Tensor], setting: Setting) -> dict[str, Tensor]:
    leaves = {name: parameter.clone().requires_grad_() for name, parameter in parameters.items()}
    return gradient_of(exact_objective(mdp, POLICIES[policy][1](leaves, len(mdp.following)), setting), leaves)


def gradient_by_step(mdp: SmallMDP, policy: str, parameters: dict[str, Tensor], setting: Setting) -> list[StepGradient]:
    """E[∇log π(aₜ|sₜ) Gₜ] for every t, without any γᵗ."""
    leaves = {name: parameter.clone().requires_grad_() for name, parameter in parameters.items()}
    probabilities = POLICIES[policy][1](leaves, len(mdp.following)).softmax(-1)
    by_steps_to_go = [torch.zeros(len(mdp.following), dtype=torch.float64)]
    for _ in range(mdp.max_episode_steps):
        by_steps_to_go.append((probabilities.detach() * action_values(mdp, by_steps_to_go[-1], setting)).sum(-1))
    running = torch.tensor(mdp.start_probabilities, dtype=torch.float64)
    found = []
    for step in range(mdp.max_episode_steps):
        values = action_values(mdp, by_steps_to_go[mdp.max_episode_steps - step - 1], setting)
        surrogate = (running[:, None] * probabilities * values).sum()
        found.append(StepGradient(gradient_of(surrogate, leaves), running.sum()))
        flow = (running[:, None] * probabilities.detach()).flatten()
        running = torch.zeros_like(running).index_add(0, torch.tensor(mdp.following).flatten(), flow)
        running[list(mdp.terminal)] = 0.0
    return found


def weighted_sum(parts: Sequence[StepGradient], weights: Sequence[Any]) -> dict[str, Tensor]:
    return {
        name: sum((part.gradient[name] * weight for part, weight in zip(parts, weights, strict=True)), torch.zeros(()))
        for name in parts[0].gradient
    }


# --- the estimator's side ---------------------------------------------------------------------------------------------


def estimates(
    mdp: SmallMDP,
    outcomes: Sequence[tuple[Episode, ...]],
    policy: Any,
    parameters: dict[str, Tensor],
    baseline_overrides: Sequence[str],
    settings: Sequence[Setting],
    history: dict[str, Tensor] | None = None,
    own_baseline: Any = None,
    progress: float = 0.0,
    **options: Any,
) -> dict[str, Tensor]:
    """The gradient estimate, upwards, of every outcome (the rows), one outcome per row.

    Args:
        outcomes: for every row, the episodes that its copies play.
        parameters: of the policy, [rows, ...].
        settings: of every row.
        history: that the baseline has, instead of one drawn at random.
        own_baseline: instead of one of the package's.
        progress: fraction of every run that is over.
        options: of `Reinforce`.
    """
    rows, num_envs = len(outcomes), len(outcomes[0])
    actions = torch.zeros(rows, mdp.max_episode_steps, num_envs, dtype=torch.long)
    for row, outcome in enumerate(outcomes):
        for copy, episode in enumerate(outcome):
            actions[row, : len(episode.actions), copy] = torch.tensor(episode.actions)
    starts = torch.tensor([[episode.start for episode in outcome] for outcome in outcomes])
    generators = [Generator() for _ in range(rows)]
    env = ScriptedMDP(**vars(mdp), starts=starts)
    scripted = ScriptedPolicy(policy, actions, {id(generator): row for row, generator in enumerate(generators)})

    config = composed(*baseline_overrides)
    numbers = stack([config]).select(torch.zeros(rows, dtype=torch.long)).numbers
    baseline = own_baseline or make("baseline", config.baseline, numbers, spec=mdp.spec, policy=policy)
    baseline_learner = History(history) if history else same_start(baseline, rows)
    no_numbers = torch.zeros(rows, dtype=torch.float64)
    learner = RecordingLearner(
        OptimizerSettings(torch.optim.SGD, {}, no_numbers, "constant", no_numbers + torch.inf),
        {name: parameter.clone() for name, parameter in parameters.items()},
    )
    gamma, reward_scale, entropy_coefficient = torch.tensor(settings, dtype=torch.float64).unbind(1)
    own = {"reward_to_go": True, "entropy_schedule": "constant", **options}
    algorithm = Reinforce(gamma, reward_scale, entropy_coefficient, **own)
    episodes, trajectory = play_episodes(scripted, parameters, env, generators, num_envs, torch.float64)
    assert trajectory is not None
    iteration = algorithm.learn(
        scripted, learner, baseline, baseline_learner, episodes, trajectory, no_numbers + progress
    )
    played = [sum(len(episode.steps) for episode in outcome) for outcome in outcomes]
    assert iteration.env_steps == played, "the script was not played"
    returns = [[sum(reward for *_, reward in episode.steps) for episode in outcome] for outcome in outcomes]
    torch.testing.assert_close(iteration.episodes.episode_return, torch.tensor(returns, dtype=torch.float64))
    return {name: -gradient for name, gradient in learner.gradients.items()}


def same_start(baseline: Any, rows: int) -> Learner | History | None:
    """What the baseline learns, the same at first in every row; what it keeps, as if there had been iterations."""
    one = baseline.init([Generator().manual_seed(SEED)], torch.float64)
    if one is None:
        return None
    if isinstance(one, History):
        generator = Generator().manual_seed(SEED)
        return History(
            {
                name: 0.5
                + torch.rand(part[0].shape, generator=generator, dtype=part.dtype).expand(rows, *part[0].shape)
                for name, part in one.parameters.items()
            }
        )
    parameters = {name: parameter[[0] * rows].clone() for name, parameter in one.parameters.items()}
    return Learner(baseline.optimizer, parameters)


def probability(mdp: SmallMDP, episode: Episode, probabilities: Tensor) -> Tensor:
    chances = [torch.tensor(mdp.start_probabilities[episode.start], dtype=torch.float64)]
    chances += [probabilities[state, action] for state, action, _ in episode.steps]
    return torch.stack(chances).prod(0)


BASELINE_OVERRIDES = {
    "none": ["baseline=none"],
    "batch_mean": ["baseline=batch_mean"],
    "leave_one_out": ["baseline=leave_one_out"],
    "running_mean": ["baseline=running_mean"],
    "time_dependent": ["baseline=time_dependent"],
    "linear_features": ["baseline=linear_features"],
    "optimal_constant": ["baseline=optimal_constant"],
    "optimal_constant_per_coordinate": ["baseline=optimal_constant", "baseline.per_coordinate=true"],
    "value_network": ["baseline=value_network", "baseline.hidden_sizes=[6,2]", "baseline.optimizer.lr=0.3"],
}


def expected_estimates(
    problem: str, policy_name: str, baseline: str, settings: Sequence[Setting], **options: bool
) -> list[dict[str, Tensor]]:
    """The mean over all joint outcomes, for every setting; all of them in one batch, interleaved."""
    mdp, num_envs = PROBLEMS[problem]
    policy = make_policy(policy_name, mdp)
    parameters = random_parameters(policy, len(settings))
    joint = list(itertools.product(mdp.episodes(), repeat=num_envs))
    row_setting = torch.arange(len(settings)).repeat(len(joint))
    found = estimates(
        mdp,
        [outcome for outcome in joint for _ in settings],
        policy,
        {name: parameter[row_setting] for name, parameter in parameters.items()},
        BASELINE_OVERRIDES[baseline],
        [settings[index] for index in row_setting.tolist()],
        normalize_advantage=False,
        **options,
    )
    expected = []
    for index in range(len(settings)):
        own = {name: parameter[index] for name, parameter in parameters.items()}
        softmax = POLICIES[policy_name][1](own, len(mdp.following)).softmax(-1)
        chance = {episode: probability(mdp, episode, softmax) for episode in mdp.episodes()}
        weights = torch.stack([torch.stack([chance[one] for one in outcome]).prod(0) for outcome in joint])
        torch.testing.assert_close(weights.sum(), torch.ones((), dtype=torch.float64), **TOLERANCE)
        expected.append({name: torch.tensordot(weights, part[row_setting == index], 1) for name, part in found.items()})
    return expected


def truth(problem: str, policy_name: str, settings: Sequence[Setting], gradient: Callable[..., Any]) -> list[Any]:
    mdp = PROBLEMS[problem][0]
    parameters = random_parameters(make_policy(policy_name, mdp), len(settings))
    return [
        gradient(mdp, policy_name, {name: part[index] for name, part in parameters.items()}, setting)
        for index, setting in enumerate(settings)
    ]


def assert_equal_gradients(found: Sequence[dict[str, Tensor]], expected: Sequence[dict[str, Tensor]]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        assert any((part != 0).any() for part in other.values()), "nothing to compare"
        for name in one:
            torch.testing.assert_close(one[name], other[name], **TOLERANCE)


# --- the tests --------------------------------------------------------------------------------------------------------


@every_problem
@every_exact_baseline
@pytest.mark.parametrize("policy", POLICIES)
def test_expected_estimate_is_the_exact_gradient_of_the_discounted_return(
    problem: str, baseline: str, policy: str
) -> None:
    found = expected_estimates(problem, policy, baseline, SETTINGS, discounted_objective=True)
    assert_equal_gradients(found, truth(problem, policy, SETTINGS, exact_gradient))


@every_problem
@every_exact_baseline
@pytest.mark.parametrize("discounted_objective", [True, False])
def test_weighed_with_the_whole_return_it_is_the_exact_gradient_of_the_discounted_return(
    problem: str, baseline: str, discounted_objective: bool
) -> None:
    """There is no factor γᵗ then that could be left out."""
    options = {"discounted_objective": discounted_objective, "reward_to_go": False}
    found = expected_estimates(problem, "tabular_softmax", baseline, SETTINGS, **options)
    assert_equal_gradients(found, truth(problem, "tabular_softmax", SETTINGS, exact_gradient))


@every_problem
@every_exact_baseline
@pytest.mark.parametrize("discounted_objective", [True, False])
def test_expected_estimate_is_the_exact_gradient_of_the_undiscounted_return(
    problem: str, baseline: str, discounted_objective: bool
) -> None:
    found = expected_estimates(
        problem, "tabular_softmax", baseline, UNDISCOUNTED, discounted_objective=discounted_objective
    )
    assert_equal_gradients(found, truth(problem, "tabular_softmax", UNDISCOUNTED, exact_gradient))


@every_problem
@every_exact_baseline
@pytest.mark.parametrize("policy", ["tabular_softmax", "softmax_tanh"])
def test_without_the_discounted_objective_only_the_weight_of_each_step_differs(
    problem: str, baseline: str, policy: str
) -> None:
    """Σₜ E[∇log π(aₜ|sₜ) Gₜ]: not a gradient of the discounted return, which has γᵗ in front of step t."""
    found = expected_estimates(problem, policy, baseline, SETTINGS, discounted_objective=False)
    steps = truth(problem, policy, SETTINGS, gradient_by_step)
    assert_equal_gradients(found, [weighted_sum(parts, [1.0] * len(parts)) for parts in steps])
    exact = truth(problem, policy, SETTINGS, exact_gradient)
    for one, other in zip(found, exact, strict=True):
        assert max(float((one[name] - other[name]).abs().max()) for name in one) > 1e-2


@every_problem
def test_steps_weighted_by_the_discount_add_up_to_the_exact_gradient(problem: str) -> None:
    """The two references of this file agree: the policy gradient theorem."""
    steps = truth(problem, "softmax_tanh", SETTINGS, gradient_by_step)
    added = [
        weighted_sum(parts, [setting.gamma**step for step in range(len(parts))])
        for parts, setting in zip(steps, SETTINGS, strict=True)
    ]
    assert_equal_gradients(added, truth(problem, "softmax_tanh", SETTINGS, exact_gradient))


@pytest.mark.parametrize("policy", ["tabular_softmax", "softmax_relu"])
@pytest.mark.parametrize("reward_to_go", [True, False])
def test_batch_mean_scales_the_exact_gradient_by_one_minus_one_over_the_episodes(
    policy: str, reward_to_go: bool
) -> None:
    options = {"discounted_objective": True, "reward_to_go": reward_to_go}
    found = expected_estimates("never_terminates", policy, "batch_mean", SETTINGS, **options)
    num_envs = PROBLEMS["never_terminates"][1]
    exact = truth("never_terminates", policy, SETTINGS, exact_gradient)
    scaled = [{name: part * (1 - 1 / num_envs) for name, part in one.items()} for one in exact]
    assert_equal_gradients(found, scaled)


@pytest.mark.parametrize("discounted_objective", [True, False])
def test_batch_mean_scales_step_t_by_one_minus_the_expected_share_of_an_episode_that_reaches_it(
    discounted_objective: bool,
) -> None:
    """An episode that reaches step t finds n - 1 others there, binomial (N - 1, p): E[1/n] = (1 - (1 - p)ᴺ) / (N p)."""
    found = expected_estimates(
        "ends_at_different_times",
        "tabular_softmax",
        "batch_mean",
        SETTINGS,
        discounted_objective=discounted_objective,
    )
    num_envs = PROBLEMS["ends_at_different_times"][1]
    steps = truth("ends_at_different_times", "tabular_softmax", SETTINGS, gradient_by_step)
    expected = []
    for parts, setting in zip(steps, SETTINGS, strict=True):
        reached = [part.reached for part in parts]
        assert reached[0] == 1
        assert 0.05 < reached[-1] < 0.95
        factors = [1 - (1 - (1 - p) ** num_envs) / (num_envs * p) for p in reached]
        gamma = setting.gamma if discounted_objective else 1.0
        expected.append(weighted_sum(parts, [factor * gamma**step for step, factor in enumerate(factors)]))
    assert_equal_gradients(found, expected)


def test_every_baseline_has_its_expected_gradient_tested() -> None:
    """Of `shared_value`, which REINFORCE cannot use, in test_shared_value.py."""
    options = {path.stem for path in (conf_dir() / "baseline").glob("*.yaml")}
    assert options - {"shared_value"} == {
        overrides[0].removeprefix("baseline=") for overrides in BASELINE_OVERRIDES.values()
    }
    assert {*EXACT_BASELINES, *SCALED_BASELINES} == BASELINE_OVERRIDES.keys()


def test_every_policy_for_finitely_many_actions_is_tested() -> None:
    """`test_every_distribution.py` checks the log-probability of the others, whose outcomes are too many to list."""
    options = {path.stem for path in (conf_dir() / "policy").glob("*.yaml")}
    assert options == {*OF_OTHER_ACTIONS, *(overrides[0].removeprefix("policy=") for overrides, _ in POLICIES.values())}


def test_values_of_the_value_network_are_those_from_before_it_learned() -> None:
    rows, steps, num_envs, mdp = 3, 4, 5, NEVER_TERMINATES
    generator = Generator().manual_seed(SEED)
    config = composed(*BASELINE_OVERRIDES["value_network"])
    numbers = stack([config]).select(torch.zeros(rows, dtype=torch.long)).numbers
    baseline = make("baseline", config.baseline, numbers, spec=mdp.spec)
    learner = same_start(baseline, rows)
    assert isinstance(learner, Learner)
    before = {name: parameter.clone() for name, parameter in learner.parameters.items()}
    running = torch.ones(rows, steps, num_envs, dtype=torch.bool)
    packing = Packing.of(running, torch.float64)
    states = torch.randint(3, running.shape, generator=generator)
    observation = packing.pack(mdp.one_hot(states, torch.float64))
    returns = torch.randn(running.shape, generator=generator, dtype=torch.float64)
    experience = Experience(observation, packing.pack(returns), returns, running, packing)
    values, _ = baseline.values_then_learn(learner, experience, torch.zeros(rows, dtype=torch.float64))
    counted = packing.weight.bool()
    with torch.no_grad():
        by_old, by_new = (
            baseline.network({name: part[packing.run] for name, part in parameters.items()}, observation[:, None])
            for parameters in (before, learner.parameters)
        )
        by_old, by_new = by_old[:, 0, 0], by_new[:, 0, 0]
    torch.testing.assert_close(values[counted], by_old[counted], **TOLERANCE)
    assert (by_new - by_old)[counted].abs().min() > 1e-3


# --- single outcomes --------------------------------------------------------------------------------------------------


def sampled_outcomes(mdp: SmallMDP, rows: int, num_envs: int) -> list[tuple[Episode, ...]]:
    episodes = mdp.episodes()
    chosen = torch.randint(len(episodes), (rows, num_envs), generator=Generator().manual_seed(SEED))
    return [tuple(episodes[index] for index in row) for row in chosen.tolist()]


@every_exact_baseline
@pytest.mark.parametrize("policy_name", POLICIES)
def test_entropy_coefficient_adds_the_exact_gradient_of_the_entropy_at_the_visited_states(
    policy_name: str, baseline: str
) -> None:
    """One of the runs has no entropy bonus, and gets none."""
    mdp, rows, num_envs = ENDS_AT_DIFFERENT_TIMES, 7, 5
    policy = make_policy(policy_name, mdp)
    parameters, outcomes = random_parameters(policy, rows), sampled_outcomes(mdp, rows, num_envs)
    coefficients = [0.0, 0.3, 2.0, 0.01, 0.5, 0.7, 1.1]
    plain, bonus = (
        estimates(
            mdp,
            outcomes,
            policy,
            parameters,
            BASELINE_OVERRIDES[baseline],
            [Setting(0.9, 1.0, coefficient * factor) for coefficient in coefficients],
            normalize_advantage=False,
            discounted_objective=True,
        )
        for factor in (0.0, 1.0)
    )
    for row, (outcome, coefficient) in enumerate(zip(outcomes, coefficients, strict=True)):
        leaves = {name: part[row].clone().requires_grad_() for name, part in parameters.items()}
        logits = POLICIES[policy_name][1](leaves, len(mdp.following))
        entropy = torch.distributions.Categorical(logits=logits).entropy()
        visited = torch.stack([entropy[state] for episode in outcome for state, *_ in episode.steps])
        expected = gradient_of(coefficient * visited.sum() / num_envs, leaves)
        for name in expected:
            torch.testing.assert_close((bonus[name] - plain[name])[row], expected[name], **TOLERANCE)


@pytest.mark.parametrize(("schedule", "factor"), [("constant", 1.0), ("linear", 0.75), ("cosine", 0.5 + 0.5**1.5)])
def test_a_quarter_into_a_run_the_entropy_bonus_has_fallen_as_its_schedule_says(schedule: str, factor: float) -> None:
    mdp, rows = ENDS_AT_DIFFERENT_TIMES, 3
    policy = make_policy("tabular_softmax", mdp)
    parameters, outcomes = random_parameters(policy, rows), sampled_outcomes(mdp, rows, 5)

    def of(coefficient: float, progress: float) -> Tensor:
        own = [Setting(0.9, 1.0, coefficient * (1 + row)) for row in range(rows)]
        options = {"normalize_advantage": False, "discounted_objective": False, "entropy_schedule": schedule}
        none = BASELINE_OVERRIDES["none"]
        return estimates(mdp, outcomes, policy, parameters, none, own, progress=progress, **options)["table"]

    plain, whole, now = of(0.0, 0.25), of(0.3, 0.0), of(0.3, 0.25)
    torch.testing.assert_close(now - plain, factor * (whole - plain), **TOLERANCE)


def plain_loop_gradient(
    mdp: SmallMDP,
    outcome: Sequence[Episode],
    table: Tensor,
    setting: Setting,
    normalize: bool,
    discounted: bool,
    to_go: bool = True,
) -> Tensor:
    """1/N Σ γᵗ Aₜ ∇log π(aₜ|sₜ) with numbers and loops; of whole returns, without the γᵗ."""
    returns = []
    for episode in outcome:
        rewards = [reward * setting.reward_scale for *_, reward in episode.steps]
        for step, (state, action, _) in enumerate(episode.steps):
            first = step if to_go else 0
            credit = sum(setting.gamma**later * reward for later, reward in enumerate(rewards[first:]))
            returns.append((step, state, action, credit))
    mean = sum(credit for *_, credit in returns) / len(returns)
    std = (sum((credit - mean) ** 2 for *_, credit in returns) / len(returns)) ** 0.5
    gradient = torch.zeros_like(table)
    for step, state, action, credit in returns:
        advantage = (credit - mean) / (std + 1e-8) if normalize else credit
        weight = advantage * (setting.gamma**step if discounted and to_go else 1.0)
        gradient[state] -= weight * table[state].softmax(-1)
        gradient[state, action] += weight
    return gradient / len(outcome)


@every_problem
@pytest.mark.parametrize("normalize_advantage", [True, False])
@pytest.mark.parametrize("discounted_objective", [True, False])
@pytest.mark.parametrize("reward_to_go", [True, False])
def test_every_single_estimate_equals_plain_loops(
    problem: str, normalize_advantage: bool, discounted_objective: bool, reward_to_go: bool
) -> None:
    """Normalised: mean 0 and standard deviation 1 over all steps of the run's own iteration."""
    mdp, rows, num_envs = PROBLEMS[problem][0], 11, 5
    policy = make_policy("tabular_softmax", mdp)
    parameters, outcomes = random_parameters(policy, rows), sampled_outcomes(mdp, rows, num_envs)
    settings = [Setting(gamma=row / 10, reward_scale=0.5 + row) for row in range(rows)]  # γ from 0 to 1
    found = estimates(
        mdp,
        outcomes,
        policy,
        parameters,
        BASELINE_OVERRIDES["none"],
        settings,
        normalize_advantage=normalize_advantage,
        discounted_objective=discounted_objective,
        reward_to_go=reward_to_go,
    )["table"]
    for row, (outcome, setting) in enumerate(zip(outcomes, settings, strict=True)):
        expected = plain_loop_gradient(
            mdp, outcome, parameters["table"][row], setting, normalize_advantage, discounted_objective, reward_to_go
        )
        torch.testing.assert_close(found[row], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("normalize_advantage", [True, False])
def test_reward_scale_is_without_effect_exactly_when_advantages_are_normalised(normalize_advantage: bool) -> None:
    mdp, rows = ENDS_AT_DIFFERENT_TIMES, 4
    policy = make_policy("tabular_softmax", mdp)
    outcomes = [sampled_outcomes(mdp, 1, 6)[0]] * rows
    parameters = {name: part[[0] * rows] for name, part in random_parameters(policy, 1).items()}
    scales = [1.0, 7.0, 0.03, 250.0]
    found = estimates(
        mdp,
        outcomes,
        policy,
        parameters,
        BASELINE_OVERRIDES["none"],
        [Setting(0.9, scale) for scale in scales],
        normalize_advantage=normalize_advantage,
        discounted_objective=False,
    )["table"]
    for row, scale in enumerate(scales):
        expected = found[0] if normalize_advantage else found[0] * scale
        torch.testing.assert_close(found[row], expected, rtol=1e-6, atol=1e-9)


def test_one_episode_alone_has_no_others_to_leave_in() -> None:
    """With one copy, leave_one_out subtracts nothing, and the batch mean subtracts everything."""
    mdp = ENDS_AT_DIFFERENT_TIMES
    policy = make_policy("tabular_softmax", mdp)
    outcomes = [(episode,) for episode in mdp.episodes()]
    parameters = {name: part[[0] * len(outcomes)] for name, part in random_parameters(policy, 1).items()}
    none, leave_one_out, batch_mean = (
        estimates(
            mdp,
            outcomes,
            policy,
            parameters,
            BASELINE_OVERRIDES[baseline],
            [SETTINGS[0]] * len(outcomes),
            normalize_advantage=False,
            discounted_objective=True,
        )["table"]
        for baseline in ("none", "leave_one_out", "batch_mean")
    )
    assert none.abs().max() > 0.1
    assert torch.equal(leave_one_out, none)
    torch.testing.assert_close(batch_mean, torch.zeros_like(none), **TOLERANCE)


def test_the_list_of_episodes_is_complete() -> None:
    """What all expectations above rest on, against episodes counted by hand."""
    assert len(NEVER_TERMINATES.episodes()) == len(set(NEVER_TERMINATES.episodes())) == 2 * 2**3
    by_hand = {0: [2, 3, 3, 3, 3, 3, 3], 2: [1, 3, 3, 3, 3]}
    assert len(set(ENDS_AT_DIFFERENT_TIMES.episodes())) == len(ENDS_AT_DIFFERENT_TIMES.episodes()) == 12
    for start, lengths in by_hand.items():
        found = [len(episode.steps) for episode in ENDS_AT_DIFFERENT_TIMES.episodes() if episode.start == start]
        assert sorted(found) == lengths
