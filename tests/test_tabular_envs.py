"""The finite environments: their tables and steps against Gymnasium's, and the exact return that the tables give."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.toy_text.frozen_lake import MAPS
from test_exact_gradient import RecordingLearner, ScriptedPolicy
from torch import Generator, Tensor

from pg_experiments import compose
from pg_experiments.algorithms.reinforce import Reinforce
from pg_experiments.baselines.none import NoBaseline
from pg_experiments.envs.interface import DiscreteActions
from pg_experiments.envs.tabular import CliffWalking, FrozenLake
from pg_experiments.errors import ConfigError
from pg_experiments.optimizer_settings import OptimizerSettings
from pg_experiments.rollout import play_episodes
from pg_experiments.runs import make

SEED = 33
LARGE = tuple(MAPS["8x8"])
TWO_STARTS = ("SFS", "HFG")
PAIRS = {  # native, and Gymnasium's
    "lake": (FrozenLake(), {"id": "FrozenLake-v1"}),
    "firm lake": (FrozenLake(is_slippery=False), {"id": "FrozenLake-v1", "is_slippery": False}),
    "large lake": (FrozenLake(LARGE, max_episode_steps=200), {"id": "FrozenLake8x8-v1"}),
    "two starts": (FrozenLake(TWO_STARTS), {"id": "FrozenLake-v1", "desc": list(TWO_STARTS)}),
    "cliff": (CliffWalking(), {"id": "CliffWalking-v1"}),
    "slippery cliff": (CliffWalking(is_slippery=True), {"id": "CliffWalking-v1", "is_slippery": True}),
}
every_env = pytest.mark.parametrize("name", PAIRS)


def pair(name: str) -> tuple[Any, Any]:
    """The native environment, and Gymnasium's, unwrapped."""
    native, arguments = PAIRS[name]
    return native, gymnasium.make(**arguments).unwrapped


def is_played(twin: Any, state: int) -> bool:
    """Whether an episode can be going on there: it is no goal or hole, and not over the edge of the cliff."""
    if hasattr(twin, "desc"):
        return bytes(twin.desc.reshape(-1)[state]) in b"SF"
    return state <= twin.start_state_index


class Prepared:
    """Stands in for an environment's random generator: its next uniform number is handed in."""

    def __init__(self, number: float) -> None:
        self.number = number

    def random(self) -> float:
        return self.number


@every_env
def test_the_table_holds_what_gymnasiums_holds(name: str) -> None:
    native, twin = pair(name)
    assert native.table.start.tolist() == pytest.approx(twin.initial_state_distrib.tolist(), abs=1e-15)
    for state in filter(lambda state: is_played(twin, state), range(native.spec.num_states)):
        for action in range(native.spec.actions.count):
            of = (state, action)
            own = list(zip(*(part[of].tolist() for part in native.table[:4]), strict=True))
            theirs = [
                (float(p), int(following), float(reward), bool(ended))
                for p, following, reward, ended in twin.P[state][action]
            ]
            assert [one[1:] for one in own] == [one[1:] for one in theirs], of
            assert [one[0] for one in own] == pytest.approx([one[0] for one in theirs], abs=1e-15), of


@every_env
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_a_step_equals_gymnasiums_from_the_same_uniform_number(name: str, dtype: torch.dtype) -> None:
    native, twin = pair(name)
    generator = Generator().manual_seed(SEED)
    places = torch.tensor([state for state in range(native.spec.num_states) if is_played(twin, state)])
    shape = (3, 401)
    place = places[torch.randint(0, len(places), shape, generator=generator)]
    action = torch.randint(0, 4, shape, generator=generator)
    noise = torch.rand(*shape, native.spec.reset_noise_size - 1, generator=generator, dtype=dtype)
    steps = torch.randint(0, max(1, noise.shape[-1]), shape, generator=generator)
    after = native.step((place, noise, steps), action, torch.ones(shape, dtype=torch.bool))
    assert torch.equal(after.observation, torch.eye(native.spec.num_states, dtype=dtype)[after.state[0]])
    assert after.reward.dtype == dtype
    assert not after.truncated.any()
    for index in np.ndindex(*shape):
        twin.s = int(place[index])
        numbers = noise[index]
        twin.np_random = Prepared(float(numbers[steps[index]]) if len(numbers) else 0.5)
        following, reward, terminated, _, _ = twin.step(int(action[index]))
        found = (after.state[0][index].item(), after.reward[index].item(), after.terminated[index].item())
        assert found == (following, reward, terminated), index


@every_env
def test_an_episode_starts_where_gymnasiums_does_and_uses_each_number_once(name: str) -> None:
    native, twin = pair(name)
    noise = torch.rand(
        2, 50, native.spec.reset_noise_size, generator=Generator().manual_seed(SEED), dtype=torch.float64
    )
    noise[0, 0, 0], noise[1, 1, 0] = 0.0, 1 - 2**-53
    state, observation = native.reset(noise)
    assert torch.equal(observation.argmax(-1), state[0])
    for index in np.ndindex(2, 50):
        theirs = int(np.argmax(np.cumsum(twin.initial_state_distrib) > float(noise[index][0])))
        assert state[0][index].item() == theirs
    action = torch.zeros(2, 50, dtype=torch.long)
    for step in range(3):
        after = native.step(state, action, torch.ones(2, 50, dtype=torch.bool))
        if state[1].shape[-1]:
            changed = state[1].clone()
            changed[..., step] = (changed[..., step] + 0.5) % 1
            other = native.step((state[0], changed, state[2]), action, torch.ones(2, 50, dtype=torch.bool))
            assert not torch.equal(other.state[0], after.state[0]), "this step's number decides"
        state = after.state


@every_env
def test_a_copy_is_not_changed_by_its_neighbours_and_rows_are_kept_and_joined(name: str) -> None:
    native, _ = pair(name)
    generator = Generator().manual_seed(SEED)
    noise = torch.rand(3, 5, native.spec.reset_noise_size, generator=generator)
    actions = torch.randint(0, 4, (20, 3, 5), generator=generator)

    def play(rows: list[int]) -> list[Tensor]:
        state, observation = native.reset(noise[rows])
        seen = [observation]
        for action in actions:
            after = native.step(state, action[rows], torch.ones(len(rows), 5, dtype=torch.bool))
            state = after.state
            seen += [after.observation, after.reward, after.terminated]
        return seen

    together = play([0, 1, 2])
    for rows in ([0], [2], [2, 0]):
        assert all(torch.equal(own, every[rows]) for own, every in zip(play(rows), together, strict=True))
    state, _ = native.reset(noise)
    halves = [native.select(state, torch.tensor(rows)) for rows in ([1, 2], [0])]
    assert all(torch.equal(one, part[[1, 2, 0]]) for one, part in zip(native.join(halves), state, strict=True))


@every_env
def test_spaces_and_limits_are_those_of_gymnasium(name: str) -> None:
    native, twin = pair(name)
    spec = native.spec
    assert isinstance(spec.actions, DiscreteActions)
    assert (spec.actions.count, spec.num_states) == (twin.action_space.n, twin.observation_space.n)
    assert spec.observation_size == spec.num_states
    limit = gymnasium.spec(PAIRS[name][1]["id"]).max_episode_steps
    assert limit in (native.max_episode_steps, None)


# --- the exact return -------------------------------------------------------------------------------------------------


def random_policy(native: Any, leaf: Tensor | None = None) -> Tensor:
    states, actions = native.table.probability.shape[:2]
    logits = torch.randn(states, actions, generator=Generator().manual_seed(SEED), dtype=torch.float64)
    return (logits if leaf is None else leaf).softmax(-1)


@every_env
def test_the_expected_return_is_that_of_gymnasiums_table(name: str) -> None:
    native, twin = pair(name)
    policy, gamma = random_policy(native), 0.9
    value = [0.0] * native.spec.num_states
    for _ in range(native.max_episode_steps):
        value = [
            sum(
                policy[state, action].item() * p * (reward + gamma * (0.0 if ended else value[following]))
                for action in range(4)
                for p, following, reward, ended in twin.P[state][action]
            )
            if is_played(twin, state)
            else 0.0
            for state in range(native.spec.num_states)
        ]
    expected = sum(p * v for p, v in zip(twin.initial_state_distrib, value, strict=True))
    assert native.expected_return(policy, gamma).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["lake", "two starts", "slippery cliff"])
def test_played_episodes_have_the_expected_return(name: str) -> None:
    """20,000 episodes; 4 standard errors: one failure in 16,000 seeds, and the seed is fixed."""
    native, _ = pair(name)
    policy, generator, episodes = random_policy(native), Generator().manual_seed(SEED), 20_000
    noise = torch.rand(1, episodes, native.spec.reset_noise_size, generator=generator, dtype=torch.float64)
    state, _ = native.reset(noise)
    running = torch.ones(1, episodes, dtype=torch.bool)
    returns = torch.zeros(1, episodes, dtype=torch.float64)
    for _ in range(native.max_episode_steps):
        action = torch.multinomial(policy[state[0][0]], 1, generator=generator).T
        after = native.step(state, action, running)
        returns += torch.where(running, after.reward, 0.0)
        state, running = after.state, running & ~after.terminated
    error = returns.std().item() / math.sqrt(episodes)
    assert abs(returns.mean().item() - native.expected_return(policy, 1.0).item()) < 4 * error


@pytest.mark.parametrize("native", [FrozenLake(TWO_STARTS, max_episode_steps=4), CliffWalking(max_episode_steps=3)])
def test_autograd_of_the_expected_return_is_its_numerical_gradient(native: Any) -> None:
    states, actions = native.table.probability.shape[:2]
    leaf = torch.randn(states, actions, generator=Generator().manual_seed(SEED), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda leaf: native.expected_return(random_policy(native, leaf), 0.8), (leaf,))


@pytest.mark.parametrize("rows", [["SF", "G"], ["SX", "FG"], ["FF", "FG"], ["SF", "FF"], ["", ""]], ids=str)
def test_a_map_that_is_none_is_refused(rows: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"env\.map=.* must be rows of equal length"):
        FrozenLake(rows)


# --- REINFORCE against the exact gradient -----------------------------------------------------------------------------

TINY_LAKES = {  # few enough episodes to list all of them
    "slippery": FrozenLake(("SF", "FG"), is_slippery=True, max_episode_steps=2),
    "firm, with a hole": FrozenLake(("SF", "HG"), is_slippery=False, max_episode_steps=3),
    "two starts": FrozenLake(("SG", "HS"), is_slippery=True, max_episode_steps=2),
}


class Chance(NamedTuple):
    """A way to play one episode: the number for its start, and per step the action and the number for the outcome."""

    probability: float
    noise: tuple[float, ...]
    actions: tuple[int, ...]


def every_episode(env: FrozenLake, policy: Tensor) -> list[Chance]:
    """All of them with their probabilities under the policy [states, actions], from the table."""
    table = env.table

    def middle(weights: Tensor, chosen: int) -> float:
        """A uniform number that stands for the outcome."""
        return float(weights[:chosen].sum() + weights[chosen] / 2)

    unfinished = [
        (float(p), (middle(table.start, state),), (), state) for state, p in enumerate(table.start.tolist()) if p
    ]
    found: list[Chance] = []
    while unfinished:
        probability, noise, actions, state = unfinished.pop()
        for action in range(4):
            for outcome, p in enumerate(table.probability[state, action].tolist()):
                if not p:
                    continue
                chance = probability * policy[state, action].item() * p
                played = (*noise, middle(table.probability[state, action], outcome)), (*actions, action)
                if table.terminated[state, action, outcome] or len(played[1]) == env.max_episode_steps:
                    found.append(Chance(chance, *played))
                else:
                    unfinished.append((chance, *played, int(table.following[state, action, outcome])))
    return found


@dataclass(frozen=True)
class ScriptedLake(FrozenLake):
    """Its resets are written down: noise [runs, envs, noise]."""

    noise: Tensor | None = None

    def reset(self, noise: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        assert self.noise is not None
        return super().reset(self.noise)


@pytest.mark.parametrize("lake", TINY_LAKES)
@pytest.mark.parametrize("gamma", [0.7, 1.0])
@pytest.mark.parametrize("reward_to_go", [True, False])
def test_reinforce_averaged_over_every_episode_is_the_gradient_of_the_tables_exact_return(
    lake: str, gamma: float, reward_to_go: bool
) -> None:
    """With the package's own rollout, returns and gradient; autograd of `expected_return` is the other side."""
    env = TINY_LAKES[lake]
    policy = make("policy", compose("policy=tabular_softmax", "env=frozen_lake").policy, {}, spec=env.spec)
    logits = torch.randn(env.spec.num_states, 4, generator=Generator().manual_seed(SEED), dtype=torch.float64)
    episodes = every_episode(env, logits.softmax(-1))
    assert sum(one.probability for one in episodes) == pytest.approx(1, rel=1e-12)
    rows, steps = len(episodes), env.max_episode_steps
    noise = torch.full((rows, 1, env.spec.reset_noise_size), 0.5, dtype=torch.float64)
    actions = torch.zeros(rows, steps, 1, dtype=torch.long)
    for row, one in enumerate(episodes):
        size = min(len(one.noise), noise.shape[-1])  # firm ice has a number for the start only
        noise[row, 0, :size] = torch.tensor(one.noise[:size])
        actions[row, : len(one.actions), 0] = torch.tensor(one.actions)
    generators = [Generator() for _ in episodes]
    scripted = ScriptedPolicy(policy, actions, {id(generator): row for row, generator in enumerate(generators)})
    parameters = {"table": logits.expand(rows, -1, -1).clone()}
    played = ScriptedLake(env.map, env.is_slippery, env.max_episode_steps, noise)
    outcomes, trajectory = play_episodes(scripted, parameters, played, generators, 1, torch.float64)
    assert trajectory is not None
    assert trajectory.running.sum((1, 2)).tolist() == [len(one.actions) for one in episodes]
    zero = torch.zeros(rows, dtype=torch.float64)
    learner = RecordingLearner(OptimizerSettings(torch.optim.SGD, {}, zero, "constant", zero + torch.inf), parameters)
    algorithm = Reinforce(zero + gamma, zero + 1, zero, "constant", False, True, reward_to_go)
    algorithm.learn(scripted, learner, NoBaseline(), None, outcomes, trajectory, zero)
    chance = torch.tensor([one.probability for one in episodes], dtype=torch.float64)
    found = -torch.tensordot(chance, learner.gradients["table"], 1)
    leaf = logits.clone().requires_grad_()
    (expected,) = torch.autograd.grad(env.expected_return(leaf.softmax(-1), gamma), leaf)
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
