"""The README is true: its commands run, its Python runs, its files and groups exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import pg_experiments
from pg_experiments.config import SCHEMAS
from pg_experiments.evaluate import main as evaluate
from pg_experiments.train import main

TYPE_CHECKS = False  # see conftest.py

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
SMALL = ["total_env_steps=40", "env.num_envs=2", "evaluation.episodes=2", "logging.progress=none"]
RUN_ELSEWHERE = (
    "python3 -m venv",
    ". .venv",
    "python -m pip",
    "python -m pytest",
    "python -m pg_experiments.report",  # tests/test_report.py
    "python -m pg_experiments.export",  # tests/test_export.py
    "python -m pg_experiments.evaluate outputs/sweeps",  # tests/test_evaluate.py
    "tensorboard",
)  # CI itself, or a server


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines()]
TRAININGS = [line for line in COMMANDS if line.startswith("python -m pg_experiments.train") and "--repeat" not in line]


def small_compose(*overrides: str):
    return compose_before(*overrides, *SMALL)


compose_before = pg_experiments.compose


def run_training(line: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> int:
    """The training command in this process with a tiny budget; its exit code."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["train", *shlex.split(line)[3:], *SMALL])
    try:
        main()
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


@pytest.mark.parametrize("line", TRAININGS)
def test_every_training_command_runs(line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert run_training(line, monkeypatch, tmp_path) == 0
    assert list(tmp_path.glob("outputs/**/result.json"))


def test_the_commands_for_a_run_work_on_what_the_main_job_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [line for line in COMMANDS if line.startswith("python -m pg_experiments.evaluate outputs/runs")]
    (repetition,) = [line for line in COMMANDS if "--repeat" in line]
    folder = shlex.split(lines[0])[3]
    assert run_training("python -m pg_experiments.train policy=gaussian env=pendulum", monkeypatch, tmp_path) == 0
    (run_dir,) = (tmp_path / Path(folder).parent).iterdir()
    for line in lines:
        assert shlex.split(line)[3] == folder
        evaluate([str(run_dir), *shlex.split(line)[4:]])
        assert "95 % interval" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["train", *shlex.split(repetition.replace(folder, str(run_dir)))[3:]])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    assert "identical" in capsys.readouterr().out


@pytest.mark.parametrize("code", blocks("python"))
def test_every_python_example_runs(code: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pg_experiments, "compose", small_compose, raising=False)
    exec(compile(code, "README.md", "exec"), {})


def test_every_make_command_is_a_target() -> None:
    made = [line for line in COMMANDS if line.startswith("make")]
    assert made == ["make train", "make test"]
    for line in made:
        subprocess.run([*line.split(), "--dry-run"], cwd=ROOT, check=True, capture_output=True)


def test_no_command_is_left_untested() -> None:
    tested = ("make", "python -m pg_experiments.train", "python -m pg_experiments.evaluate")
    assert [line for line in COMMANDS if not line.startswith((*tested, *RUN_ELSEWHERE))] == []


def test_the_table_of_groups_names_every_option() -> None:
    for group, options in SCHEMAS.items():
        (row,) = re.findall(rf"^\| `{group}` \|(.*?)\|", README, flags=re.MULTILINE)
        assert set(re.findall(r"`(\w+)`", row)) == set(options), group


def test_the_walk_names_files_that_exist_and_leaves_out_none_of_the_loop() -> None:
    walk = README.split("## The walk of one observation")[1].split("\n## ")[0]
    for name in re.findall(r"`([\w/]+\.py)`", walk):
        assert (ROOT / "pg_experiments" / name).is_file(), name


def test_links_and_pictures_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).is_file(), target
