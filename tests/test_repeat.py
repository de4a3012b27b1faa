"""A run once more: identical in every bit, or what differs, and what may be the reason."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from pg_experiments import compose, surroundings, train
from pg_experiments.batch import Batch
from pg_experiments.progress import NoDisplay
from pg_experiments.repeat import REASONS, first_difference
from pg_experiments.saved_config import SAVED
from pg_experiments.train import main
from pg_experiments.training import Interrupted

TYPE_CHECKS = False  # see conftest.py

TINY = ("policy=softmax", "env=cartpole", "env.num_envs=3", "env.max_episode_steps=15", "logging.progress=none")
SMALL = (
    *TINY,
    "total_env_steps=200",
    "evaluation.episodes=2",
    "logging.tensorboard=false",
    "policy.hidden_sizes=[5]",
    "baseline.hidden_sizes=[6]",
)


class _Interrupting(NoDisplay):
    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def show(self, status) -> None:
        if status.iteration == self.iteration:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Folders of runs: two that were trained in one batch, one that was interrupted, and one that broke down."""
    root = tmp_path_factory.mktemp("runs")
    configs = [compose(*SMALL, f"seed={seed}", f"optimizer.lr=0.0{seed + 1}") for seed in range(3)]
    train(configs, [root / f"batch{seed}" for seed in range(3)])
    with pytest.raises(Interrupted):
        train(configs[:1], [root / "interrupted"], _Interrupting(3))
    train([compose(*SMALL, "env.reward_scale=1e38")], [root / "failed"])
    return root


@pytest.fixture
def copied(trained, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(trained, tmp_path / "runs")


@pytest.fixture
def repeat(monkeypatch, capfd):
    """The command in this process: exit code, what it says, and its complaint."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["train", "--repeat", *map(str, arguments)])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capfd.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return call


def result_of(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def change(folder: Path, **values: object) -> None:
    """Write other values into a run's result."""
    (folder / "result.json").write_text(json.dumps(result_of(folder) | values))


@pytest.mark.parametrize("name", ["batch1", "batch2", "failed"])
def test_a_run_of_a_batch_is_repeated_alone_with_the_same_bits(copied, repeat, name):
    code, out, err = repeat(Path("runs") / name)
    assert (code, err) == (0, "")
    assert out.count(result_of(copied / name)["parameters_sha256"]) == 2
    assert re.search(r"^identical$", out, re.MULTILINE)
    (folder,) = Path("outputs/repeats").iterdir()
    assert folder.name.startswith(f"{name}_repeated_")
    again = result_of(folder)
    assert (again["runs_in_batch"], again["status"]) == (1, result_of(copied / name)["status"])
    assert again["evaluation"] == result_of(copied / name)["evaluation"]


def test_an_interrupted_run_is_repeated_as_far_as_it_came(copied, repeat, tmp_path):
    assert result_of(copied / "interrupted")["status"] == "interrupted"
    code, out, err = repeat(copied / "interrupted", f"hydra.run.dir={tmp_path / 'again'}")
    assert (code, err) == (0, "")
    assert "up to iteration 3, where it was interrupted" in out
    assert "\nidentical\n" in out
    assert result_of(tmp_path / "again")["iterations"] == 3
    assert not (tmp_path / "outputs").exists()


def test_other_parameters_are_named_with_both_hashes_and_the_reasons(copied, repeat):
    found = result_of(copied / "batch0")
    change(copied / "batch0", parameters_sha256="0" * 64, cpu="Babbage", threads=4, git_commit="1234")
    change(copied / "batch0", versions=found["versions"] | {"torch": "0.1"})
    code, out, _ = repeat(copied / "batch0")
    assert code == 1
    assert "\ndifferent\n" in out
    assert f"parameters_sha256: {'0' * 64} in the run, {found['parameters_sha256']} in the repeat" in out
    for line in (f"cpu: Babbage then, {found['cpu']} now", "threads: 4 then, 1 now", "git_commit: 1234 then"):
        assert f"\n  {line}" in out
    assert f"torch: 0.1 then, {torch.__version__} now" in out


def test_the_first_number_that_differs_is_named_with_both_values(copied, repeat):
    path = copied / "batch0" / "metrics.csv"
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    column = rows[0].index("gradient/norm")
    before = rows[2][column]
    rows[2][column] = "0.125"
    rows[3][rows[0].index("env_steps")] = "7"
    rows[1][rows[0].index("time/env_steps_per_second")] = "1.0"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    code, out, _ = repeat(copied / "batch0")
    assert code == 1
    assert f"metrics.csv, row 2, gradient/norm: 0.125 in the run, {before} in the repeat\n" in out
    assert "no reason is known" in out or "git_dirty: both with changes" in out


def test_rows_that_are_missing_and_rows_beyond_an_interruption():
    rows = [{"iteration": str(number), "loss": "1.5", "time/speed": str(number)} for number in range(1, 4)]
    assert first_difference(rows, rows) is None
    assert first_difference(rows, rows[:2]).line == "metrics.csv, row 3, iteration: 3 in the run, nothing in the repeat"
    assert first_difference(rows, rows[:2], iterations=2) is None
    assert first_difference([], rows[:1]).line.endswith("iteration: nothing in the run, 1 in the repeat")


def test_another_config_than_the_trained_one_is_a_likely_reason(copied, repeat):
    path = copied / "batch0" / SAVED
    config = yaml.safe_load(path.read_text())
    config["optimizer"]["lr"] *= 2
    path.write_text(yaml.safe_dump(config))
    code, out, _ = repeat(copied / "batch0")
    assert code == 1
    assert "config: the saved one is not the one that the run was trained with" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("none",), "none: not a run's folder"),
        (("runs",), "runs: not a run's folder"),
        (("runs/batch0", "seed=3"), "seed=3: --repeat trains the saved config as it is"),
        (("runs/batch0", "-m"), "-m: --repeat trains the saved config as it is"),
        (("runs/batch0", "hydra.run.dir=runs/batch1"), "runs/batch1: holds a run already"),
        (("runs/unfinished",), "runs/unfinished: has no result.json, so the run has not ended"),
        (("runs/early",), "runs/early: was interrupted before its first iteration"),
        (("runs/damaged",), "runs/damaged/result.json: cannot be used"),
        (("runs/theirs",), "baseline._target_=evil.Thing: is none of this package's own parts"),
        (("runs/theirs", "--trust", "other"), "add --trust evil"),
        (("runs/linked",), "leads out of runs/linked"),
    ],
)
def test_what_cannot_be_repeated_is_one_line(copied, repeat, arguments, says):
    for name in ("unfinished", "early", "damaged", "theirs", "linked"):
        shutil.copytree(copied / "interrupted", copied / name)
    (copied / "unfinished" / "result.json").unlink()
    change(copied / "early", iterations=0)
    (copied / "damaged" / "result.json").write_text('{"status": ["completed"]}')
    text = (copied / "theirs" / SAVED).read_text()
    (copied / "theirs" / SAVED).write_text(
        text.replace("pg_experiments.baselines.value_network.ValueNetwork", "evil.Thing")
    )
    (copied / "linked" / "result.json").unlink()
    (copied / "linked" / "result.json").symlink_to("../interrupted/result.json")
    code, out, err = repeat(*arguments)
    assert code == 2
    assert out == "" or "repeating" in out
    assert re.fullmatch(r"error: [^\n]+\n", err)
    assert says in err
    assert not Path("outputs").exists()


def test_ctrl_c_during_a_repetition_ends_it(copied, repeat, monkeypatch):
    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Batch, "iterate", interrupt)
    code, out, _ = repeat(copied / "batch0")
    assert code == 130
    assert "identical" not in out


# --- where a run was computed -----------------------------------------------------------------------------------------


def test_a_result_says_where_it_was_computed(trained):
    result = result_of(trained / "batch0")
    assert set(REASONS) <= set(result)
    assert result["cpu"]
    assert result["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert result["torch_build"] == torch.version.git_version
    assert result["threads"] == 1
    assert result["versions"]["torch"] == torch.__version__


def test_what_a_process_has_imported_is_looked_up_once(monkeypatch):
    first = surroundings.surroundings()
    monkeypatch.setattr(surroundings, "git_state", lambda: pytest.fail("git was asked again"))
    assert surroundings.surroundings() == first
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    assert surroundings.surroundings() == first | {"threads": 7}


def _git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    answer = subprocess.run(
        ["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True, text=True, env=clean
    )
    return answer.stdout.strip()


def test_the_commit_is_that_of_the_packages_checkout(tmp_path, monkeypatch):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (tmp_path / "site-packages" / "pg_experiments").mkdir(parents=True)
    (tmp_path / "site-packages" / "pg_experiments" / "__init__.py").write_text("")
    assert surroundings.git_state(package) == (None, None)
    _git(tmp_path, "init", "--quiet")
    _git(tmp_path, "add", "package")
    _git(tmp_path, "commit", "--quiet", "--message=first")
    commit = _git(tmp_path, "rev-parse", "HEAD")
    monkeypatch.chdir("/")
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert surroundings.git_state(package) == (commit, False)
    (tmp_path / "untracked").write_text("")
    assert surroundings.git_state(package) == (commit, False)
    (package / "__init__.py").write_text("changed = True\n")
    assert surroundings.git_state(package) == (commit, True)
    assert surroundings.git_state(tmp_path / "site-packages" / "pg_experiments") == (None, None)  # a wheel
    monkeypatch.setenv("PATH", "")
    assert surroundings.git_state(package) == (None, None)
