"""Fixed rollouts: what is played, what goes on over the cuts, and what is saved of it."""

import csv
import json
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from golden import options
from small_mdp import SmallMDP, completed
from test_resume import StopsAt, outcome
from test_runs_are_independent import ALGORITHMS
from torch import Generator, Tensor

from pg_experiments import ConfigError, compose, load_policy, train
from pg_experiments.batch import Batch
from pg_experiments.config import Config
from pg_experiments.envs.cartpole import CartPole
from pg_experiments.envs.interface import DiscreteActions
from pg_experiments.envs.restarting import restarted, tensors_of
from pg_experiments.fixed_rollout import FixedRollout
from pg_experiments.replaying import Replay
from pg_experiments.rollout import Episodes, Trajectory
from pg_experiments.runs import build, stack
from pg_experiments.training import Interrupted

TYPE_CHECKS = False  # see conftest.py

SEED = 71
SMALL = ("policy.hidden_sizes=[8]", "baseline.hidden_sizes=[8]", "evaluation.episodes=3", "logging.progress=none")
KINDS = {  # native, not native, and with every kind of wrapper around
    "cartpole": ("policy=softmax", "env=cartpole", "env.max_episode_steps=23"),
    "pendulum": ("policy=gaussian", "env=pendulum", "env.max_episode_steps=17"),
    "slippery": ("policy=softmax", "env=frozen_lake", "env.max_episode_steps=15"),
    "gymnasium": (
        "policy=softmax",
        "env=gymnasium",
        "env.id=CartPole-v1",
        "env.max_episode_steps=25",
        "env.backend=sync",
    ),
    "processes": (
        "policy=softmax",
        "env=gymnasium",
        "env.id=CartPole-v1",
        "env.max_episode_steps=25",
        "env.backend=async",
    ),
    "envpool": (
        "policy=softmax",
        "env=gymnasium",
        "env.id=CartPole-v1",
        "env.max_episode_steps=25",
        "env.backend=envpool",
    ),
    "envpool_lander": ("policy=softmax", "env=lunar_lander", "env.backend=envpool", "env.max_episode_steps=25"),
    "gymnasium_box": ("policy=gaussian", "env=gymnasium", "env.id=Pendulum-v1", "env.max_episode_steps=21"),
    "wrapped": (
        "policy=softmax",
        "env=cartpole",
        "env.wrappers=[{repeat_action:{times:2}},time_awareness,{stack_frames:{frames:2}},"
        "normalize_observation,normalize_return]",
    ),
    "wrapped_gymnasium": (
        "policy=softmax",
        "env=gymnasium",
        "env.id=CartPole-v1",
        "env.wrappers=[{stack_frames:{frames:2}},time_awareness,{repeat_action:{times:3}},normalize_return]",
    ),
    "limited": ("policy=softmax", "env=cartpole", "env.step_seconds=60"),
    "limited_envpool": ("policy=softmax", "env=cartpole", "env.backend=envpool", "env.step_seconds=60"),
    "bioreactor": ("policy=gaussian", "env=bioreactor", "env.max_episode_steps=17"),
    "images": (
        "policy=softmax",
        "env=gymnasium",
        "env.id=image_envs:Catch-v0",
        "policy.network=cnn",
        "baseline.network=cnn",
    ),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
VALUE_FUNCTIONS = ("value_network", "shared_value")
every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)


@cache
def base(kind: str, algorithm: str, *overrides: str) -> Config:
    own = (*ALGORITHMS[algorithm], "algorithm.rollout_steps=10", "env.num_envs=3", "total_env_steps=300")
    return compose(*KINDS[kind], *SMALL, *own, *overrides)


def configs(kind: str, algorithm: str, runs: int, *overrides: str) -> list[Config]:
    return [replace(base(kind, algorithm, *overrides), seed=SEED + run) for run in range(runs)]


def rollouts(kind: str, count: int, steps: int = 40) -> tuple[Any, list[tuple[Episodes, Trajectory]]]:
    """Several rollouts of two runs, one after the other."""
    parts = build(stack(configs(kind, "actor_critic", 2)))
    rollout = FixedRollout(parts.policy, parts.env, 3, steps, torch.float32)
    parameters = parts.policy.init([Generator().manual_seed(run) for run in range(2)], torch.float32)
    generators = {run: Generator().manual_seed(SEED + run) for run in range(2)}
    found = []
    for _ in range(count):
        rollout.begin([0, 1], parameters, generators)
        while not rollout.enough:
            rollout.play()
        found.append(rollout.take()[1:])
    return parts.env, found


# --- what is played ---------------------------------------------------------------------------------------------------


@every_kind
def test_observations_follow_each_other_and_episodes_end_where_the_flags_are(kind: str):
    env, found = rollouts(kind, 3)
    joined = [torch.cat(parts, 1) for parts in zip(*(trajectory for _, trajectory in found), strict=True)]
    observation, _, reward, terminated, truncated, running, next_observation = joined
    assert running.all()
    assert not (terminated & truncated).any()
    over = terminated | truncated
    goes_on = ~over[:, :-1]
    assert torch.equal(next_observation[:, :-1][goes_on], observation[:, 1:][goes_on])
    limit, episodes = env.spec.max_episode_steps, torch.cat([one.finished.view(2, -1, 3) for one, _ in found], 1)
    returns = torch.cat([one.episode_return.view(2, -1, 3) for one, _ in found], 1)
    lengths = torch.cat([one.length.view(2, -1, 3) for one, _ in found], 1)
    assert torch.equal(episodes, over)
    count = 0
    for run in range(2):
        for copy in range(3):
            total, length = 0.0, 0
            for step in range(over.shape[1]):
                total, length = total + float(reward[run, step, copy]), length + 1
                assert length < limit or over[run, step, copy]
                assert not truncated[run, step, copy] or length == limit
                if over[run, step, copy]:
                    assert returns[run, step, copy] == pytest.approx(total, rel=1e-6)
                    assert lengths[run, step, copy] == length
                    total, length, count = 0.0, 0, count + 1
    assert count > 2, "nothing to compare"


def test_episodes_of_rollouts_are_those_of_one_long_one():
    """The cut of a rollout changes nothing about what is played, as long as noise comes in the same chunks."""
    long, parts = rollouts("cartpole", 1, 96)[1][0], rollouts("cartpole", 3, 32)[1]
    for name in Trajectory._fields:
        assert torch.equal(torch.cat([getattr(one, name) for _, one in parts], 1), getattr(long[1], name))
    assert torch.equal(torch.cat([one.episode_return for one, _ in parts], 1), long[0].episode_return)
    assert torch.equal(
        torch.cat([one.length for one, _ in parts], 1)[long[0].finished], long[0].length[long[0].finished]
    )


class BothFlags(SmallMDP):
    """Truncates in every step."""

    def step(self, state: Tensor, action: Tensor, running: Tensor) -> Any:
        after = super().step(state, action, running)
        return after._replace(truncated=torch.ones_like(after.truncated))


def test_termination_wins_and_the_environments_own_truncation_counts():
    config = replace(base("cartpole", "actor_critic"), env={"_target_": f"{__name__}.BothFlags", "num_envs": 5})
    batch = Batch([completed(config)])
    seen: list[Trajectory] = []
    learn = batch._learn
    batch._learn = lambda runs, episodes, trajectory: (seen.append(trajectory), learn(runs, episodes, trajectory))[1]
    batch.iterate()
    (trajectory,) = seen
    assert trajectory.terminated.any()
    assert torch.equal(trajectory.truncated, ~trajectory.terminated)


@every_kind
def test_a_restart_begins_episodes_where_they_are_over_and_nowhere_else(kind: str):
    env = build(stack(configs(kind, "actor_critic", 2))).env
    noise = torch.rand(2, 3, env.spec.reset_noise_size, generator=Generator().manual_seed(SEED))
    state, before = env.reset(noise)
    over = torch.tensor([[True, False, False], [False, True, True]])
    fresh = torch.rand(noise.shape, generator=Generator().manual_seed(SEED + 1))
    _, expected = env.reset(fresh)
    state, observation = restarted(env, state, over, fresh)
    assert torch.equal(observation[over], expected[over])
    observation = torch.where(over[..., None], observation, before)
    action = (
        torch.zeros(2, 3, dtype=torch.long) if isinstance(env.spec.actions, DiscreteActions) else torch.ones(2, 3, 1)
    )
    after = env.step(state, action, torch.ones(2, 3, dtype=torch.bool))
    together = torch.where(over[..., None], fresh, noise)
    again = env.step(env.reset(together)[0], action, torch.ones(2, 3, dtype=torch.bool))
    assert torch.equal(after.observation, again.observation)
    assert torch.equal(after.reward, again.reward)


# --- what is saved ----------------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("iteration", [1, 4])
def test_an_interrupted_run_goes_on_in_the_middle_of_its_episodes(kind: str, iteration: int, tmp_path):
    own = configs(kind, "actor_critic", 2, "checkpoint.resume=true")
    train(own, [tmp_path / "whole0", tmp_path / "whole1"])
    dirs = [tmp_path / "0", tmp_path / "1"]
    with pytest.raises(Interrupted):
        train(own, dirs, StopsAt(iteration))
    train(own, dirs)
    assert [outcome(folder) for folder in dirs] == [outcome(tmp_path / "whole0"), outcome(tmp_path / "whole1")]


@every_algorithm
def test_runs_that_stopped_at_different_iterations_go_on_in_one_batch(algorithm: str, tmp_path):
    own = configs("cartpole", algorithm, 3, "checkpoint.resume=true")
    expected = [result.parameters_sha256 for result in train(own)]
    dirs = [tmp_path / str(run) for run in range(3)]
    for runs, iteration in (([2], 6), ([0], 3)):
        with pytest.raises(Interrupted):
            train([own[run] for run in runs], [dirs[run] for run in runs], StopsAt(iteration))
    assert [result.parameters_sha256 for result in train(own, dirs)] == expected


@pytest.mark.parametrize("env", ["cartpole", "pendulum"])
def test_what_is_played_again_are_the_actions_since_each_episode_began(env: str):
    """Against a list of actions per copy, that is emptied where an episode ends; any copies end at any time."""
    generator, runs, envs, steps = Generator().manual_seed(SEED), 2, 3, 7
    made = build(
        stack([compose(f"env={env}", "policy=auto", "env.max_episode_steps=30", f"seed={run}") for run in (0, 1)])
    ).env
    replay = Replay(made, torch.rand(runs, envs, made.spec.reset_noise_size, generator=generator))
    expected: dict[tuple[int, int], list[Tensor]] = {(run, copy): [] for run in range(runs) for copy in range(envs)}
    for rollout in range(4):
        actions = torch.rand(runs, envs, steps, *replay.actions.shape[3:], generator=generator)
        actions = (10 * actions).to(replay.actions.dtype)
        over = torch.rand(runs, envs, steps, generator=generator) < (0.0 if rollout == 1 else 0.3)
        played = torch.tensor([[len(expected[run, copy]) for copy in range(envs)] for run in range(runs)])
        begun = torch.zeros(runs, envs, dtype=torch.long)
        for (run, copy), kept in expected.items():
            for step in range(steps):
                kept.append(actions[run, copy, step])
                if over[run, copy, step]:
                    kept.clear()
                    begun[run, copy] = step + 1
        replay.note(actions, begun, played)
        for (run, copy), kept in expected.items():
            assert torch.equal(replay.actions[run, copy, : len(kept)], torch.stack([*kept, actions[0, 0, 0]])[:-1])


def test_a_gymnasium_environment_is_brought_back_by_its_actions_and_nothing_else_is_saved_of_it():
    batch = Batch(configs("gymnasium", "actor_critic", 2))
    for _ in range(4):
        batch.iterate()
    state = batch.state()
    again = Batch(configs("gymnasium", "actor_critic", 2), state)
    assert torch.equal(again._rollout._observation, batch._rollout._observation)
    assert all(isinstance(part, Tensor) for part in state["rollout"].values())
    lengths = state["rollout"]["length"]
    assert (lengths > 0).any(), "nothing was in progress"


def test_a_checkpoint_of_a_run_in_progress_is_read_without_trust(tmp_path):
    with pytest.raises(Interrupted):
        train(configs("wrapped", "actor_critic", 1), [tmp_path], StopsAt(3))
    assert load_policy(tmp_path)(torch.zeros(1, 10)).shape == (1,)


def test_a_checkpoint_of_many_copies_with_large_observations_is_read(tmp_path):
    """It holds what each copy shows, here ten times as much as all parameters."""
    rows = ["S" + 39 * "F", *38 * [40 * "F"], 39 * "F" + "G"]
    large = ("policy=tabular_softmax", "env=frozen_lake", f"env.map=[{','.join(rows)}]", "env.num_envs=512")
    small = ("algorithm.rollout_steps=1", "baseline.hidden_sizes=[4]", "total_env_steps=1", "logging.progress=none")
    config = compose("algorithm=actor_critic", *large, *small, "evaluation.episodes=1")
    (result,) = train([config], [tmp_path])
    assert result.status == "completed"
    observation = torch.eye(1600)
    assert torch.equal(load_policy(tmp_path)(observation), result.policy(observation))


# --- what is written --------------------------------------------------------------------------------------------------


def test_an_iteration_in_which_no_episode_finished_leaves_the_cells_of_episodes_empty(tmp_path):
    (config,) = configs("pendulum", "actor_critic", 1)
    (result,) = train([config], [tmp_path])
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    # 10 steps an iteration, and episodes of 17: they end in the 2nd, 4th, 6th, 7th and 9th
    finished = [bool(row["episode/return_mean"]) for row in rows]
    assert finished == [(17 * (10 * (place + 1) // 17)) > 10 * place for place in range(len(rows))]
    assert all(row["loss/policy"] for row in rows)
    assert all(bool(row["episode/length_mean"]) is there for row, there in zip(rows, finished, strict=True))
    assert result.episodes == 3 * (result.env_steps // 3 // 17)
    assert json.loads((tmp_path / "result.json").read_text())["episodes"] == result.episodes


# --- what is refused --------------------------------------------------------------------------------------------------


@every_algorithm
@pytest.mark.parametrize("baseline", [name for name in options("baseline") if name not in VALUE_FUNCTIONS])
def test_a_baseline_without_a_value_of_the_state_is_refused_with_the_fitting_one(algorithm: str, baseline: str):
    config = compose("policy=softmax", "env=cartpole", f"algorithm={algorithm}", f"baseline={baseline}")
    with pytest.raises(ConfigError, match=f"baseline={baseline}: .*{algorithm} continues .*; fitting: value_network"):
        build(stack([config]))


@every_algorithm
def test_an_algorithm_alone_chooses_fitting_defaults(algorithm: str):
    config = compose("policy=softmax", "env=cartpole", f"algorithm={algorithm}", "total_env_steps=1", *SMALL)
    (result,) = train([config])
    assert result.status == "completed", result.error


class Opaque(CartPole):
    """Keeps its state as something that is no tensor, and cannot begin single episodes."""

    def reset(self, noise: Tensor) -> Any:
        state, observation = super().reset(noise)
        return {"cart": tuple(state), "name": "cart"}, observation

    def select(self, state: Any, rows: Tensor) -> Any:
        return {"cart": tuple(part[rows] for part in state["cart"]), "name": "cart"}


def test_an_environment_that_cannot_begin_single_episodes_is_refused_with_what_it_needs():
    config = replace(base("cartpole", "actor_critic"), env={"_target_": f"{__name__}.Opaque", "num_envs": 5})
    with pytest.raises(ConfigError, match=r"algorithm: .* Opaque can restart only all of them: .* a method restart"):
        Batch([completed(config)])


def test_a_state_is_taken_apart_and_put_together_again():
    state = {"a": torch.zeros(2, 3), "b": (torch.ones(2, 3, 1), [torch.zeros(2, 3)])}
    assert len(tensors_of(state)) == 3
