"""What a run leaves in its folder, and what the folder gives back: evaluation, the policy, the sweep's jobs."""

import csv
import json
import math
import re
import sys
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from pg_experiments import RunResult, UserError, compose, load_policy
from pg_experiments.config import config_sha256
from pg_experiments.evaluate import main as evaluate_main
from pg_experiments.saved_config import load_config
from pg_experiments.train import main as train_main
from pg_experiments.training import train

TYPE_CHECKS = False  # see conftest.py

TINY = ("env.num_envs=4", "evaluation.episodes=3", "logging.progress=none", "policy.hidden_sizes=[8]")
NUMBERS = ("optimizer.lr=0.004", "optimizer.schedule=constant", "env.gamma=0.8")
THREE_ITERATIONS = (*TINY, *NUMBERS, "total_env_steps=2400")  # of 4 episodes with 200 steps
FILES = {
    ".hydra/config.yaml",
    ".hydra/hydra.yaml",
    ".hydra/overrides.yaml",
    "checkpoints/best.pt",
    "checkpoints/last.pt",
    "metrics.csv",
    "result.json",
    "train.log",
}
COLUMNS = [
    "iteration",
    "env_steps",
    "episode/return_mean",
    "episode/return_std",
    "episode/length_mean",
    "loss/policy",
    "policy/entropy",
    "gradient/norm",
    "optimizer/lr",
    "baseline/explained_variance",
    "loss/baseline",
    "gradient/baseline_norm",
    "time/env_steps_per_second",
    "evaluation/return_mean",
]


def run_train(folder: Path, *arguments: str) -> int:
    """Call the training command in a folder, in process; its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["train", *arguments])
        patch.setenv("HYDRA_FULL_ERROR", "0")  # the command sets it; put back afterwards
        try:
            train_main()
        except SystemExit as stop:
            return int(stop.code or 0)
        finally:
            GlobalHydra.instance().clear()
    return 0


def files_of(folder: Path) -> set[str]:
    """Every file below a folder, relative to it, without TensorBoard's events."""
    paths = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {path for path in paths if not path.startswith("events.out.tfevents.")}


def events_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("events.out.tfevents.*"))


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def result_of(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def read_events(folder: Path) -> EventAccumulator:
    """Everything that TensorBoard itself reads from the folder."""
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    return accumulator


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> SimpleNamespace:
    """The folder of one run with three iterations, made by the command line, and where it was started."""
    work = tmp_path_factory.mktemp("work")
    assert run_train(work, *THREE_ITERATIONS, "seed=3", "evaluation.every=2") == 0
    (result,) = work.rglob("result.json")
    return SimpleNamespace(work=work, folder=result.parent)


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_run_leaves_exactly_the_documented_files(finished):
    assert files_of(finished.folder) == FILES
    assert len(events_of(finished.folder)) == 1


def test_a_run_writes_nothing_outside_its_folder(finished):
    outside = [path for path in finished.work.rglob("*") if path.is_file() and finished.folder not in path.parents]
    assert outside == []


def test_a_runs_folder_is_named_by_policy_env_time_and_seed(finished):
    relative = finished.folder.relative_to(finished.work)
    assert relative.parts[:3] == ("outputs", "runs", "gaussian-pendulum")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_seed3_[0-9a-f]{4}", relative.name)


def test_runs_that_start_in_the_same_second_have_different_folders(tmp_path, monkeypatch):
    clock = SimpleNamespace(now=lambda: datetime(2020, 2, 3, 4, 5, 6))
    monkeypatch.setattr("hydra.core.utils.datetime", clock)
    for _ in range(2):
        assert run_train(tmp_path, *TINY, "total_env_steps=1", "logging.tensorboard=false") == 0
    folders = [path.parent for path in tmp_path.rglob("result.json")]
    assert len(folders) == 2
    assert all(folder.name.startswith("2020-02-03_04-05-06_seed0_") for folder in folders)


def test_the_overrides_and_the_config_are_kept_as_given(finished):
    overrides = OmegaConf.load(finished.folder / ".hydra" / "overrides.yaml")
    assert list(overrides) == [*THREE_ITERATIONS, "seed=3", "evaluation.every=2"]
    assert asdict(load_config(finished.folder)) == asdict(compose(*overrides))


# --- result.json ------------------------------------------------------------------------------------------------------


def test_result_json_says_what_the_run_was(finished):
    result = result_of(finished.folder)
    assert result["status"] == "completed"
    assert result["error"] is None
    assert result["seed"] == 3
    assert (result["env_steps"], result["iterations"], result["episodes"]) == (2400, 3, 12)
    assert result["runs_in_batch"] == 1
    assert isinstance(result["wall_seconds"], float)
    assert isinstance(result["env_steps_per_second"], float)
    assert 0 < result["env_steps"] / result["env_steps_per_second"] < result["wall_seconds"]
    for key in ("parameters_sha256", "config_sha256"):
        assert re.fullmatch("[0-9a-f]{64}", result[key])
    assert result["config_sha256"] == config_sha256(load_config(finished.folder))
    assert {"python", "torch", "gymnasium", "hydra-core"} <= set(result["versions"])
    assert all(isinstance(version, str) for version in result["versions"].values())
    assert result["git_commit"] is None or isinstance(result["git_commit"], str)


def test_result_json_holds_the_final_evaluation(finished):
    evaluation = result_of(finished.folder)["evaluation"]
    assert {"episodes", "return_mean", "return_std"} <= set(evaluation)
    assert evaluation["episodes"] == 3
    assert evaluation["length_mean"] == 200
    assert evaluation["return_std"] > 0
    assert evaluation["return_low"] < evaluation["return_mean"] < evaluation["return_high"]
    half = 4.302652729696142 * evaluation["return_std"] / 3**0.5  # Student's t, 97.5 %, 2 degrees of freedom
    assert evaluation["return_high"] - evaluation["return_mean"] == pytest.approx(half)
    assert evaluation["return_mean"] - evaluation["return_low"] == pytest.approx(half)


# --- metrics.csv and TensorBoard --------------------------------------------------------------------------------------


def test_metrics_csv_has_a_row_per_iteration_and_the_documented_columns(finished):
    rows = rows_of(finished.folder)
    assert sorted(rows[0]) == sorted(COLUMNS)
    assert list(rows[0])[:2] == ["iteration", "env_steps"]
    assert [int(row["iteration"]) for row in rows] == [1, 2, 3]
    assert [int(row["env_steps"]) for row in rows] == [800, 1600, 2400]
    assert [row["evaluation/return_mean"] == "" for row in rows] == [True, False, True]
    for row in rows:
        assert all(np.isfinite(float(text)) for tag, text in row.items() if tag != "evaluation/return_mean")
        assert float(row["episode/length_mean"]) == 200
        assert float(row["optimizer/lr"]) == pytest.approx(0.004)


def test_env_steps_grow_strictly_where_episodes_have_different_lengths(tmp_path):
    config = compose("policy=softmax", "env=cartpole", *TINY, "total_env_steps=400")
    (result,) = train([config], [tmp_path])
    steps = [int(row["env_steps"]) for row in rows_of(tmp_path)]
    lengths = [float(row["episode/length_mean"]) for row in rows_of(tmp_path)]
    assert len(steps) == result.iterations > 2
    assert steps == np.cumsum([round(4 * length) for length in lengths]).tolist()
    assert steps[-2] < 400 <= steps[-1] == result.env_steps


def test_tensorboard_holds_the_numbers_of_metrics_csv_at_their_env_steps(finished):
    events = read_events(finished.folder)
    rows = rows_of(finished.folder)
    tags = set(events.Tags()["scalars"])
    assert tags == {tag for tag in COLUMNS if "/" in tag}
    for tag in tags - {"evaluation/return_mean"}:
        written = [(int(row["env_steps"]), np.float32(row[tag])) for row in rows]
        assert [(event.step, np.float32(event.value)) for event in events.Scalars(tag)] == written


def test_tensorboard_holds_evaluations_on_the_way_and_the_final_one(finished):
    found = [(event.step, event.value) for event in read_events(finished.folder).Scalars("evaluation/return_mean")]
    final = result_of(finished.folder)["evaluation"]["return_mean"]
    between = float(rows_of(finished.folder)[1]["evaluation/return_mean"])
    assert (1600, pytest.approx(between)) in found
    assert found[-1] == (2400, pytest.approx(final))


def test_tensorboard_holds_the_hyper_parameters(finished):
    metadata = read_events(finished.folder).summary_metadata
    plugin = {tag: HParamsPluginData.FromString(meta.plugin_data.content) for tag, meta in metadata.items() if meta}
    (start,) = [data.session_start_info for data in plugin.values() if data.HasField("session_start_info")]
    assert start.hparams["seed"].number_value == 3
    assert start.hparams["optimizer.lr"].number_value == 0.004
    assert start.hparams["env.gamma"].number_value == 0.8
    assert start.hparams["policy"].string_value == "gaussian"
    (experiment,) = [data.experiment for data in plugin.values() if data.HasField("experiment")]
    assert [info.name.tag for info in experiment.metric_infos] == ["evaluation/return_mean"]


def test_without_tensorboard_there_are_no_events_and_everything_else(tmp_path):
    assert run_train(tmp_path, *THREE_ITERATIONS, "logging.tensorboard=false", "hydra.run.dir=run") == 0
    assert files_of(tmp_path / "run") == FILES
    assert events_of(tmp_path / "run") == []


def test_logging_every_third_iteration_writes_every_third_row_and_the_last(tmp_path):
    (result,) = train([compose(*TINY, "total_env_steps=5600", "logging.every=3")], [tmp_path])
    assert result.iterations == 7
    assert [int(row["iteration"]) for row in rows_of(tmp_path)] == [3, 6, 7]
    assert [event.step for event in read_events(tmp_path).Scalars("loss/policy")] == [2400, 4800, 5600]


def test_evaluating_on_the_way_changes_nothing_about_the_training(finished, tmp_path):
    (result,) = train([compose(*THREE_ITERATIONS, "seed=3")], [tmp_path])
    assert result.parameters_sha256 == result_of(finished.folder)["parameters_sha256"]
    assert {row["evaluation/return_mean"] for row in rows_of(tmp_path)[:-1]} == {""}


def test_checkpointing_every_iteration_writes_one_every_iteration(tmp_path, monkeypatch):
    written = []

    def save(run_dir, state, before, keep):
        written.append(state["iterations"])

    monkeypatch.setattr("pg_experiments.checkpoint.save", save)
    train([compose(*THREE_ITERATIONS, "checkpoint.every=1")], [tmp_path / "every"])
    assert sorted(set(written)) == [1, 2, 3]
    written.clear()
    train([compose(*THREE_ITERATIONS)], [tmp_path / "end"])
    assert written == [3]


# --- evaluate and load_policy -----------------------------------------------------------------------------------------


@pytest.fixture
def evaluate(capfd):
    """Call the evaluation command, in process, and read its numbers."""

    def run(folder: Path, *arguments: str) -> dict[str, float]:
        evaluate_main([str(folder), *arguments])
        text = capfd.readouterr().out
        numbers = {}
        for name, pattern in {
            "episodes": r"^(\d+) (?:deterministic|stochastic) episodes",
            "mean": r"return mean +(\S+)",
            "low": r"95 % interval (\S+) to",
            "high": r"95 % interval \S+ to (\S+)",
            "std": r"return sd +(\S+)",
            "length": r"length mean +(\S+)",
        }.items():
            found = re.search(pattern, text, re.MULTILINE)
            assert found, text
            numbers[name] = float(found[1])
        return numbers

    return run


def test_evaluating_with_the_same_episodes_prints_what_result_json_holds(finished, evaluate):
    printed = evaluate(finished.folder, "--episodes", "3")
    saved = result_of(finished.folder)["evaluation"]
    assert printed["episodes"] == saved["episodes"]
    assert printed["length"] == saved["length_mean"]
    for name, key in {"mean": "return_mean", "std": "return_std", "low": "return_low", "high": "return_high"}.items():
        assert printed[name] == pytest.approx(saved[key], abs=0.005)


def test_sampled_actions_and_other_seeds_give_other_returns(finished, evaluate):
    plain = evaluate(finished.folder, "--episodes", "3")
    assert plain == evaluate(finished.folder, "--episodes", "3", "--seed", "3")  # the run's own
    others = [
        evaluate(finished.folder, "--episodes", "3", "--stochastic"),
        evaluate(finished.folder, "--episodes", "3", "--seed", "4"),
        evaluate(finished.folder, "--episodes", "4"),
    ]
    assert len({numbers["mean"] for numbers in (plain, *others)}) == 4


def test_evaluating_writes_nothing(finished, evaluate):
    before = {path: path.read_bytes() for path in finished.folder.rglob("*") if path.is_file()}
    evaluate(finished.folder, "--episodes", "2")
    assert {path: path.read_bytes() for path in finished.folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "parts",
    [
        ("policy=gaussian", "env=pendulum"),
        ("policy=gaussian", "env=navigation"),
        ("policy=softmax", "env=cartpole"),
        ("policy=softmax", "env=gymnasium", "env.id=Acrobot-v1", "env.max_episode_steps=50"),
    ],
)
def test_a_loaded_policy_acts_on_one_observation_and_on_a_batch(tmp_path, parts):
    (result,) = train([compose(*parts, *TINY, "total_env_steps=1")], [tmp_path])
    policy = load_policy(tmp_path)
    assert isinstance(policy, torch.nn.Module)
    spec = result.policy.policy.spec
    batch = torch.randn(5, spec.observation_size, generator=torch.Generator().manual_seed(1)) * 9
    actions = policy(batch)
    assert actions.shape[0] == 5
    assert torch.equal(actions, result.policy(batch))
    single = policy(batch[2])
    assert single.shape == actions.shape[1:]
    assert torch.allclose(single.double(), actions[2].double(), atol=1e-5)
    assert torch.equal(policy(batch[2].numpy()), single)
    assert torch.equal(policy(batch[2].tolist()), single)
    assert torch.equal(policy(batch.double().numpy()), actions)
    if "policy=softmax" in parts:
        assert actions.shape == (5,)
        assert actions.dtype == torch.int64
        assert set(actions.tolist()) <= set(range(spec.actions.count))
    else:
        assert actions.shape == (5, len(spec.actions.low))
        assert (actions >= torch.tensor(spec.actions.low)).all()
        assert (actions <= torch.tensor(spec.actions.high)).all()


def test_a_loaded_policy_keeps_no_gradient_and_knows_its_tensors(finished):
    policy = load_policy(str(finished.folder))
    assert not policy([1.0, 0.0, 0.0]).requires_grad
    assert len(policy.state_dict()) == len(policy.names) > 0


@pytest.mark.parametrize(
    ("observation", "problem"),
    [
        ([1.0, 0.0], "of shape (2,)"),  # fewer than a multiple of 4 that the product would fill up to
        ([1.0, 0.0, 0.0, 9.0], "of shape (4,)"),
        (np.zeros((4, 2)), "of shape (4, 2)"),
        (np.zeros((1, 4, 3)), "of shape (1, 4, 3)"),
        (0.0, "of shape ()"),
        ({"speed": 0.0}, "of type dict"),
        ([1.0, 0.0, math.nan], "[1.0, 0.0, nan]"),
    ],
)
def test_a_loaded_policy_refuses_what_is_no_observation(finished, observation, problem):
    policy = load_policy(finished.folder)
    for call in (policy, policy.act):
        with pytest.raises(ValueError, match=f"observation {re.escape(problem)}: expected 3 finite numbers"):
            call(observation)


def test_a_loaded_policy_acts_as_a_native_environment_takes_it(finished, tmp_path):
    torque = load_policy(finished.folder).act([1.0, 0.0, 0.0])
    assert isinstance(torque, np.ndarray)
    assert torque.shape == (1,)
    train([compose("policy=softmax", "env=cartpole", *TINY, "total_env_steps=1")], [tmp_path])
    policy = load_policy(tmp_path)
    assert type(policy.act([0.0] * 4)) is int
    for actor, size in ((policy, 4), (load_policy(finished.folder), 3)):
        with pytest.raises(ValueError, match=rf"of shape \(2, {size}\): expected one, {size} numbers"):
            actor.act(np.zeros((2, size)))


# --- the Python API ---------------------------------------------------------------------------------------------------


def test_training_from_python_writes_the_files_of_the_command_line(finished, tmp_path):
    config = compose(*THREE_ITERATIONS, "seed=3", "evaluation.every=2")
    (result,) = train([config], [tmp_path / "deep" / "run"])
    folder = tmp_path / "deep" / "run"
    assert files_of(folder) | {".hydra/hydra.yaml", ".hydra/overrides.yaml"} == FILES
    assert len(events_of(folder)) == 1
    assert asdict(load_config(folder)) == asdict(config)
    own, command = result_of(folder), result_of(finished.folder)
    varying = {"wall_seconds", "env_steps_per_second"}
    assert {key: own[key] for key in own if key not in varying} == {
        key: command[key] for key in command if key not in varying | {"git_commit"}
    } | {"git_commit": own["git_commit"]}
    timed = {"time/env_steps_per_second"}
    assert [{tag: row[tag] for tag in row if tag not in timed} for row in rows_of(folder)] == [
        {tag: row[tag] for tag in row if tag not in timed} for row in rows_of(finished.folder)
    ]
    assert result.run_dir == folder


def test_a_results_attributes_are_the_keys_of_result_json(tmp_path):
    (result,) = train([compose(*TINY, "total_env_steps=1")], [tmp_path])
    assert isinstance(result, RunResult)
    attributes = {key: value for key, value in vars(result).items() if key not in ("run_dir", "policy")}
    assert result_of(tmp_path) == attributes
    assert json.loads(result.to_json()) == attributes


def test_training_without_folders_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (result,) = train([compose(*TINY, "total_env_steps=1", "checkpoint.every=1")])
    assert result.run_dir is None
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the run's folder"):
        train([compose(*TINY)], [tmp_path / "file" / "run"])


# --- a sweep ----------------------------------------------------------------------------------------------------------


def test_every_job_of_a_sweep_is_the_run_alone(tmp_path):
    arguments = (*TINY, "total_env_steps=800")
    assert run_train(tmp_path, "-m", "seed=range(2)", *arguments) == 0
    folders = sorted(path.parent for path in (tmp_path / "outputs" / "sweeps").rglob("result.json"))
    assert [folder.name for folder in folders] == ["seed=0", "seed=1"]
    assert len({folder.parent for folder in folders}) == 1
    for folder in folders:
        assert files_of(folder) == FILES
        assert len(events_of(folder)) == 1
        config = load_config(folder)
        (alone,) = train([compose(*arguments, f"seed={config.seed}")])
        swept = result_of(folder)
        assert swept["seed"] == config.seed
        assert swept["parameters_sha256"] == alone.parameters_sha256
        assert swept["evaluation"] == alone.evaluation
    assert {result_of(folder)["seed"] for folder in folders} == {0, 1}
    assert len({result_of(folder)["parameters_sha256"] for folder in folders}) == 2


# --- a run that fails -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("override", ["env.reward_scale=1e38", "optimizer.lr=1e30"])
def test_a_run_that_breaks_down_exits_with_1_and_keeps_its_last_good_policy(tmp_path, capfd, evaluate, override):
    arguments = (*TINY, "total_env_steps=4000", override)
    assert run_train(tmp_path, *arguments, "hydra.run.dir=run") == 1
    captured = capfd.readouterr()
    folder = tmp_path / "run"
    result = result_of(folder)
    assert files_of(folder) | {"checkpoints/best.pt"} == FILES  # which only a whole iteration has
    assert result["status"] == "failed"
    assert result["error"]
    assert result["evaluation"] is None
    assert f"failed: {result['error']}" in captured.out
    assert "Traceback" not in captured.err
    policy = load_policy(folder)
    assert all(tensor.isfinite().all() for tensor in policy.state_dict().values())
    if result["iterations"] == 0:  # later, finite weights may be too large for finite actions
        assert np.isfinite(evaluate(folder, "--episodes", "2")["mean"])


def test_a_run_that_breaks_down_leaves_its_neighbours_as_they_are(tmp_path):
    configs = [compose(*THREE_ITERATIONS), compose(*THREE_ITERATIONS, "env.reward_scale=1e38", "seed=1")]
    good, bad = train(configs, [tmp_path / "good", tmp_path / "bad"])
    (alone,) = train(configs[:1])
    assert (good.status, bad.status) == ("completed", "failed")
    assert good.parameters_sha256 == alone.parameters_sha256
    assert good.evaluation == alone.evaluation
    assert asdict(configs[1])["env"]["reward_scale"] == 1e38
