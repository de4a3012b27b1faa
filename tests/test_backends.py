"""`env.backend`: what `auto` takes, what is refused, and that every backend plays the same episodes in any batch."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from backend_probe import RESET
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from torch import Generator, Tensor
from type_checks import without_type_checks

import pg_experiments
from pg_experiments import backend_config, compose, load_policy, train
from pg_experiments.backend_config import DIFFERENT, NATIVE, SAME, automatic, described
from pg_experiments.config import SCHEMAS, Config
from pg_experiments.env_config import BACKENDS, GYMNASIUM_TASKS, GymnasiumConfig
from pg_experiments.envs.envpool_env import EnvPoolEnv
from pg_experiments.envs.gymnasium_adapter import GymnasiumEnv
from pg_experiments.envs.gymnasium_processes import GymnasiumProcesses
from pg_experiments.envs.seeds import seeds_of
from pg_experiments.errors import EnvError, UserError
from pg_experiments.returns import rewards_to_go
from pg_experiments.rollout import play_episodes
from pg_experiments.runs import build, stack
from pg_experiments.saved_config import load_config, write_config

PROBE = "backend_probe:Probe-v0"
SMALL = ("evaluation.episodes=3", "logging.progress=none", "policy.hidden_sizes=[8]", "baseline.hidden_sizes=[8]")
DISCRETE = ("cartpole", "acrobot", "mountain_car", "lunar_lander")
TASKS = {  # of Gymnasium, with limits that keep them small
    option: ("policy=softmax" if option in DISCRETE else "policy=gaussian", f"env={option}", "env.num_envs=2")
    for option in GYMNASIUM_TASKS
}


def configs_of(*overrides: str, runs: int) -> list[Config]:
    """Configs of runs that end at different times."""
    return [
        compose(*overrides, *SMALL, f"seed={1000 + run}", f"total_env_steps={60 + 90 * (run % 2)}")
        for run in range(runs)
    ]


def outcomes(results: Sequence[Any]) -> list[tuple[Any, ...]]:
    return [(one.status, one.error, one.parameters_sha256, one.evaluation, one.env_steps) for one in results]


# --- bit for bit ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_a_run_on_a_task_of_gymnasium_is_not_changed_by_its_neighbour(task: str) -> None:
    configs = configs_of(*TASKS[task], "env.max_episode_steps=12", runs=2)
    assert configs[0].env.backend == "envpool"
    with without_type_checks():
        together = outcomes(train(configs))
        assert [outcomes(train([config]))[0] for config in configs] == together
    assert [status for status, *_ in together] == ["completed"] * 2
    assert len({digest for _, _, digest, *_ in together}) == 2


@pytest.mark.parametrize("backend", ["envpool", "sync", "async"])
@pytest.mark.parametrize(
    "overrides",
    [
        ("policy=softmax", "env=cartpole", "env.num_envs=3"),
        ("policy=gaussian", "env=half_cheetah", "env.num_envs=3", "env.max_episode_steps=11"),
        ("policy=softmax", "env=lunar_lander", "env.num_envs=3", "env.max_episode_steps=70"),
    ],
    ids=lambda overrides: overrides[1],
)
def test_a_batch_of_three_is_each_of_them_alone_with_every_backend(backend: str, overrides: tuple[str, ...]) -> None:
    configs = configs_of(*overrides, f"env.backend={backend}", runs=3)
    with without_type_checks():
        together = outcomes(train(configs))
        assert [outcomes(train([config]))[0] for config in configs] == together
    assert [status for status, *_ in together] == ["completed"] * 3


def test_processes_play_the_episodes_that_one_process_plays() -> None:
    digests = []
    for backend in ("sync", "async"):
        configs = configs_of("policy=softmax", "env=cartpole", "env.num_envs=5", f"env.backend={backend}", runs=2)
        digests.append(outcomes(train(configs)))
    assert digests[0] == digests[1]


def test_every_task_of_gymnasium_is_tested_and_said_to_be_the_same_only_when_it_is() -> None:
    options = {name for name, schema in SCHEMAS["env"].items() if schema is GymnasiumConfig}
    assert options == {*TASKS, "gymnasium"}
    assert {compose(*TASKS[option]).env.id for option in TASKS} == set(GYMNASIUM_TASKS.values())
    assert {*SAME, *DIFFERENT} == {*NATIVE, *GYMNASIUM_TASKS.values()}  # see `test_envpool_is_gymnasium.py`


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("backend", ["envpool", "sync"])
def test_a_native_task_has_the_same_sizes_with_every_backend(name: str, backend: str) -> None:
    option, _ = NATIVE[name]
    policy = "policy=softmax" if option in DISCRETE else "policy=gaussian"
    config = compose(policy, f"env={option}", f"env.backend={backend}")
    own = build(stack([compose(policy, f"env={option}")])).env.spec
    made = build(stack([config])).env.spec
    assert (made.observation_size, made.actions, made.max_episode_steps) == (
        own.observation_size,
        own.actions,
        own.max_episode_steps,
    )


def test_a_state_of_envpool_keeps_its_copies_when_runs_leave_and_join() -> None:
    env = EnvPoolEnv("Pendulum-v1", {}, None)
    generator = Generator().manual_seed(0)
    noise = torch.rand(5, 3, 2, generator=generator, dtype=torch.float64)
    action = torch.rand(5, 3, 1, generator=generator, dtype=torch.float64)
    whole, _ = env.reset(noise)
    every = torch.ones(5, 3, dtype=torch.bool)
    expected = env.step(env.step(whole, action, every).state, action, every).observation

    first, _ = env.reset(noise[[4, 0, 2]])
    first = env.step(first, action[[4, 0, 2]], every[:3]).state
    second, _ = env.reset(noise[[3, 1]])
    second = env.step(second, action[[3, 1]], every[:2]).state
    joined = env.join([env.select(first, torch.tensor([2, 0])), env.select(second, torch.tensor([1]))])
    after = env.step(joined, action[[2, 4, 1]], every[:3])
    assert torch.equal(after.observation, expected[[2, 4, 1]])
    alone = env.select(after.state, torch.tensor([1]))
    assert len(alone.pools) == 1  # that of run 1 is closed


def test_only_the_copies_that_run_are_stepped() -> None:
    env = EnvPoolEnv("Pendulum-v1", {}, None)
    noise = torch.rand(2, 3, 2, generator=Generator().manual_seed(1))
    action = torch.ones(2, 3, 1)
    running = torch.tensor([[True, False, True], [False, True, False]])
    state, _ = env.reset(noise)
    once = env.step(state, action, running)
    assert (once.observation[~running] == 0).all()
    again = env.step(once.state, action, ~running)
    whole = env.step(env.reset(noise)[0], action, torch.ones_like(running)).observation
    assert torch.equal(torch.where(running[..., None], once.observation, again.observation), whole)


# --- ends of episodes -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["sync", "async"])
def probe(request: pytest.FixtureRequest) -> Any:
    return GymnasiumEnv(PROBE, {}, None) if request.param == "sync" else GymnasiumProcesses(PROBE, {}, None, 2)


def played(env: Any, noise: Tensor) -> list[Any]:
    """The transitions of one episode per copy, and which copies ran."""
    state, first = env.reset(noise)
    assert (first[..., 0] == RESET).all()
    running = torch.ones(noise.shape[:2], dtype=torch.bool)
    transitions = []
    while bool(running.any()):
        after = env.step(state, torch.zeros(*noise.shape[:2], 1), running)
        transitions.append((after, running))
        state, running = after.state, running & ~after.terminated & ~after.truncated
    return transitions


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("reference", [SyncVectorEnv, AsyncVectorEnv])
def test_the_last_observation_is_the_one_before_any_reset_in_every_mode_of_gymnasium(
    probe: Any, mode: AutoresetMode, reference: Any
) -> None:
    """Gymnasium's vector environments give it in three ways; what they give is what the backend gives."""
    noise = torch.rand(1, 7, 2, generator=Generator().manual_seed(3))
    seeds = seeds_of(noise)[0].tolist()
    transitions = played(probe, noise)
    vector = reference([lambda: gymnasium.make(PROBE) for _ in seeds], autoreset_mode=mode)
    _, _ = vector.reset(seed=seeds)
    ended = np.zeros(len(seeds), bool)
    for after, running in transitions:
        if mode is AutoresetMode.DISABLED and ended.any():
            vector.reset(options={"reset_mask": ended.copy()})
        observation, reward, terminated, truncated, info = vector.step(np.zeros((len(seeds), 1), np.float32))
        over = terminated | truncated
        if mode is AutoresetMode.SAME_STEP and over.any():
            observation = observation.copy()
            for copy in np.flatnonzero(over):
                observation[copy] = info["final_obs"][copy]
        own = running[0].numpy()
        assert np.array_equal(after.observation[0].numpy()[own], observation[own])
        assert np.array_equal(after.reward[0].numpy()[own], reward[own])
        assert np.array_equal(after.terminated[0].numpy()[own], terminated[own])
        assert np.array_equal(after.truncated[0].numpy()[own], truncated[own])
        ended = over
    vector.close()


def test_ends_are_terminated_or_truncated_as_the_environment_says(probe: Any) -> None:
    transitions = played(probe, torch.rand(3, 5, 2, generator=Generator().manual_seed(4)))
    lengths = transitions[0][0].observation[..., 1]
    assert {3.0, 4.0, 5.0, 6.0} == set(lengths.unique().tolist())
    for step, (after, running) in enumerate(transitions, start=1):
        last = lengths == step
        assert torch.equal(running, lengths >= step)
        assert torch.equal(after.terminated, last & (lengths % 2 == 1))
        assert torch.equal(after.truncated, last & (lengths % 2 == 0))
        assert (after.observation[running][:, 0] == step).all()
        assert torch.equal(after.reward, running.to(after.reward.dtype))


@pytest.mark.parametrize("backend", ["sync", "async"])
@pytest.mark.parametrize("both", [False, True])
def test_the_returns_of_episodes_that_end_themselves_are_exact(backend: str, both: bool) -> None:
    """Reward 1 a step: from step t of k, Gₜ = (1 - γᵏ⁻ᵗ)/(1 - γ). Where both flags are set, it is a termination."""
    config = compose(
        "policy=gaussian", "env=gymnasium", f"env.id={PROBE}", f"env.kwargs.both={both}", f"env.backend={backend}"
    )
    parts = build(stack([config, config]))
    generators = [Generator().manual_seed(run) for run in range(2)]
    parameters = parts.policy.init(generators, torch.float64)
    episodes, trajectory = play_episodes(parts.policy, parameters, parts.env, generators, 6, torch.float64)
    assert trajectory is not None
    lengths = trajectory.observation[:, 1, :, 1]
    assert torch.equal(episodes.length.double(), lengths)
    assert torch.equal(episodes.episode_return, lengths)
    assert not bool((trajectory.terminated & trajectory.truncated).any())
    odd = torch.ones_like(lengths, dtype=torch.bool) if both else lengths % 2 == 1
    assert torch.equal(trajectory.terminated.any(1), odd)
    assert torch.equal(trajectory.truncated.any(1), ~odd)
    gamma = 0.9
    left = (lengths[:, None] - torch.arange(trajectory.reward.shape[1])[:, None]).clamp(min=0)
    returns = rewards_to_go(trajectory.reward, torch.tensor([gamma] * 2, dtype=torch.float64))
    torch.testing.assert_close(returns, (1 - gamma**left) / (1 - gamma), atol=1e-12, rtol=0)


def test_an_episode_that_ends_in_the_step_of_the_limit_is_terminated_in_envpool_too() -> None:
    """EnvPool itself calls every end at its limit truncated."""
    noise = torch.rand(1, 40, 2, generator=Generator().manual_seed(5), dtype=torch.float64)
    lengths = _cartpole_lengths(EnvPoolEnv("CartPole-v1", {}, None), noise)
    limit = int(lengths.median())
    env = EnvPoolEnv("CartPole-v1", {}, limit)
    state, _ = env.reset(noise)
    running = torch.ones(1, 40, dtype=torch.bool)
    for step in range(1, limit + 1):
        after = env.step(state, torch.zeros(1, 40, dtype=torch.long), running)
        assert torch.equal(after.terminated, lengths == step)
        assert not bool(after.truncated.any())  # which the rollout says
        running = running & ~after.terminated


def _cartpole_lengths(env: Any, noise: Tensor) -> Tensor:
    """Steps until the pole has fallen, pushed to the left all the time."""
    state, _ = env.reset(noise)
    running = torch.ones(noise.shape[:2], dtype=torch.bool)
    lengths = torch.zeros(noise.shape[:2], dtype=torch.long)
    while bool(running.any()):
        after = env.step(state, torch.zeros(noise.shape[:2], dtype=torch.long), running)
        lengths += running
        running = running & ~after.terminated
    return lengths


# --- processes --------------------------------------------------------------------------------------------------------


def test_async_really_uses_processes_which_end_with_the_environment() -> None:
    before = set(multiprocessing.active_children())
    env = GymnasiumProcesses("CartPole-v1", {}, None, 2)
    env.reset(torch.rand(1, 3, 2))
    children = set(multiprocessing.active_children()) - before
    assert len(children) == 2
    assert os.getpid() not in {child.pid for child in children}
    del env
    for child in children:
        child.join(10)
        assert child.exitcode == 0


def test_a_process_that_is_killed_fails_the_step_and_the_next_reset_starts_others() -> None:
    env = GymnasiumProcesses("CartPole-v1", {}, None, 2)
    before = set(multiprocessing.active_children())
    noise = torch.rand(1, 3, 2, generator=Generator().manual_seed(0))
    state, first = env.reset(noise)
    child = (set(multiprocessing.active_children()) - before).pop()
    os.kill(child.pid or 0, signal.SIGKILL)
    child.join(10)
    with pytest.raises(EnvError, match=r"^env CartPole-v1: a process of its copies ended during a step$"):
        env.step(state, torch.zeros(1, 3, dtype=torch.long), torch.ones(1, 3, dtype=torch.bool))
    assert torch.equal(env.reset(noise)[1], first)


def test_a_process_that_is_killed_before_a_run_leaves_is_said_as_well() -> None:
    env = GymnasiumProcesses("CartPole-v1", {}, None, 2)
    before = set(multiprocessing.active_children())
    state, _ = env.reset(torch.rand(2, 3, 2))
    child = (set(multiprocessing.active_children()) - before).pop()
    os.kill(child.pid or 0, signal.SIGKILL)
    child.join(10)
    with pytest.raises(EnvError, match=r"^env CartPole-v1: a process of its copies ended during a step$"):
        env.select(state, torch.tensor([0]))


@pytest.mark.parametrize("given", [{}, {"PYTHONSAFEPATH": "1"}])
def test_processes_hide_no_installed_module_behind_one_of_the_working_folder(
    given: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "torch.py").write_text("open('executed', 'w')\nraise ImportError\n")
    program = tmp_path / "elsewhere" / "program.py"
    program.parent.mkdir()
    program.write_text(ENVIRONMENT_OF_A_PROCESS)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"} | given
    package = str(Path(pg_experiments.__file__).parents[1])
    environment["PYTHONPATH"] = os.pathsep.join([package, str(program.parent)])
    answer = subprocess.run(
        [sys.executable, program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert answer.stdout.split() == [given.get("PYTHONSAFEPATH", "None"), "None"], answer.stderr
    assert not (tmp_path / "executed").exists()


ENVIRONMENT_OF_A_PROCESS = """
import os
import gymnasium
import numpy
from gymnasium import spaces

class Place(gymnasium.Env):
    observation_space = spaces.Box(0, 1, (1,))
    action_space = spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        print(os.environ.get("PYTHONSAFEPATH"), flush=True)
        return numpy.zeros(1, numpy.float32), {}

gymnasium.register("Place-v0", entry_point=Place, max_episode_steps=3)

if __name__ == "__main__":
    import torch
    from pg_experiments.envs.gymnasium_processes import GymnasiumProcesses
    GymnasiumProcesses("program:Place-v0", {}, None, 1).reset(torch.rand(1, 1, 2))
    print(None)
"""


def test_a_copy_that_raises_in_a_process_is_named_and_the_others_go_on() -> None:
    env = GymnasiumProcesses(PROBE, {}, None, 2)
    noise = torch.rand(1, 5, 2, generator=Generator().manual_seed(6))
    *_, (after, running) = played(env, noise)
    copy = int(running[0].nonzero()[0, 0])
    with pytest.raises(EnvError, match="step raised AssertionError: stepped on after its end") as caught:
        env.step(after.state, torch.zeros(1, 5, 1), running)
    assert (caught.value.row, caught.value.copy) == (0, copy)
    assert len(played(env, noise)) == len(played(GymnasiumEnv(PROBE, {}, None), noise))


# --- choice -----------------------------------------------------------------------------------------------------------


def test_auto_takes_native_then_envpool_then_gymnasium(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(*overrides: str) -> str:
        return described(compose("policy=softmax", *overrides).env)

    lander, lake = ("env=lunar_lander",), ("env=gymnasium", "env.id=FrozenLake-v1")
    assert chosen("env=cartpole") == "env.backend=native: the environment is native"
    assert chosen(*lander) == "env.backend=envpool: LunarLander-v3 is the same in EnvPool, which is installed"
    assert chosen(*lake).startswith("env.backend=sync: FrozenLake-v1 is none of the ids that are known to be the same")
    assert chosen(*lander, "env.kwargs.gravity=-9").startswith("env.backend=sync: env.kwargs are for gymnasium.make")
    assert chosen(*lander, "env.backend=sync") == "env.backend=sync: as given; auto would take envpool here"
    assert chosen("env=cartpole", "env.backend=async").endswith("as given; auto would take native here")
    assert "this is not Gymnasium's task" in described(compose("env=pendulum", "env.backend=envpool").env)
    monkeypatch.setattr(backend_config, "installed", lambda: False)
    assert chosen(*lander).endswith("EnvPool is not installed: pip install 'pg_experiments[envpool]'")


def test_every_word_for_a_backend_but_auto_is_one_that_auto_may_give_or_asked_for() -> None:
    taken = {automatic({"_target_": GymnasiumConfig._target_, "id": name}).backend for name in (*SAME, "Else-v0")}
    taken.add(automatic({"_target_": "pg_experiments.envs.cartpole.CartPole"}).backend)
    assert taken | {"auto", "async"} == set(BACKENDS)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("env=cartpole", "env.backend=envpol"),
            r"async\. Did you mean 'envpool'\?",
        ),
        (("env=frozen_lake", "env.backend=sync"), r"FrozenLake is native only; must be one of auto, native$"),
        (("env=lunar_lander", "env.backend=native"), r"no native LunarLander-v3 here; must be one of auto, envpool, s"),
        (("env=gymnasium", "env.id=CartPole-v1", "env.backend=native"), r"Did you mean 'env=cartpole'\?$"),
        (("env=gymnasium", "env.id=CartPole-v9", "env.backend=envpool"), r"has no CartPole-v9; .*'CartPole-v1'\?$"),
        (
            ("env=gymnasium", "env.id=FrozenLake-v1", "env.backend=envpool"),
            "FrozenLake-v1 is not one vector of",
        ),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, tuple) else None,
)
def test_a_backend_that_cannot_be_had_is_refused_with_what_can(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=rf"^env\.backend=\w+: .*{message}"):
        build(stack([compose("policy=softmax", *overrides)]))


@pytest.mark.parametrize("kwargs", ["nothing=1", "seed=3", "num_envs=2", "frame_skip=abc"])
def test_what_envpool_does_not_take_is_refused_with_its_key(kwargs: str) -> None:
    with pytest.raises(UserError, match=r"^env\.kwargs"):
        build(stack([compose("env=hopper", "env.backend=envpool", f"env.kwargs.{kwargs}")]))


@pytest.mark.parametrize(
    ("overrides", "extra"),
    [(("env=lunar_lander", "policy=softmax"), "box2d"), (("env=hopper",), "mujoco")],
    ids=["box2d", "mujoco"],
)
def test_an_extra_that_is_missing_is_named_with_its_command(
    overrides: tuple[str, ...], extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise gymnasium.error.DependencyNotInstalled(f"run `pip install 'gymnasium[{extra}]'`")

    monkeypatch.setattr(gymnasium, "make", missing)
    with pytest.raises(UserError, match=rf"^env\.id=.*: needs the extra {extra}: pip install 'pg_experiments\[{extra}"):
        build(stack([compose(*overrides, "env.backend=sync")]))


def test_a_folder_says_what_its_run_was_stepped_by_and_asks_for_it_on_another_machine(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = compose(*TASKS["reacher"], *SMALL, "total_env_steps=60")
    (result,) = train([config], [tmp_path])
    assert (config.env.backend, result.env_backend) == ("envpool", "envpool")
    assert json.loads((tmp_path / "result.json").read_text())["env_backend"] == "envpool"
    assert "env.backend=envpool: Reacher-v5 is the same in EnvPool" in (tmp_path / "train.log").read_text()
    monkeypatch.setattr(backend_config, "installed", lambda: False)
    saved = load_config(tmp_path)
    assert saved.env.backend == "envpool"
    for use in (lambda: train([saved]), lambda: load_policy(tmp_path)):
        with pytest.raises(UserError, match=r"^env\.backend=envpool: needs the extra envpool: pip install 'pg_exp"):
            use()


def test_what_hydra_saved_as_auto_is_replaced_by_what_it_was(tmp_path: Any) -> None:
    path = tmp_path / ".hydra" / "config.yaml"
    path.parent.mkdir()
    path.write_text("total_env_steps: ${env.num_envs}\nenv:\n  backend: auto\n  num_envs: 2\n")
    write_config(path, compose(*TASKS["hopper"]))
    assert path.read_text() == "total_env_steps: ${env.num_envs}\nenv:\n  backend: envpool\n  num_envs: 2\n"
