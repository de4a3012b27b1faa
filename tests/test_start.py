"""The first seconds and the last lines of a command: help, imports, progress, summary."""

import os
import re
import subprocess
import sys
from pathlib import Path

import gymnasium
import pytest
from hydra.core.global_hydra import GlobalHydra

import pg_experiments
from pg_experiments import compose
from pg_experiments.config import GROUPS, SCHEMAS
from pg_experiments.evaluate import main as evaluate_main
from pg_experiments.progress import NoDisplay, PlainDisplay, RichDisplay, Status, duration, make_display
from pg_experiments.summary import print_summary
from pg_experiments.train import main as train_main
from pg_experiments.training import train

TINY = ("env.num_envs=4", "total_env_steps=1600", "evaluation.episodes=3", "logging.tensorboard=false")
REGISTERED = ("pg_experiments/Bioreactor-v0", "pg_experiments/Navigation-v0", "pg_experiments/NavigationDiscrete-v0")
HEAVY = ("torch", "tensorboard", "scipy", "matplotlib")
PLAIN_LINE = re.compile(
    r"iteration \d+ \| [\d,]+ of 1,600 env steps \| return -?[\d.]+ \| entropy -?[\d.]+ nats \| "
    r"[\d,]+ env steps/s \| (\d+ h \d\d min|\d+ min \d\d s|\d+ s) left"
)
STATUS = Status(
    iteration=12,
    env_steps=34_567,
    total_env_steps=1_000_000,
    returns=[-1234.56],
    running=1,
    failed=0,
    return_mean=-1234.56,
    entropy=1.234,
    env_steps_per_second=10_000.0,
)


def run_python(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter in a folder."""
    environment = {**os.environ, "PYTHONPATH": str(Path(pg_experiments.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )


def run_train(folder: Path, *arguments: str) -> None:
    """Call the training command in a folder, in process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["train", *arguments])
        patch.setenv("HYDRA_FULL_ERROR", "0")  # the command sets it; put back afterwards
        try:
            train_main()
        except SystemExit as stop:
            if stop.code != 0:
                raise
        finally:
            GlobalHydra.instance().clear()


# --- start ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("--help",), ("--cfg", "job"), ("optimizer.lrr=1",)])
def test_what_needs_no_training_imports_nothing_heavy(tmp_path, arguments):
    process = run_python("-X", "importtime", "-m", "pg_experiments.train", *arguments, folder=tmp_path)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in process.stderr.splitlines()}
    assert "hydra" in imported
    assert imported.isdisjoint(HEAVY)
    assert process.returncode == (2 if arguments == ("optimizer.lrr=1",) else 0)
    assert list(tmp_path.iterdir()) == []


def test_help_names_every_group_every_option_and_two_commands(tmp_path, capsys):
    run_train(tmp_path, "--help")
    text = capsys.readouterr().out
    for group in GROUPS:
        assert f"\n{group}: {', '.join(sorted(SCHEMAS[group]))}\n" in text
    assert "\nexperiment: " in text
    assert "python -m pg_experiments.train policy=gaussian env=pendulum" in text
    assert "python -m pg_experiments.train -m " in text
    assert "num_envs: 64" in text


def test_the_help_of_evaluate_names_its_options(capsys):
    with pytest.raises(SystemExit) as stop:
        evaluate_main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "python -m pg_experiments.evaluate" in text
    for option in ("DIR", "--episodes", "--stochastic", "--seed", "--video"):
        assert option in text


def test_importing_the_package_registers_its_environments_and_no_torch(tmp_path):
    code = (
        "import sys, pg_experiments, gymnasium;"
        f"print([name for name in {HEAVY} if name in sys.modules]);"
        "print(sorted(name for name in gymnasium.registry if name.startswith('pg_experiments/')))"
    )
    process = run_python("-c", code, folder=tmp_path)
    assert process.stderr == ""
    assert process.stdout.splitlines() == [
        "[]",
        str(sorted(REGISTERED)),
    ]


def test_registered_environments_can_be_made():
    for name in REGISTERED:
        env = gymnasium.make(name)
        observation, _ = env.reset(seed=1)
        assert env.observation_space.contains(observation)
        env.close()


def test_every_public_name_can_be_imported():
    for name in pg_experiments.__all__:
        assert callable(getattr(pg_experiments, name))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = pg_experiments.nothing


def test_train_can_be_called_also_after_the_commands_module_was_imported(tmp_path):
    code = "import pg_experiments.train; from pg_experiments import train; print(callable(train))"
    assert run_python("-c", code, folder=tmp_path).stdout == "True\n"


# --- progress ---------------------------------------------------------------------------------------------------------


def test_without_a_terminal_progress_is_plain_lines(tmp_path, capsys):
    run_train(tmp_path, *TINY)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("iteration")]
    assert lines
    assert all(PLAIN_LINE.fullmatch(line) for line in lines), lines
    assert lines[0].startswith("iteration 1 | 800 of 1,600 env steps | ")
    assert lines[-1].startswith("iteration 2 | 1,600 of 1,600 env steps | ")
    assert lines[-1].endswith(" | 0 s left")


def test_a_rich_display_is_drawn_when_it_is_asked_for(tmp_path, capsys):
    run_train(tmp_path, *TINY, "logging.progress=rich")
    text = capsys.readouterr().out
    assert "iteration 2" in text
    assert "100%" in text
    for word in ("return", "entropy", "env steps", "steps/s", "left", "completed after 2 iterations"):
        assert word in text
    assert not any(PLAIN_LINE.fullmatch(line) for line in text.splitlines())


def test_progress_none_shows_only_the_summary(tmp_path, capsys):
    run_train(tmp_path, *TINY, "logging.progress=none")
    assert capsys.readouterr().out.startswith("\ncompleted after 2 iterations")


def test_the_display_follows_the_terminal_unless_one_is_asked_for(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    on_terminal = make_display("auto")
    on_terminal.close()
    assert isinstance(on_terminal, RichDisplay)
    assert isinstance(make_display("plain"), PlainDisplay)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    assert isinstance(make_display("auto"), PlainDisplay)
    forced = make_display("rich")
    forced.close()
    assert isinstance(forced, RichDisplay)
    assert isinstance(make_display("none"), NoDisplay)


def test_a_plain_display_writes_at_most_a_line_every_two_seconds_and_the_last_one(monkeypatch, capsys):
    now = 100.0
    monkeypatch.setattr("pg_experiments.progress.time.monotonic", lambda: now)
    display = PlainDisplay()
    for tenth in range(50):
        now = 100.0 + tenth / 10
        display.show(Status(**{**vars(STATUS), "iteration": tenth}))
    display.close()
    shown = [int(line.split()[1]) for line in capsys.readouterr().out.splitlines()]
    assert shown == [0, 20, 40, 49]


def test_a_status_line_says_everything_and_of_how_many_runs():
    line = STATUS.line()
    assert line == (
        "iteration 12 | 34,567 of 1,000,000 env steps | return -1234.6 | entropy 1.23 nats | "
        "10,000 env steps/s | 1 min 37 s left"
    )
    several = Status(**{**vars(STATUS), "returns": [-1234.56] * 20, "running": 7})
    assert several.runs == 20
    assert several.line() == f"7 of 20 runs | {line}"


def test_time_left_is_never_negative():
    assert Status(**{**vars(STATUS), "env_steps": 2_000_000}).seconds_left == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (41.6, "42 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (360_000, "100 h 00 min"),
    ],
)
def test_a_duration_reads_like_a_duration(seconds, text):
    assert duration(seconds) == text


# --- summary ----------------------------------------------------------------------------------------------------------


def test_the_summary_names_outcome_folder_and_next_commands(tmp_path, capsys):
    run_train(tmp_path, *TINY, "logging.progress=none", "hydra.run.dir=here/run")
    text = capsys.readouterr().out
    assert re.search(
        r"completed after 2 iterations, 8 episodes, 1,600 env steps in .* \(training: [\d,]+ env steps/s\)\n", text
    )
    assert re.search(r"evaluation: mean return -[\d.]+, sd [\d.]+, mean length 200\.0 steps over 3 determ", text)
    assert "\nfolder:     here/run\n" in text
    assert "\nnext:\n  python -m pg_experiments.evaluate here/run --episodes 100\n" in text
    assert "\n  tensorboard --logdir here/run\n" in text


def test_the_first_next_command_works_as_printed(tmp_path, capsys, monkeypatch):
    run_train(tmp_path, *TINY, "logging.progress=none")
    found = re.search(r"python -m pg_experiments\.evaluate (.*)\n", capsys.readouterr().out)
    assert found
    monkeypatch.chdir(tmp_path)
    evaluate_main(found[1].replace("100", "2").split())
    assert "2 deterministic episodes" in capsys.readouterr().out


def test_the_summary_of_a_run_without_folder_names_none(capsys):
    (result,) = train([compose(*TINY, "logging.progress=none")])
    print_summary(result)
    text = capsys.readouterr().out
    assert "completed after" in text
    assert "folder" not in text
    assert "next" not in text


@pytest.mark.parametrize("normalizes", [True, False])
def test_a_baseline_that_changes_nothing_is_noted(normalizes, tmp_path, capsys):
    more = ("baseline=running_mean", f"algorithm.normalize_advantage={normalizes}", "logging.progress=none")
    run_train(tmp_path, "policy=softmax", "env=cartpole", *TINY, *more, "hydra.run.dir=here/run")
    assert ("note: baseline=running_mean is one number for all samples" in capsys.readouterr().out) == normalizes


@pytest.mark.parametrize(
    ("env", "line"),
    [
        ("cartpole", "policy=auto: softmax, because the environment has 2 discrete actions, continuous observations"),
        ("pendulum", "policy=auto: gaussian, because the environment has 1 continuous action, continuous observations"),
        ("frozen_lake", "policy=auto: tabular_softmax, because the environment has 4 discrete actions, 16 states"),
    ],
)
def test_auto_says_in_one_line_what_it_chose_and_why(tmp_path, capsys, env, line):
    run_train(tmp_path, "policy=auto", f"env={env}", *TINY, "hydra.run.dir=run")
    assert line in capsys.readouterr().out.splitlines()
