"""docs/your_environment.md is true: its class trains, its commands run in its order, its messages are the command's."""

import re
import shlex
import sys
from pathlib import Path

import gymnasium
import pytest
from hydra.core.global_hydra import GlobalHydra

from pg_experiments.evaluate import main as evaluate
from pg_experiments.report import main as report
from pg_experiments.train import main as train

TYPE_CHECKS = False  # see conftest.py

PAGE = Path(__file__).resolve().parent.parent / "docs" / "your_environment.md"
TEXT = PAGE.read_text()
TANK, POLICY, EPISODE = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL) for line in block.splitlines()]
MESSAGES = re.findall(r"^\| `(.+?)` \| `(.+?)` \| `(.+?)` \|$", TEXT, flags=re.MULTILINE)
SMALL = ["total_env_steps=40", "env.num_envs=2", "evaluation.episodes=2", "logging.progress=none"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder, from which modules are imported, as by `python -m`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "water_tank", raising=False)
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    return tmp_path


def run(command: str, monkeypatch) -> int:
    """A command of the page, with a tiny budget; its exit code."""
    module, *arguments = shlex.split(command)[2:]
    monkeypatch.setattr(sys, "argv", [module, *arguments, *(SMALL if module.endswith("train") else [])])
    try:
        if module.endswith("train"):
            train()
        elif module.endswith("report"):
            report(arguments)
        else:
            evaluate([*arguments[:-3], "2", *arguments[-2:]])
    except SystemExit as leaving:
        return int(leaving.code or 0)
    finally:
        GlobalHydra.instance().clear()
    return 0


def test_the_commands_of_the_page_run_one_after_the_other_and_then_its_policy(folder, monkeypatch, capfd):
    (folder / "water_tank.py").write_text(TANK)
    assert len(COMMANDS) == 7
    for command in COMMANDS:
        assert command.startswith("python -m pg_experiments.")
        assert run(command, monkeypatch) == 0, (command, capfd.readouterr().err)
    assert len(list(folder.glob("outputs/sweeps/tank/*/result.json"))) == 15
    assert "95 % interval" in capfd.readouterr().out
    names: dict[str, object] = {}
    exec(compile(POLICY, PAGE.name, "exec"), names)
    lines = capfd.readouterr().out.split("\n")[:3]
    assert [line.split()[0] for line in lines] == ["0.5", "1.0", "1.5"]
    assert all(0 <= float(line.split()[1]) <= 1 for line in lines)
    exec(compile(EPISODE, PAGE.name, "exec"), names)
    assert (names["terminated"], names["truncated"]) == (False, True)


@pytest.mark.parametrize(("old", "new", "says"), MESSAGES, ids=[new for _, new, _ in MESSAGES])
def test_a_mistake_in_the_class_is_told_as_the_page_says(folder, monkeypatch, capfd, old, new, says):
    assert old in TANK
    (folder / "water_tank.py").write_text(TANK.replace(old, new))
    command = COMMANDS[1] if "width" in new else COMMANDS[0]
    assert run(command, monkeypatch) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1, error
    assert says in error
    assert not (folder / "outputs").exists()


def test_no_message_of_the_page_is_left_out():
    assert len(MESSAGES) == len(re.findall(r"^\| `", TEXT, flags=re.MULTILINE)) == 8


def test_the_class_passes_the_checker_of_gymnasium(folder):
    from gymnasium.utils.env_checker import check_env

    space: dict[str, type] = {}
    exec(compile(TANK, PAGE.name, "exec"), space)
    check_env(space["WaterTank"](), skip_render_check=True)


def test_the_picture_of_the_page_exists():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (PAGE.parent / target).is_file(), target
