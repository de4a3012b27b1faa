"""The list `env.wrappers`: what each does, against plain loops, Gymnasium and numpy; and that runs stay runs."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from test_resume import StopsAt
from torch import Tensor

from pg_experiments import ConfigError, checkpoint, compose, load_policy, train
from pg_experiments.batch import Batch
from pg_experiments.config import Config
from pg_experiments.envs.cartpole import CartPole
from pg_experiments.envs.gymnasium_adapter import GymnasiumEnv
from pg_experiments.envs.interface import Transition
from pg_experiments.envs.pendulum import Pendulum
from pg_experiments.packing import Packing
from pg_experiments.reports.settings import _text
from pg_experiments.rollout import play_episodes
from pg_experiments.runs import build, stack
from pg_experiments.training import Interrupted
from pg_experiments.wrapper_config import (
    WRAPPERS,
    ClipRewardConfig,
    NormalizeReturnConfig,
    ScaleRewardConfig,
    read_wrappers,
)
from pg_experiments.wrappers.normalize_observation import NormalizedPolicy, statistics_of
from pg_experiments.wrappers.repeat_action import RepeatAction
from pg_experiments.wrappers.rewards import learned_reward
from pg_experiments.wrappers.stack_frames import StackFrames
from pg_experiments.wrappers.statistics import RunningStatistics
from pg_experiments.wrappers.time_awareness import TimeAwareness

SEED = 51
LISTS = {  # every wrapper, with other options than its defaults
    "repeat_action": "[{repeat_action:{times:3}}]",
    "stack_frames": "[{stack_frames:{frames:3}}]",
    "time_awareness": "[time_awareness]",
    "scale_reward": "[{scale_reward:{factor:0.5}}]",
    "clip_reward": "[{clip_reward:{low:-2,high:-0.5}}]",
    "normalize_return": "[{normalize_return:{limit:3}}]",
    "normalize_observation": "[{normalize_observation:{limit:2}}]",
    "own": "[{_target_:test_wrappers.Mirrored,sign:-1}]",
    "all": "[{repeat_action:{times:3}},time_awareness,{stack_frames:{frames:2}},{clip_reward:{low:-9,high:9}},"
    "normalize_observation,normalize_return]",
}
every_list = pytest.mark.parametrize("name", LISTS)


class Mirrored:
    """A wrapper as a user may write one: a mirror image of the environment."""

    def __init__(self, inner, sign: float) -> None:
        self.inner, self.spec, self.sign = inner, inner.spec, sign
        self.select, self.join = inner.select, inner.join

    def reset(self, noise: Tensor):
        state, observation = self.inner.reset(noise)
        return state, self.sign * observation

    def step(self, state, action: Tensor, running: Tensor) -> Transition:
        after = self.inner.step(state, self.sign * action, running)
        return after._replace(observation=self.sign * after.observation)


def configs(name: str, runs: int, *overrides: str) -> list[Config]:
    return [
        compose(
            "policy=gaussian",
            "env=pendulum",
            f"env.wrappers={LISTS[name]}",
            "policy.hidden_sizes=[8]",
            "baseline.hidden_sizes=[8]",
            "env.num_envs=3",
            "env.max_episode_steps=70",
            "total_env_steps=900",
            "evaluation.episodes=4",
            "logging.progress=none",
            f"seed={SEED + run}",
            *overrides,
        )
        for run in range(runs)
    ]


def unwrapped(config: Config) -> Config:
    """The same config without its wrappers."""
    return replace(config, env=replace(config.env, wrappers=[]))


def generator(seed: int = SEED) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_wrapper_is_tested():
    assert set(LISTS) - {"own", "all"} == set(WRAPPERS)


# --- of the environment -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("inner", "times"), [(Pendulum(max_episode_steps=20), 3), (CartPole(max_episode_steps=50), 4)])
def test_a_repeated_action_is_the_same_action_played_several_times(inner, times):
    env = RepeatAction(inner, times)
    random = generator()
    noise = torch.rand(2, 5, env.spec.reset_noise_size, generator=random, dtype=torch.float64)
    state, observation = env.reset(noise)
    inner_state, expected = inner.reset(noise)
    assert torch.equal(observation, expected)
    limit = inner.spec.max_episode_steps
    assert env.spec.max_episode_steps == -(-limit // times)
    ended = torch.zeros(2, 5, dtype=torch.bool)
    last, played = expected.clone(), 0
    for _ in range(env.spec.max_episode_steps):
        if isinstance(inner, Pendulum):
            action = 4 * torch.rand(2, 5, 1, generator=random, dtype=torch.float64) - 2
        else:
            action = torch.randint(0, 2, (2, 5), generator=random)
        before = ended.clone()
        after = env.step(state, action, ~before)
        state = after.state
        reward, terminated = torch.zeros(2, 5, dtype=torch.float64), torch.zeros(2, 5, dtype=torch.bool)
        for _ in range(times):
            if played < limit:
                one = inner.step(inner_state, action, ~ended)
                inner_state, played = one.state, played + 1
                for run, copy in (~ended).nonzero().tolist():
                    reward[run, copy] += one.reward[run, copy]
                    terminated[run, copy] = one.terminated[run, copy]
                    last[run, copy] = one.observation[run, copy]
                ended = ended | terminated
        assert torch.equal(after.reward[~before], reward[~before])
        assert torch.equal(after.terminated[~before], terminated[~before])
        assert torch.equal(after.observation[~before], last[~before])
    assert played == limit
    assert bool(ended.any()) is isinstance(inner, CartPole)


@pytest.mark.parametrize(
    ("native", "wrapper"),
    [
        (lambda env: StackFrames(env, 3), lambda env: gymnasium.wrappers.FrameStackObservation(env, 3)),
        (TimeAwareness, lambda env: gymnasium.wrappers.TimeAwareObservation(env, normalize_time=True)),
    ],
)
def test_stacked_frames_and_time_are_gymnasiums(native, wrapper):
    env = native(GymnasiumEnv("CartPole-v1", {}, 40))
    twin = wrapper(gymnasium.make("CartPole-v1", max_episode_steps=40))
    noise = torch.tensor([[[0.3, 0.7]]])
    state, observation = env.reset(noise)
    expected, _ = twin.reset(seed=int(0.3 * 2**16) * 2**15 + int(0.7 * 2**15))
    for step in range(12):
        np.testing.assert_allclose(observation[0, 0].numpy(), np.asarray(expected).ravel(), rtol=1e-6)
        after = env.step(state, torch.tensor([[step % 2]]), torch.ones(1, 1, dtype=torch.bool))
        state, observation = after.state, after.observation
        expected, _, terminated, _, _ = twin.step(step % 2)
        assert not terminated


def test_rows_of_a_wrappers_state_can_leave_and_join():
    env = StackFrames(RepeatAction(TimeAwareness(Pendulum(max_episode_steps=30)), 2), 2)
    noise = torch.rand(3, 2, env.spec.reset_noise_size, generator=generator(), dtype=torch.float64)
    action, running = torch.full((3, 2, 1), 0.7, dtype=torch.float64), torch.ones(3, 2, dtype=torch.bool)
    state, _ = env.reset(noise)
    expected = env.step(env.step(state, action, running).state, action, running).observation
    rows = torch.tensor([2, 0])
    state = env.select(env.step(env.reset(noise)[0], action, running).state, rows)
    other = env.select(env.step(env.reset(noise)[0], action, running).state, torch.tensor([1]))
    seen = env.step(env.join([state, other]), action, running).observation
    assert torch.equal(seen, expected[torch.tensor([2, 0, 1])])


# --- of learning ------------------------------------------------------------------------------------------------------


def test_running_statistics_are_those_of_all_samples_at_once():
    random = generator()
    statistics = RunningStatistics.none_yet(2, 3)
    assert torch.equal(statistics.spread, torch.ones(2, 3, dtype=torch.float64))
    seen: list[list[Tensor]] = [[], []]
    for steps in (40, 3, 77):
        running = torch.rand(2, steps, 9, generator=random) < 0.8
        grid = 100 + 0.01 * torch.randn(2, steps, 9, 3, generator=random, dtype=torch.float64)
        packing = Packing.of(running, torch.float64)
        statistics = statistics.with_samples(packing.pack(grid), packing)
        for run in range(2):
            seen[run].append(grid[run][running[run]])
    for run in range(2):
        samples = torch.cat(seen[run]).numpy()
        np.testing.assert_allclose(statistics.mean[run].numpy(), samples.mean(0), rtol=1e-13)
        np.testing.assert_allclose(statistics.spread[run].numpy() ** 2 - 1e-8, samples.var(0), rtol=1e-9)
        assert statistics.samples[run] == len(samples)


def test_rewards_are_scaled_clipped_and_divided_by_the_returns_spread_of_the_iterations_before():
    random = generator()
    gamma = torch.tensor([0.9, 0.5], dtype=torch.float64)
    wrappers = [ScaleRewardConfig(2.0), ClipRewardConfig(-3.0, 1.5), NormalizeReturnConfig(1.2)]
    statistics: RunningStatistics | None = RunningStatistics.none_yet(2, 1)
    sums: list[list[float]] = [[], []]
    for _ in range(3):
        lengths = torch.randint(1, 9, (2, 1, 4), generator=random)
        running = torch.arange(8)[None, :, None] < lengths
        reward = torch.where(running, torch.randn(2, 8, 4, generator=random, dtype=torch.float64), 0.0)
        found, statistics, _ = learned_reward(wrappers, reward, running, gamma, statistics)
        for run in range(2):
            spread = np.sqrt(np.var(sums[run]) + 1e-8) if sums[run] else 1.0
            for copy in range(4):
                so_far = 0.0
                for step in range(8):
                    if step >= lengths[run, 0, copy]:
                        assert found[run, step, copy] == 0
                        continue
                    changed = min(max(2 * float(reward[run, step, copy]), -3.0), 1.5)
                    so_far = float(gamma[run]) * so_far + changed
                    sums[run].append(so_far)
                    expected = min(max(changed / spread, -1.2), 1.2)
                    assert float(found[run, step, copy]) == pytest.approx(expected, rel=1e-7)


def test_a_scaled_reward_is_the_environments_own_scale():
    (scaled,), (own,) = configs("scale_reward", 1, "env.reward_scale=1"), configs("own", 1, "env.reward_scale=0.5")
    own = unwrapped(own)
    assert train([scaled])[0].parameters_sha256 == train([own])[0].parameters_sha256


def test_the_normalised_policy_is_the_inner_one_at_normalised_observations():
    (config,) = configs("normalize_observation", 1, "dtype=float64")
    parts = build(stack([config]))
    policy = parts.policy
    assert isinstance(policy, NormalizedPolicy)
    parameters = policy.init([generator()], torch.float64)
    observation = 5 * torch.randn(1, 6, 3, generator=generator(), dtype=torch.float64) + 1
    first = policy(parameters, observation).mode()
    assert torch.equal(first, parts.trained_policy(parameters, observation.clamp(-2, 2)).mode())
    parameters["observation_statistics.samples"] += 4
    parameters["observation_statistics.mean"] += torch.tensor([1.0, -2.0, 3.0])
    parameters["observation_statistics.square_deviation"] += torch.tensor([4.0, 16.0, 36.0])
    by_hand = (observation - torch.tensor([1.0, -2.0, 3.0])) / torch.tensor([1.0, 4.0, 9.0]).double().sqrt()
    expected = parts.trained_policy(parameters, by_hand.clamp(-2, 2)).mode()
    torch.testing.assert_close(policy(parameters, observation).mode(), expected, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(policy.actor(parameters)(observation).mode(), expected, rtol=1e-7, atol=1e-9)


def test_statistics_are_of_what_was_seen_saved_with_the_policy_and_frozen_in_evaluation(tmp_path):
    (config,) = configs("normalize_observation", 1)
    batch = Batch([config])
    parts, seen = batch.parts, []
    while batch.iterations[0] < 2:
        before = {name: value.clone() for name, value in batch.state()["policy"]["parameters"].items()}
        random = torch.Generator()
        random.set_state(batch.state()["generator"][0].clone())
        _, trajectory = play_episodes(parts.policy, before, parts.env, [random], 3, torch.float32)
        seen.append(trajectory.observation[trajectory.running].double())
        batch.iterate()
    samples = torch.cat(seen).numpy()
    kept = statistics_of(batch.state()["policy"]["parameters"], "observation_statistics.")
    assert kept.samples.item() == len(samples)
    np.testing.assert_allclose(kept.mean[0].numpy(), samples.mean(0), rtol=1e-12)
    np.testing.assert_allclose(kept.spread[0].numpy(), np.sqrt(samples.var(0) + 1e-8), rtol=1e-12)
    (result,) = train([config], [tmp_path / "run"])
    saved = checkpoint.load(tmp_path / "run")["policy"]["parameters"]
    loaded = load_policy(tmp_path / "run")
    observation = torch.randn(7, 3, generator=generator())
    assert torch.equal(loaded(observation), result.policy(observation))
    for name, value in statistics_of(saved, "observation_statistics.")._asdict().items():
        assert torch.equal(loaded.get_buffer(f"observation_statistics_{name}"), value)
        assert value.dtype is torch.float64


@pytest.mark.parametrize("name", ["scale_reward", "clip_reward", "normalize_return"])
def test_reported_returns_are_the_environments(name):
    own, plain = configs(name, 1), [unwrapped(each) for each in configs(name, 1)]
    (_, changed), (_, unchanged) = Batch(own).iterate(), Batch(plain).iterate()
    assert torch.equal(changed.episodes.episode_return, unchanged.episodes.episode_return)
    assert (changed.metrics["loss/policy"] != unchanged.metrics["loss/policy"]).all() or name == "normalize_return"


# --- runs stay runs ---------------------------------------------------------------------------------------------------


@every_list
def test_a_run_in_a_batch_is_the_run_alone(name):
    together = train(configs(name, 3))
    assert [result.status for result in together] == ["completed"] * 3
    for run in (0, 2):
        (alone,) = train([configs(name, 3)[run]])
        assert alone.parameters_sha256 == together[run].parameters_sha256
        assert alone.evaluation == together[run].evaluation


@pytest.mark.parametrize("name", ["own", "all"])
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(name, tmp_path):
    own = configs(name, 2, "checkpoint.resume=true")
    expected = [(result.parameters_sha256, result.evaluation) for result in train(own)]
    dirs = [tmp_path / "0", tmp_path / "1"]
    with pytest.raises(Interrupted):
        train(own, dirs, StopsAt(2))
    assert [(result.parameters_sha256, result.evaluation) for result in train(own, dirs)] == expected


# --- what cannot be used ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("normalize_observation", "env.wrappers=normalize_observation: must be a list"),
        (
            ["stack_frame"],
            r"env.wrappers\[0\]=stack_frame: must be one of .*Did you mean 'stack_frames'?",
        ),
        ([["stack_frames"]], r"env.wrappers\[0\]=\['stack_frames'\]: must be a name"),
        ([{"a": 1, "b": 2}], r"env.wrappers\[0\]=.*: must be a name"),
        ([{"stack_frames": {"frame": 2}}], r"env.wrappers\[0\].stack_frames.frame: .* Did you mean 'frames'?"),
        ([{"time_awareness": {"x": 2}}], r"env.wrappers\[0\].time_awareness.x: .* it has no options"),
        ([{"stack_frames": 2}], r"env.wrappers\[0\].stack_frames=2: must be a mapping of frames"),
        ([{"stack_frames": {"frames": 2.5}}], r"stack_frames.frames=2.5: must be a whole number"),
        ([{"stack_frames": {"frames": True}}], r"stack_frames.frames=True: must be a whole number"),
        ([{"repeat_action": {"times": 1}}], r"repeat_action.times=1: must be from 2 to 1000"),
        ([{"clip_reward": {"low": "a"}}], r"clip_reward.low=a: must be a number"),
        ([{"clip_reward": {"low": 1}}], r"clip_reward.low=1: must be below high, which is 1.0"),
        ([{"normalize_return": {"limit": 0}}], r"normalize_return.limit=0: must be above 0"),
        (["normalize_observation", "normalize_observation"], "normalize_observation: can be listed only once"),
        (["clip_reward", "stack_frames"], r"env.wrappers\[1\]=stack_frames: .* goes before clip_reward"),
    ],
)
def test_a_list_that_cannot_be_used_says_why(value, message):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        read_wrappers(value)


@pytest.mark.parametrize(
    ("wrappers", "message"),
    [
        (
            "[{_target_:test_wrappers.Mirored,sign:1}]",
            r"env.wrappers\[0\]._target_=test_wrappers.Mirored: .* 'Mirrored'",
        ),
        ("[{_target_:test_wrappers.Mirrored}]", r"env.wrappers\[0\]=test_wrappers.Mirrored: TypeError: .*sign"),
        (
            "[{_target_:gymnasium.wrappers.FlattenObservation}]",
            r"env.wrappers\[0\]=gymnasium\S+: AttributeError: .*; Gymnasium's wrappers go around a Gymnasium env",
        ),
        ("[{_target_:test_wrappers.configs,name:all}]", r"env.wrappers\[0\]"),
    ],
)
def test_an_own_wrapper_that_cannot_be_made_says_why(wrappers, message):
    with pytest.raises(ConfigError, match=message):
        build(stack([compose("env=pendulum", "policy=gaussian", f"env.wrappers={wrappers}")]))


def test_a_table_cannot_have_normalised_states():
    with pytest.raises(ConfigError, match="policy=tabular_softmax: needs discrete actions and finitely many states"):
        build(stack([compose("env=frozen_lake", "policy=tabular_softmax", "env.wrappers=[normalize_observation]")]))


def test_an_own_wrapper_in_somebody_elses_folder_is_not_run(tmp_path):
    train(configs("own", 1), [tmp_path / "run"])
    with pytest.raises(ConfigError, match=r"env.wrappers._target_=test_wrappers.Mirrored: is none of this package's"):
        load_policy(tmp_path / "run")
    assert load_policy(tmp_path / "run", trust="test_wrappers")


def test_a_report_shows_a_list_as_it_is_typed():
    given = [{"clip_reward": {"low": -1, "high": 0.5}}, "normalize_observation"]
    assert _text("env.wrappers", given) == "[{clip_reward:{low:-1,high:0.5}},normalize_observation]"
