"""The episodes that EnvPool's copies begin one after the other, without one copy for all of them or for each."""

from pathlib import Path
from typing import Any

import envpool
import pytest
import torch
from torch import Generator, Tensor

from pg_experiments import compose, load_policy, train
from pg_experiments.batch import Batch
from pg_experiments.env_config import GYMNASIUM_TASKS
from pg_experiments.envs import envpool_env
from pg_experiments.envs.envpool_copies import DRAWING_IN_RESETS
from pg_experiments.envs.envpool_env import EnvPoolEnv
from pg_experiments.envs.interface import BoxActions, DiscreteActions
from pg_experiments.envs.seeds import EPISODES, episodes_of, following_noise, following_seeds, noise_of, seeds_of


def test_every_seed_is_followed_by_another_one_and_the_noise_of_it_says_the_same() -> None:
    """Full period: the increment is odd, and the factor 1 more than a multiple of 4 (Knuth, theorem A for 2³¹)."""
    zero, one = following_seeds(torch.tensor([0, 1])).tolist()
    assert zero % 2 == 1
    assert (one - zero) % 4 == 1
    seeds = torch.randint(2**31, (5, 7), generator=Generator().manual_seed(71))
    for dtype in (torch.float32, torch.float64):
        noise = noise_of(seeds, dtype)
        assert torch.equal(seeds_of(noise), seeds)
        assert ((noise >= 0) & (noise < 1)).all()
        assert torch.equal(seeds_of(following_noise(noise, 1)), following_seeds(seeds))
        for episode in range(1, EPISODES):
            noise = following_noise(noise, EPISODES)
            assert torch.equal(seeds_of(noise), seeds)
            assert (episodes_of(noise) == episode).all()
        noise = following_noise(noise, EPISODES)
        assert torch.equal(noise, noise_of(following_seeds(seeds), dtype))


@pytest.mark.parametrize("id", sorted(DRAWING_IN_RESETS & set(envpool.list_all_envs())))
def test_where_resets_alone_draw_an_episode_begins_the_same_whatever_was_played_before_it(id: str) -> None:
    """Two copies of one seed, of which one plays to the end of its episode or 60 steps; and one of another seed."""
    env, generator = EnvPoolEnv(id, {}, None), Generator().manual_seed(5)
    noise = noise_of(torch.tensor([[5, 5, 6]]), torch.float32)
    state, first = env.reset(noise)
    for _ in range(3):
        before, running = first, torch.tensor([[True, False, False]])
        for _ in range(60):
            after = env.step(state, random_action(env, generator), running)
            state, running = after.state, running & ~after.terminated & ~after.truncated
        noise = env.following_noise(noise)
        state, first = env.restart(state, torch.ones(1, 3, dtype=torch.bool), noise)
        assert len(state.pools) == 1
        assert torch.equal(first[0, 0], first[0, 1])
        assert not torch.equal(first[0, 0], first[0, 2])
        assert not torch.equal(first, before)


def random_action(env: EnvPoolEnv, generator: Generator) -> Tensor:
    """Of three copies, uniform within the bounds."""
    spec = env.spec.actions
    if isinstance(spec, DiscreteActions):
        return torch.randint(spec.count, (1, 3), generator=generator)
    assert isinstance(spec, BoxActions)
    low, high = torch.tensor(spec.low), torch.tensor(spec.high)
    return low + (high - low) * torch.rand(1, 3, len(spec.low), generator=generator)


def test_of_the_environments_that_have_a_group_all_but_the_landers_draw_in_resets_alone() -> None:
    others = {GYMNASIUM_TASKS[name] for name in GYMNASIUM_TASKS} - DRAWING_IN_RESETS
    assert others == {"LunarLander-v3", "LunarLanderContinuous-v3"}


@pytest.mark.parametrize(("id", "ahead"), [*(("LunarLander-v3", ahead) for ahead in (1, 2, 4)), ("CartPole-v1", 1)])
def test_copies_begin_the_episodes_that_their_noise_says(id: str, ahead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any copies are over at any time, some of them with noise that does not follow; each plays as from a reset."""
    monkeypatch.setattr(envpool_env, "MOST_AHEAD", ahead)
    monkeypatch.setattr(envpool_env, "EPISODES", 5)  # of a seed: many are used up
    env, runs, envs, generator = EnvPoolEnv(id, {}, None), 3, 4, Generator().manual_seed(71)
    noise = torch.rand(runs, envs, 2, generator=generator)
    state, _ = env.reset(noise)
    most = 0
    for turn in range(40):
        over = torch.rand(runs, envs, generator=generator) < 0.4
        fresh = env.following_noise(noise)
        if turn % 5 == 4:
            fresh[0, 0] = torch.rand(2, generator=generator)
        state, observation = env.restart(state, over, fresh)
        noise = torch.where(over[..., None], fresh, noise)
        most = max(most, len(state.pools))
        if turn % 7 == 6:
            rows = torch.tensor([1, 0, 2])
            state, noise, over, observation = env.select(state, rows), noise[rows], over[rows], observation[rows]
            state = env.join([env.select(state, torch.tensor([0])), env.select(state, torch.tensor([1, 2]))])
        expected_state, expected = env.reset(noise)
        assert torch.equal(observation[over], expected[over])
        if turn % 4 == 3:  # all begin again, and their first steps are those from a reset
            noise = env.following_noise(noise)
            state, _ = env.restart(state, torch.ones(runs, envs, dtype=torch.bool), noise)
            expected_state, _ = env.reset(noise)
            for _ in range(3):
                action = torch.randint(2, (runs, envs), generator=generator)
                running = torch.ones(runs, envs, dtype=torch.bool)
                after, alike = env.step(state, action, running), env.step(expected_state, action, running)
                assert torch.equal(after.observation, alike.observation)
                state = after.state
    assert most < runs * envs, "there are as many pools as copies"


@pytest.mark.parametrize("algorithm", ["reinforce", "actor_critic"])
def test_in_training_a_pool_is_made_once_where_resets_alone_draw(
    algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three runs, whose episodes end at different times, and for each its final evaluation: another pool."""
    copies: list[int] = []
    begun = EnvPoolEnv._begun

    def counted(env: EnvPoolEnv, seeds: Any, episodes: Any) -> Any:
        copies.append(len(seeds))
        return begun(env, seeds, episodes)

    monkeypatch.setattr(EnvPoolEnv, "_begun", counted)
    settings = ("policy=softmax", "env=cartpole", "env.backend=envpool", "env.num_envs=3", "total_env_steps=600")
    settings += (
        f"algorithm={algorithm}",
        "baseline.hidden_sizes=[8]",
        "evaluation.episodes=5",
        "logging.progress=none",
    )
    results = train([compose(*settings, f"seed={seed}") for seed in range(3)])
    assert min(result.iterations for result in results) > 4
    assert copies.count(9) == 1
    assert sum(copies) <= 9 + 15 + 1  # the one is that whose state shows whether it consists of tensors


def test_whole_episodes_are_the_same_whether_the_copies_are_kept_or_made_again() -> None:
    settings = ("policy=softmax", "env=cartpole", "env.backend=envpool", "env.num_envs=3", "baseline=none")
    configs = [compose(*settings)]  # each of several runs is in an iteration of its own
    kept = Batch(configs)
    for _ in range(6):
        again = Batch(configs, kept.state())
        runs, iteration = kept.iterate()
        others, other = again.iterate()
        assert runs == others
        assert iteration.env_steps == other.env_steps
        for mine, its in zip(iteration.episodes, other.episodes, strict=True):
            assert torch.equal(mine, its)


@pytest.mark.parametrize("env", [("env=cartpole", "env.backend=envpool"), ("env=frozen_lake",)])
def test_the_policy_of_a_run_with_many_copies_is_read_though_its_checkpoint_holds_their_episodes(
    env: tuple[str, ...], tmp_path: Path
) -> None:
    settings = ("policy=softmax", "algorithm=actor_critic", "algorithm.rollout_steps=2", "total_env_steps=4")
    settings += ("policy.hidden_sizes=[8]", "baseline.hidden_sizes=[8]", "evaluation.episodes=1")
    (result,) = train([compose(*env, *settings, "env.num_envs=1024", "logging.progress=none")], [tmp_path])
    assert result.status == "completed"
    load_policy(tmp_path)
