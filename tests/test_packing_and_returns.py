"""Rollouts, returns, and the packing of ragged episodes into blocks, against plain Python loops."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from small_mdp import ENDS_AT_DIFFERENT_TIMES
from torch import Generator, Tensor

from pg_experiments.envs.cartpole import CartPole
from pg_experiments.envs.interface import BoxActions, DiscreteActions, EnvSpec, Transition
from pg_experiments.envs.navigation import Navigation
from pg_experiments.gradients import gradients, network_gradients, policy_gradients
from pg_experiments.metrics import explained_variance
from pg_experiments.packing import BLOCK_SIZES, SAMPLES_AT_ONCE, Packing, Pass, block_sizes
from pg_experiments.policies.distributions import Distribution
from pg_experiments.policies.gaussian import Gaussian
from pg_experiments.policies.interface import Policy
from pg_experiments.policies.networks import ACTIVATIONS, MLP
from pg_experiments.policies.softmax import Softmax, TabularSoftmax
from pg_experiments.returns import rewards_to_go
from pg_experiments.rollout import CHUNK, WINDOW, Episodes, Rollout, Trajectory, play_episodes

SEED = 61
COUNTS = [1, 63, 64, 65, 511, 512, 513, 700, 4500]
ENVS = 7


def random_numbers(*shape: int, dtype: torch.dtype = torch.float64, seed: int = SEED) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed), dtype=dtype)


def ragged(counts: list[int], envs: int = ENVS) -> Tensor:
    """Which steps were played, [runs, steps, envs]: random lengths that add up to `counts`."""
    generator = Generator().manual_seed(SEED)
    lengths = torch.zeros(len(counts), envs, dtype=torch.long)
    for run, count in enumerate(counts):
        for copy in torch.multinomial(torch.rand(envs, generator=generator), count, True, generator=generator).tolist():
            lengths[run, copy] += 1
    return torch.arange(int(lengths.max()) + 2)[:, None] < lengths[:, None, :]


def played(running: Tensor, run: int) -> list[tuple[int, int]]:
    """The (step, copy) of every sample of a run, in the order of the grid."""
    return [(step, copy) for step, row in enumerate(running[run].tolist()) for copy, on in enumerate(row) if on]


# --- returns ----------------------------------------------------------------------------------------------------------


def test_rewards_to_go_equal_a_plain_loop() -> None:
    runs, steps, envs = 4, 9, 5
    reward = random_numbers(runs, steps, envs)
    reward[1, 4:, 2], reward[2, 1:, 0] = 0.0, 0.0  # episodes that are over
    gamma = torch.tensor([0.0, 0.9, 1.0, 0.37], dtype=torch.float64)
    found = rewards_to_go(reward, gamma)
    for run in range(runs):
        for step in range(steps):
            for copy in range(envs):
                later = [reward[run, k, copy].item() * gamma[run].item() ** (k - step) for k in range(step, steps)]
                assert found[run, step, copy].item() == pytest.approx(sum(later), abs=1e-13)
    assert not found[1, 4:, 2].any()
    assert not found[2, 1:, 0].any()


def test_rewards_to_go_are_the_same_for_a_longer_grid() -> None:
    """Steps after the end, which only a neighbour makes necessary, change no bit."""
    reward = random_numbers(2, 30, 3, dtype=torch.float32)
    gamma = torch.tensor([0.99, 0.5], dtype=torch.float64)
    longer = torch.cat([reward, torch.zeros(2, 77, 3)], 1)
    assert torch.equal(rewards_to_go(longer, gamma)[:, :30], rewards_to_go(reward, gamma))


# --- packing ----------------------------------------------------------------------------------------------------------


def samples_of(packing: Packing, run: int) -> Tensor:
    """Where a run's samples lie, in the order of its blocks, without what fills up."""
    return ((packing.run == run) & packing.weight.bool()).nonzero()[:, 0]


def test_packing_holds_every_played_step_once_and_in_order() -> None:
    running = ragged(COUNTS)
    packing = Packing.of(running, torch.float64)
    assert packing.counts == COUNTS
    assert (
        len(packing.index)
        == len(packing.run)
        == len(packing.weight)
        == sum(sum(block_sizes(count)) for count in COUNTS)
    )
    for run, count in enumerate(COUNTS):
        own = samples_of(packing, run)
        assert len(own) == count
        steps, envs = running.shape[1:]
        assert packing.index[own].tolist() == [
            (run * steps + step) * envs + copy for step, copy in played(running, run)
        ]
        assert packing.step[own].tolist() == [step for step, _ in played(running, run)]
    assert packing.weight.sum() == sum(COUNTS)
    assert torch.equal(packing.index // running[0].numel(), packing.run), "what fills up is of the run itself"


@pytest.mark.parametrize("rest", [(), (3,)], ids=["numbers", "vectors"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.int64], ids=["float64", "int64"])
def test_pack_takes_the_entries_of_the_played_steps(rest: tuple[int, ...], dtype: torch.dtype) -> None:
    running = ragged(COUNTS)
    grid = (random_numbers(*running.shape, *rest) * 1000).to(dtype)
    packing = Packing.of(running, torch.float64)
    packed = packing.pack(grid)
    assert packed.shape == (len(packing.index), *rest)
    for run in range(len(COUNTS)):
        expected = torch.stack([grid[run, step, copy] for step, copy in played(running, run)])
        assert torch.equal(packed[samples_of(packing, run)], expected)


def test_spread_gives_every_sample_the_number_of_its_run() -> None:
    packing = Packing.of(ragged(COUNTS), torch.float64)
    numbers = random_numbers(len(COUNTS))
    for run, number in enumerate(numbers.tolist()):
        assert set(packing.spread(numbers)[samples_of(packing, run)].tolist()) == {number}


def test_passes_cover_every_sample_once_and_split_a_run_by_its_own_number_of_samples() -> None:
    packing = Packing.of(ragged(COUNTS), torch.float64)
    own: dict[int, list[int]] = {run: [] for run in range(len(COUNTS))}
    end = 0
    for blocks in packing.passes:
        assert blocks.samples.start == end
        end = blocks.samples.stop
        size = (blocks.samples.stop - blocks.samples.start) // len(blocks.rows)
        assert len(blocks.rows) * size <= SAMPLES_AT_ONCE
        assert torch.equal(blocks.of(packing.run), blocks.rows[:, None].expand(-1, size))
        for run in blocks.rows.tolist():
            own[run].append(size)
    assert end == len(packing.index)
    assert [own[run] for run in range(len(COUNTS))] == [block_sizes(count) for count in COUNTS]


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (1, [64]),
        (63, [64]),
        (64, [64]),
        (65, [64, 64]),
        (128, [128]),
        (129, [128, 64]),
        (511, [128, 128, 128, 64, 64]),
        (512, [512]),
        (513, [512, 64]),
        (700, [512, 128, 64]),
        (4500, [512] * 8 + [128, 128, 128, 64]),
    ],
)
def test_block_sizes_are_as_many_large_ones_as_the_samples_fill(count: int, sizes: list[int]) -> None:
    assert BLOCK_SIZES == (512, 128, 64)
    assert block_sizes(count) == sizes


def test_sum_mean_and_variance_equal_plain_loops() -> None:
    running = ragged(COUNTS)
    packing = Packing.of(running, torch.float64)
    grid = random_numbers(*running.shape) + 3
    packed = packing.pack(grid)
    packed[packing.weight == 0] = 1e9  # what fills up the last block must not count
    for run, count in enumerate(COUNTS):
        values = [grid[run, step, copy].item() for step, copy in played(running, run)]
        mean = sum(values) / count
        variance = sum((value - mean) ** 2 for value in values) / count
        assert packing.sum(packed)[run].item() == pytest.approx(sum(values), rel=1e-12)
        assert packing.mean(packed)[run].item() == pytest.approx(mean, rel=1e-12)
        assert packing.variance(packed)[run].item() == pytest.approx(variance, rel=1e-12, abs=1e-15)


def test_explained_variance_is_one_for_the_returns_and_zero_for_a_constant() -> None:
    counts = [5, 70, 2100]
    packing = Packing.of(ragged(counts), torch.float64)
    returns = random_numbers(len(packing.index))
    ones = torch.ones(3, dtype=torch.float64)
    torch.testing.assert_close(explained_variance(returns, returns, packing), ones)
    torch.testing.assert_close(explained_variance(torch.full_like(returns, 7.0), returns, packing), 0 * ones)
    torch.testing.assert_close(explained_variance(-returns, returns, packing), -3 * ones)
    assert not explained_variance(returns, torch.full_like(returns, 2.0), packing).any(), "constant returns"


@pytest.mark.parametrize("counts", [[1], [63, 64, 65], COUNTS], ids=str)
def test_gradients_over_blocks_equal_plain_autograd(counts: list[int]) -> None:
    running = ragged(counts)
    packing = Packing.of(running, torch.float64)
    grid = random_numbers(*running.shape, 3)
    x = packing.pack(grid)
    parameters = {"a": random_numbers(len(counts), 3, 2, seed=1), "b": random_numbers(len(counts), 2, seed=2)}
    unused = {"unused": random_numbers(len(counts), 4, seed=3)}

    def loss(leaves: dict[str, Tensor], blocks: Pass) -> Tensor:
        y = torch.tanh(blocks.of(x) @ leaves["a"] + leaves["b"][:, None]).square().sum(-1)
        return (y * blocks.of(packing.weight)).sum(1)

    found = gradients(parameters | unused, packing, loss)
    assert not any(part.requires_grad for part in [*parameters.values(), *found.values()])
    assert not found["unused"].any()
    for run in range(len(counts)):
        own = {name: part[run].clone().requires_grad_() for name, part in parameters.items()}
        seen = torch.stack([grid[run, step, copy] for step, copy in played(running, run)])
        plain = torch.tanh(seen @ own["a"] + own["b"]).square().sum((0, 1))
        for name, expected in zip(own, torch.autograd.grad(plain, list(own.values())), strict=True):
            torch.testing.assert_close(found[name][run], expected, rtol=1e-11, atol=1e-11)


PLAIN = {"relu": torch.relu, "tanh": torch.tanh, "elu": torch.nn.functional.elu, "sigmoid": torch.sigmoid}


def test_every_activation_has_a_plain_one_to_be_compared_with() -> None:
    assert set(PLAIN) == set(ACTIVATIONS)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden_sizes", [(), (5, 3), (20, 64)])
@pytest.mark.parametrize("outputs", [1, 3, 17])
def test_gradients_without_a_graph_are_those_of_torch_through_a_plain_network(
    activation: str, hidden_sizes: tuple[int, ...], outputs: int
) -> None:
    counts = [1, 65, 700]
    running = ragged(counts)
    packing = Packing.of(running, torch.float64)
    network = MLP(3, hidden_sizes, outputs, activation, 1.0)
    parameters = network.init([Generator().manual_seed(run) for run in range(len(counts))], torch.float64)
    x = random_numbers(*running.shape, 3)
    slopes = random_numbers(*running.shape, outputs, seed=SEED + 1)  # the loss is their product with the output
    packed = packing.pack(slopes) * packing.weight[:, None]
    found = network_gradients(network, parameters, packing, packing.pack(x), lambda _output, blocks: blocks.of(packed))
    for run in range(len(counts)):
        own = {name: parameter[run].clone().requires_grad_() for name, parameter in parameters.items()}
        value = x[run][running[run]]
        for layer in range(len(hidden_sizes)):
            value = PLAIN[activation](value @ own[f"layer{layer}.weight"] + own[f"layer{layer}.bias"])
        last = f"layer{len(hidden_sizes)}"
        output = value @ own[f"{last}.weight"] + own[f"{last}.bias"]
        expected = torch.autograd.grad((output * slopes[run][running[run]]).sum(), list(own.values()))
        for name, gradient in zip(own, expected, strict=True):
            torch.testing.assert_close(found[name][run], gradient, rtol=1e-11, atol=1e-11)


def make_policy(kind: str) -> Policy:
    small: dict[str, Any] = {"hidden_sizes": (5,), "activation": "tanh"}
    if kind == "softmax":
        return Softmax(EnvSpec(3, DiscreteActions(4), 10, 1), **small)
    if kind == "tabular_softmax":
        return TabularSoftmax(EnvSpec(3, DiscreteActions(4), 10, 1))
    spec = EnvSpec(3, BoxActions((-1.0, -2.0), (1.0, 2.0)), 10, 1)
    std = torch.tensor([0.5, 1.0, 2.0])
    return Gaussian(spec, **small, state_dependent_std=kind == "gaussian, std by the network", initial_std=std)


@pytest.mark.parametrize("kind", ["softmax", "tabular_softmax", "gaussian", "gaussian, std by the network"])
def test_gradients_through_a_policys_output_are_those_through_the_whole_policy(kind: str) -> None:
    counts = [1, 65, 700]
    running = ragged(counts)
    packing = Packing.of(running, torch.float64)
    policy = make_policy(kind)
    generators = [Generator().manual_seed(run) for run in range(len(counts))]
    parameters = policy.init(generators, torch.float64)
    observation = packing.pack(random_numbers(*running.shape, 3))
    noise = policy.draw_noise(generators[0], (1, len(observation)), torch.float64)
    first = {name: parameter[:1] for name, parameter in parameters.items()}
    action = policy(first, observation[None]).sample(noise)[0]
    advantage = random_numbers(len(observation), seed=SEED + 1) * packing.weight

    def loss(distribution: Distribution, blocks: Pass) -> Tensor:
        score = distribution.log_prob(blocks.of(action)) * blocks.of(advantage)
        return (score + 0.1 * distribution.entropy() * blocks.of(packing.weight)).sum(1)

    found = policy_gradients(policy, parameters, packing, observation, loss)
    expected = gradients(
        parameters, packing, lambda leaves, blocks: loss(policy(leaves, blocks.of(observation)), blocks)
    )
    assert found.keys() == parameters.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-12, atol=1e-12)


# --- rollouts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Countdown:
    """An episode terminates, or is truncated by the environment itself, after a number of steps set by its start.

    The reward of a step is its number; after the end it is a million, which nobody may see. `stepped` collects the
    number of runs of every step.
    """

    max_episode_steps: int
    longest: int
    truncates: bool = False
    stepped: list[int] = field(default_factory=list)

    @property
    def spec(self) -> EnvSpec:
        return EnvSpec(2, DiscreteActions(2), self.max_episode_steps, 1)

    def reset(self, noise: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        length = (noise[..., 0] * self.longest).floor() + 1
        state = (torch.zeros_like(length), length)
        return state, torch.stack(state, -1)

    def step(self, state: tuple[Tensor, Tensor], action: Tensor, running: Tensor) -> Transition:
        self.stepped.append(len(action))
        number, length = state[0] + 1, state[1]
        over = number >= length
        never = torch.zeros_like(over)
        reward = torch.where(running, number, 1e6)
        flags = (never, over) if self.truncates else (over, never)
        return Transition((number, length), torch.stack((number, length), -1), reward, *flags)

    def select(self, state: tuple[Tensor, Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
        return state[0][rows], state[1][rows]

    def join(self, states: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        return torch.cat([state[0] for state in states]), torch.cat([state[1] for state in states])


def play(env: Any, policy: Any, runs: int, envs: int, **options: Any) -> tuple[Episodes, Trajectory]:
    parameters = policy.init([Generator().manual_seed(run) for run in range(runs)], torch.float64)
    generators = [Generator().manual_seed(SEED + run) for run in range(runs)]
    episodes, trajectory = play_episodes(policy, parameters, env, generators, envs, torch.float64, **options)
    assert trajectory is not None
    return episodes, trajectory


def countdown(max_episode_steps: int, longest: int, truncates: bool = False) -> tuple[Countdown, Softmax]:
    env = Countdown(max_episode_steps, longest, truncates)
    return env, Softmax(env.spec, (3,), "tanh")


ROLLOUTS = {
    "all terminate": (500, 200, False),
    "all within a chunk": (500, 30, False),
    "some meet the limit": (100, 200, False),
    "the limit is a chunk": (CHUNK, 3 * CHUNK, False),
    "the limit is a step beyond a chunk": (CHUNK + 1, 3 * CHUNK, False),
    "the environment truncates": (150, 180, True),
    "one step": (1, 5, False),
}


@pytest.mark.parametrize("name", ROLLOUTS)
def test_every_copy_plays_exactly_one_whole_episode(name: str) -> None:
    limit, longest, truncates = ROLLOUTS[name]
    runs, envs = 4, 5
    episodes, trajectory = play(*countdown(limit, longest, truncates), runs, envs)
    ends = trajectory.terminated | trajectory.truncated
    for run in range(runs):
        for copy in range(envs):
            wanted = int(trajectory.observation[run, 0, copy, 1])
            length = min(wanted, limit)
            running = trajectory.running[run, :, copy].tolist()
            assert running == [step < length for step in range(len(running))]
            assert episodes.length[run, copy] == length
            assert ends[run, :, copy].nonzero()[:, 0].tolist() == [length - 1]
            assert trajectory.terminated[run, length - 1, copy] == (not truncates and wanted <= limit)
            assert trajectory.truncated[run, length - 1, copy] == (truncates or wanted > limit)
            rewards = trajectory.reward[run, :, copy]
            assert rewards.tolist() == [step + 1 if step < length else 0 for step in range(len(rewards))]
            assert episodes.episode_return[run, copy] == length * (length + 1) / 2
            numbers = trajectory.observation[run, :length, copy, 0]
            assert numbers.tolist() == list(range(length)), "the observation is the one before the step"
    assert len(set(episodes.length.flatten().tolist())) > 5 or limit == 1


def test_an_end_at_the_very_limit_is_a_termination() -> None:
    """Episodes of exactly as many steps as the limit allows: the task ended, nothing cut it off."""

    @dataclass(frozen=True)
    class Exact(Countdown):
        def reset(self, noise: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
            return super().reset(torch.full_like(noise, 0.999))

    env = Exact(70, 70)
    _, trajectory = play(env, Softmax(env.spec, (3,), "tanh"), 3, 2)
    assert trajectory.terminated[:, 69].all()
    assert not trajectory.truncated.any()


def test_a_step_that_ends_the_task_and_the_watching_at_once_is_a_termination() -> None:
    """Gymnasium's time limit may say both; nothing follows a termination, so it is the one that counts."""

    @dataclass(frozen=True)
    class Both(Countdown):
        def step(self, state: tuple[Tensor, Tensor], action: Tensor, running: Tensor) -> Transition:
            after = super().step(state, action, running)
            return after._replace(truncated=after.terminated)

    env = Both(500, 90)
    _, trajectory = play(env, Softmax(env.spec, (3,), "tanh"), 3, 4)
    assert trajectory.terminated.sum(1).eq(1).all()
    assert not trajectory.truncated.any()


def test_runs_whose_episodes_are_over_leave_between_windows() -> None:
    env, policy = countdown(500, 400)
    runs, envs = 6, 2
    episodes, _ = play(env, policy, runs, envs)
    windows = [-(-int(length) // WINDOW) for length in episodes.length.max(1).values]
    assert len(set(windows)) > 2
    for step, stepped in enumerate(env.stepped):
        assert stepped == sum(window > step // WINDOW for window in windows)
    assert len(env.stepped) < max(episodes.length.max(1).values) + WINDOW


def test_runs_that_begin_while_others_play_are_the_runs_alone() -> None:
    """Each begins again as soon as it may, at its own pace; every one of its rollouts equals that of the run alone."""
    env, policy = countdown(300, 400)
    runs, envs, rounds = 5, 3, 9
    parameters = policy.init([Generator().manual_seed(run) for run in range(runs)], torch.float64)
    generators = {run: Generator().manual_seed(SEED + run) for run in range(runs)}
    rollout = Rollout(policy, env, runs, envs, torch.float64)
    found: dict[int, list[tuple[Episodes, Trajectory]]] = {run: [] for run in range(runs)}
    together = 0
    while any(len(own) < rounds for own in found.values()):
        beginning = [run for run in range(runs) if run not in rollout.playing and len(found[run]) < rounds]
        together += bool(rollout.playing and beginning)
        rollout.begin(beginning, {name: part[beginning] for name, part in parameters.items()}, generators)
        while not rollout.enough:
            rollout.play()
        taken, episodes, trajectory = rollout.take()
        assert taken == sorted(taken)
        assert trajectory is not None
        for row, run in enumerate(taken):
            parts = Trajectory(*(None if part is None else part[[row]] for part in trajectory))
            found[run].append((Episodes(*(part[[row]] for part in episodes)), parts))
    assert together > 3, "runs began while others played"
    for run in range(runs):
        generator = Generator().manual_seed(SEED + run)
        own = {name: part[[run]] for name, part in parameters.items()}
        for episodes, trajectory in found[run]:
            expected, alone = play_episodes(policy, own, env, [generator], envs, torch.float64)
            assert alone is not None
            assert all(torch.equal(one, other) for one, other in zip(episodes, expected, strict=True))
            steps = alone.running.shape[1]
            assert not trajectory.running[:, steps:].any()
            assert torch.equal(trajectory.running[:, :steps], alone.running)
            for part, other in zip(trajectory[:-1], alone[:-1], strict=True):  # without next_observation: None
                assert torch.equal(part[:, :steps][alone.running], other[alone.running])
            for part in (trajectory.reward, trajectory.terminated, trajectory.truncated):
                assert not part[~trajectory.running].any()


def test_a_rollout_is_not_changed_by_its_neighbours() -> None:
    env, policy = countdown(300, 400)
    runs, envs = 5, 3
    parameters = policy.init([Generator().manual_seed(run) for run in range(runs)], torch.float64)

    def rollout(rows: list[int]) -> tuple[Episodes, Trajectory]:
        own = {name: part[rows] for name, part in parameters.items()}
        generators = [Generator().manual_seed(SEED + run) for run in rows]
        episodes, trajectory = play_episodes(policy, own, env, generators, envs, torch.float64)
        assert trajectory is not None
        return episodes, trajectory

    episodes, trajectory = rollout(list(range(runs)))
    for rows in ([0], [4], [3, 1]):
        own_episodes, own = rollout(rows)
        assert torch.equal(own_episodes.episode_return, episodes.episode_return[rows])
        steps, running = own.running.shape[1], own.running
        assert torch.equal(running, trajectory.running[rows, :steps])
        assert not trajectory.running[rows, steps:].any()
        for part, all_runs in zip(own[:-1], trajectory[:-1], strict=True):
            assert torch.equal(part[running], all_runs[rows, :steps][running])
        assert own.next_observation is trajectory.next_observation is None


@pytest.mark.parametrize("case", ["cartpole", "navigation", "small_mdp"])
def test_return_is_the_sum_of_the_rewards_of_the_recorded_actions(case: str) -> None:
    """Played again, action by action, in a plain loop over the copies."""
    runs, envs = 3, 5
    env: Any
    policy: Any
    if case == "cartpole":
        env = CartPole(max_episode_steps=33)
        policy = Softmax(env.spec, (5,), "relu")
    elif case == "navigation":
        env = Navigation(max_episode_steps=70)
        policy = Gaussian(env.spec, (5,), "relu", False, torch.full((runs,), 0.5, dtype=torch.float64))
        assert isinstance(env.spec.actions, BoxActions)
    else:
        env = ENDS_AT_DIFFERENT_TIMES
        policy = TabularSoftmax(env.spec)
    episodes, trajectory = play(env, policy, runs, envs)
    for run in range(runs):
        generator = Generator().manual_seed(SEED + run)
        noise = torch.rand(1, envs, env.spec.reset_noise_size, generator=generator, dtype=torch.float64)
        state, observation = env.reset(noise)
        running, total = torch.ones(1, envs, dtype=torch.bool), torch.zeros(envs, dtype=torch.float64)
        for step in range(env.spec.max_episode_steps):
            if not running.any():
                break
            on = running[0]
            torch.testing.assert_close(observation[0][on], trajectory.observation[run, step][on], rtol=1e-13, atol=0)
            after = env.step(state, policy.env_action(trajectory.action[run, [step]]), running)
            total += torch.where(on, after.reward[0], 0.0)
            state, observation, running = after.state, after.observation, running & ~after.terminated
        torch.testing.assert_close(episodes.episode_return[run], total, rtol=1e-12, atol=0)
    recorded = (trajectory.reward * trajectory.running).sum(1)
    torch.testing.assert_close(recorded, episodes.episode_return, rtol=1e-13, atol=0)


def test_evaluation_plays_the_same_starts_without_recording() -> None:
    env = CartPole(max_episode_steps=40)
    policy = Softmax(env.spec, (5,), "relu")
    parameters = policy.init([Generator().manual_seed(run) for run in range(3)], torch.float64)
    outcomes = []
    for record in (True, False):
        generators = [Generator().manual_seed(SEED + run) for run in range(3)]
        episodes, trajectory = play_episodes(
            policy, parameters, env, generators, 7, torch.float64, deterministic=True, record=record
        )
        assert (trajectory is not None) == record
        if trajectory is not None:
            mode = policy(parameters, trajectory.observation.flatten(1, 2)).mode().reshape(trajectory.action.shape)
            assert torch.equal(mode[trajectory.running], trajectory.action[trajectory.running])
        outcomes.append(episodes)
    assert all(torch.equal(one, other) for one, other in zip(*outcomes, strict=True))
