"""`device`: the same program and the same noise everywhere. Without a CUDA device, `far_device` stands for one."""

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from far_device import Far, far_device
from test_resume import StopsAt
from test_runs_are_independent import ALGORITHMS, BASELINES, ENVS, OPTIMIZERS, PAIRS, outcome
from test_runs_are_independent import make_configs as make_configs_of
from torch import Tensor
from type_checks import without_type_checks

from pg_experiments import RunResult, compose, load_policy, train
from pg_experiments.batch import Batch
from pg_experiments.config import Config, resuming
from pg_experiments.devices import check_device, drawn, on
from pg_experiments.errors import ConfigError, UserError
from pg_experiments.evaluate import main
from pg_experiments.optimizer_settings import FITTING
from pg_experiments.randomness import generator_for
from pg_experiments.sizing import available_bytes
from pg_experiments.sweeps.sizing import batch_limit, run_bytes
from pg_experiments.training import Interrupted

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
MOST_STEPS = 12  # of an episode: a step elsewhere takes ten times as long, because Python is asked at every operation
NORMALIZED = ("env.wrappers=[normalize_observation,normalize_return]",)


def make_configs(policy: str, env: str, baseline: str, *overrides: str) -> list[Config]:
    """Two runs, of one iteration or two and of several, with short episodes."""
    configs = make_configs_of(policy, env, baseline, *overrides, runs=2)
    return [
        replace(
            config,
            total_env_steps=30 + 60 * run,
            evaluation=replace(config.evaluation, episodes=2),
            env=config.env if isinstance(config.env, dict) else shortened(config.env),
        )
        for run, config in enumerate(configs)
    ]


def shortened(env: Any) -> Any:
    return replace(env, max_episode_steps=min(MOST_STEPS, env.max_episode_steps or MOST_STEPS))


def trained_far(configs: Sequence[Config], folders: Sequence[Path] | None = None) -> list[RunResult]:
    with far_device() as device, without_type_checks():
        return train([replace(config, device=device) for config in configs], folders)


def assert_same_as_near(configs: Sequence[Config]) -> None:
    with without_type_checks():
        near = train(configs)
    assert {result.status for result in near} == {"completed"}
    for run, (result, expected) in enumerate(zip(trained_far(configs), near, strict=True)):
        assert outcome(result) == outcome(expected), f"run {run}: {result.error}"


# --- the same program -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "env"), PAIRS)
def test_every_policy_and_environment_is_trained_elsewhere_to_the_same_bits(policy: str, env: str) -> None:
    assert_same_as_near(make_configs(policy, env, "value_network"))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("policy", "env"), [("softmax", "cartpole"), ("gaussian", "gymnasium_mountain_car")])
def test_every_algorithm_is_trained_elsewhere_to_the_same_bits(policy: str, env: str, algorithm: str) -> None:
    assert_same_as_near(make_configs(policy, env, "value_network", *ALGORITHMS[algorithm], "algorithm.rollout_steps=9"))


@pytest.mark.parametrize("baseline", BASELINES)
def test_every_baseline_is_trained_elsewhere_to_the_same_bits(baseline: str) -> None:
    assert_same_as_near(make_configs("gaussian", "navigation", baseline))


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS, *(f"torch {name}" for name in re.findall(r"[A-Z]\w+", FITTING))])
@pytest.mark.parametrize("foreach", ["null", "true"])  # true is what torch chooses by itself on a CUDA device
def test_every_optimizer_steps_elsewhere_to_the_same_bits(optimizer: str, foreach: str) -> None:
    kind, _, name = optimizer.partition(" ")
    own = (f"optimizer={kind}", f"optimizer._target_=torch.optim.{name}") if name else OPTIMIZERS[optimizer]
    assert_same_as_near(
        make_configs(
            "softmax",
            "cartpole",
            "value_network",
            *own,
            f"+optimizer.kwargs.foreach={foreach}",
            "optimizer.schedule=kl_adaptive",
        )
    )


def test_no_environment_and_no_policy_is_forgotten() -> None:
    assert {env for _, env in PAIRS} == set(ENVS)


def test_wrappers_and_every_choice_of_the_estimator_are_the_same_elsewhere() -> None:
    wrappers = (
        "[{repeat_action:{times:2}},{stack_frames:{frames:2}},time_awareness,normalize_observation,normalize_return]"
    )
    choices = ["reward_to_go=true", "discounted_objective=true", "entropy_schedule=linear"]
    overrides = [f"env.wrappers={wrappers}", *(f"algorithm.{choice}" for choice in choices), "dtype=float64"]
    assert_same_as_near(make_configs("gaussian", "pendulum", "optimal_constant", *overrides))


def test_copies_in_processes_are_stepped_for_a_policy_elsewhere() -> None:
    assert_same_as_near(make_configs("softmax", "gymnasium_acrobot", "none", "env.backend=async"))


def test_noise_is_drawn_from_the_runs_own_generators_and_moved() -> None:
    near, far = (generator_for(3, "rollout") for _ in range(2))
    expected = torch.rand(4, generator=near)
    with far_device() as device, on(device):
        noise = drawn(lambda: torch.rand(4, generator=far))
        assert isinstance(noise, Far)
        assert isinstance(torch.zeros(2), Far)
        assert torch.equal(noise.cpu(), expected)
    assert torch.equal(near.get_state(), far.get_state())
    assert type(torch.zeros(2)) is Tensor


@pytest.mark.parametrize(
    "mixes",
    [
        lambda far, near: far + near,
        lambda far, near: near * far,
        lambda far, near: torch.cat([far, near]),
        lambda far, near: torch.where(far > 0, near, 0.0),
        lambda far, near: near[far.long()],
        lambda far, near: far.index_put_((torch.zeros(2, dtype=torch.long, device="cpu"),), near),
        lambda far, near: far.add_(near),
    ],
)
def test_the_device_of_these_tests_refuses_what_a_cuda_device_refuses(mixes: Callable[[Tensor, Tensor], Any]) -> None:
    near = torch.ones(2)
    with far_device() as device:
        far = torch.ones(2, device=device)
        with pytest.raises(RuntimeError, match="far and near tensors"):
            mixes(far, near)
        with pytest.raises(RuntimeError, match="a generator of the CPU"):
            torch.rand(2, generator=torch.Generator(), device=device)
        with pytest.raises(TypeError, match="numpy"):
            far.numpy()
        assert (far * near.sum()).tolist() == [2, 2]  # a number from anywhere


# --- what is kept -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "baseline"), [("adam", "value_network"), ("torch", "value_network"), ("sgd", "linear_features")]
)
def test_a_state_is_on_the_cpu_and_goes_on_anywhere(optimizer: str, baseline: str) -> None:
    """As after an interruption: one iteration elsewhere, and the second there or here, are two iterations here."""
    configs = make_configs("gaussian", "pendulum", baseline, *OPTIMIZERS[optimizer], *NORMALIZED)
    batch = Batch(configs)
    batch.iterate()
    first = batch.state()
    batch.iterate()
    second = batch.state()
    with far_device() as device, without_type_checks(), on(device):
        far = Batch(configs)
        far.iterate()
        kept = far.state()
        again = Batch(configs, kept)
        again.iterate()
        ended = again.state()
    assert_equal(kept, first)
    assert_equal(ended, second)
    here = Batch(configs, kept)
    here.iterate()
    assert_equal(here.state(), second)


def assert_equal(state: Any, expected: Any) -> None:
    """Nested dicts of tensors, all of them plain ones on the CPU."""
    if isinstance(expected, dict):
        assert state.keys() == expected.keys()
        for key, value in expected.items():
            assert_equal(state[key], value)
    elif isinstance(expected, Tensor):
        assert type(state) is Tensor
        assert state.device.type == "cpu"
        assert torch.equal(state, expected)
    else:
        assert state == expected


def test_a_folder_holds_the_same_checkpoints_and_videos(tmp_path: Path) -> None:
    overrides = ("evaluation.video=true", "evaluation.every=1")
    configs = make_configs("tabular_softmax", "frozen_lake", "value_network", *overrides)
    with without_type_checks():
        train(configs, [tmp_path / "near" / str(run) for run in range(2)])
    results = trained_far(configs, [tmp_path / "far" / str(run) for run in range(2)])
    assert [result.error for result in results] == [None, None]
    for run in range(2):
        near, far = (tmp_path / where / str(run) for where in ("near", "far"))
        for name in ("last", "best"):
            there, here = ((folder / "checkpoints" / f"{name}.pt") for folder in (far, near))
            saved, expected = (torch.load(path, weights_only=True) for path in (there, here))
            assert_equal({**saved, "run": None}, {**expected, "run": None})
        assert "evaluation.video: " not in (far / "train.log").read_text()
        assert columns_but_time(far) == columns_but_time(near)


def columns_but_time(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{tag: text for tag, text in row.items() if "time" not in tag} for row in csv.DictReader(file)]


@pytest.mark.parametrize("policy", ["softmax", "gaussian"])
def test_the_policy_of_a_result_acts_on_the_cpu(policy: str) -> None:
    configs = make_configs(policy, {"softmax": "cartpole", "gaussian": "pendulum"}[policy], "none", *NORMALIZED)
    with without_type_checks():
        (near, *_), (far, *_) = train(configs), trained_far(configs)
    observation = torch.ones(far.policy.policy.size)
    assert torch.equal(far.policy(observation), near.policy(observation))


def test_a_run_of_a_cuda_device_is_loaded_and_evaluated_where_there_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = compose("policy=gaussian", "env=pendulum", "total_env_steps=1", "logging.progress=none")
    (result,) = train([config], [tmp_path])
    path = tmp_path / ".hydra" / "config.yaml"
    path.write_text(path.read_text().replace("device: cpu", "device: cuda:3"))
    assert "device: cuda:3" in path.read_text()
    observation = [1.0, 0.0, 0.5]
    assert torch.equal(load_policy(tmp_path)(observation), result.policy(observation))
    main([str(tmp_path), "--episodes", "2"])
    assert "2 deterministic episodes" in capsys.readouterr().out


def test_a_run_does_not_go_on_on_another_device(tmp_path: Path) -> None:
    """It would be no run that anybody could repeat."""
    config = compose("policy=gaussian", "env=pendulum", "total_env_steps=1", "logging.progress=none")
    train([config], [tmp_path])
    path = tmp_path / ".hydra" / "config.yaml"
    path.write_text(path.read_text().replace("device: cpu", "device: cuda"))
    with pytest.raises(UserError, match="device is cuda there and cpu now"):
        train([resuming(config)], [tmp_path])


# --- what there is ----------------------------------------------------------------------------------------------------


@pytest.fixture
def two_cuda_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: ({"cuda": 3e9, "cuda:1": 2e9}[device], 8e9))


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:0", "cuda:1"])
@pytest.mark.usefixtures("two_cuda_devices")
def test_a_device_that_is_there_is_taken(device: str) -> None:
    assert compose(f"device={device}").device == device
    check_device(device)


@pytest.mark.usefixtures("two_cuda_devices")
def test_a_device_beyond_the_last_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError) as caught:
        check_device("cuda:7")
    assert str(caught.value) == (
        "device=cuda:7: is not there; must be one of cpu, cuda, cuda:0, cuda:1. Did you mean 'cuda'?"
    )


@pytest.mark.parametrize(
    ("version", "why"), [(None, r"torch .* is built without CUDA"), ("12.8", "torch finds no CUDA device")]
)
def test_cuda_where_there_is_none_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, version: str | None, why: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", version)
    with pytest.raises(ConfigError, match=f"^device=cuda: is not there: {why}; must be cpu here$"):
        train([compose("device=cuda")])


@pytest.mark.usefixtures("two_cuda_devices")
def test_batches_are_as_large_as_the_memory_of_the_device() -> None:
    assert available_bytes("cuda") == 3e9
    assert available_bytes() != 3e9
    first, second = (compose(f"device={device}", "env.num_envs=500") for device in ("cuda", "cuda:1"))
    each = run_bytes(first)
    assert batch_limit(first, 2)[0] == int((0.5 * 3e9 / 2 - 300e6) / each)
    assert batch_limit(second, 1)[0] == int((0.5 * 2e9 - 300e6) / each)


# --- where there is one -----------------------------------------------------------------------------------------------


@needs_cuda
@pytest.mark.parametrize(("policy", "env"), PAIRS)
def test_a_step_on_a_cuda_device_is_the_step_on_the_cpu_but_for_rounding(policy: str, env: str) -> None:
    """Of one iteration, so that no rounded action can lead to other episodes."""
    base = make_configs(policy, env, "value_network", "optimizer=sgd", "dtype=float64")
    near = [replace(config, total_env_steps=1) for config in base]
    results, expected = train([replace(config, device="cuda") for config in near]), train(near)
    for result, other in zip(results, expected, strict=True):
        assert result.status == "completed", result.error
        for value, wanted in zip(result.policy.buffers(), other.policy.buffers(), strict=True):
            torch.testing.assert_close(value, wanted, rtol=1e-7, atol=1e-9)


@needs_cuda
@pytest.mark.parametrize("baseline", BASELINES)
def test_every_baseline_is_trained_on_a_cuda_device(baseline: str) -> None:
    configs = make_configs("gaussian", "navigation", baseline)
    results = train([replace(config, device="cuda") for config in configs])
    assert [result.error for result in results] == [None, None]


@needs_cuda
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_steps_on_a_cuda_device_also_after_an_interruption(optimizer: str, tmp_path: Path) -> None:
    overrides = (*OPTIMIZERS[optimizer], "checkpoint.resume=true", "device=cuda")
    (_, config) = make_configs("softmax", "cartpole", "value_network", *overrides)
    with pytest.raises(Interrupted):
        train([config], [tmp_path], StopsAt(1))
    (result,) = train([config], [tmp_path])
    assert result.status == "completed", result.error
