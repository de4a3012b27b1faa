"""Ctrl-C, in a real process: an end in two seconds of its own time, exit code 130, and a folder that can be used."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import pytest
from own_time import own_seconds_to_end

import pg_experiments
from pg_experiments import load_policy
from pg_experiments.evaluate import main as evaluate_main

SECONDS_TO_END = 2.0
SECONDS_TO_START = 240.0
ENDLESS = ("total_env_steps=1000000000", "logging.progress=plain", "hydra.run.dir=run")
SLOW_EPISODE_STEPS = 10
STEPS_TO_TRY_OUT = 5  # before any folder is made: see envs/contract.py

SLOW_ENV = f'''
"""A Gymnasium environment that takes its time; it counts its steps by the size of the file `steps`."""

import time

import gymnasium
import numpy as np

class Slow(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, seconds=0.0, steps_file=None):
        self.seconds, self.steps_file = seconds, steps_file

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {{}}

    def step(self, action):
        time.sleep(self.seconds)
        if self.steps_file:
            with open(self.steps_file, "ab") as file:
                file.write(b".")
        return np.full(2, 0.1 * action, np.float32), 1.0 + action, False, False, {{}}


gymnasium.register("Slow-v0", entry_point=Slow, max_episode_steps={SLOW_EPISODE_STEPS})
'''


@dataclass(frozen=True)
class Ended:
    """How a process ended after Ctrl-C."""

    code: int
    seconds: float
    out: str
    err: str


def interrupt(folder: Path, *arguments: str, when: Callable[[], bool]) -> Ended:
    """Start training in a folder, press Ctrl-C as soon as `when` holds, and wait for the end."""
    paths = [str(Path(pg_experiments.__file__).parents[1]), str(folder)]
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "pg_experiments.train", *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdout=out,
            stderr=err,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job would ignore Ctrl-C
        )
        try:
            deadline = time.monotonic() + SECONDS_TO_START
            while not when():
                assert process.poll() is None, (folder / "err").read_text()
                assert time.monotonic() < deadline, "training did not start"
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            seconds = own_seconds_to_end(process)
        finally:
            process.kill()
            process.wait()
    return Ended(process.returncode, seconds, (folder / "out").read_text(), (folder / "err").read_text())


def result_of(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def assert_ended_well(ended: Ended, run_dir: Path) -> None:
    """Everything that holds for every interrupted run."""
    assert ended.code == 130
    assert ended.err == ""
    assert "interrupted after" in ended.out
    assert "python -m pg_experiments.evaluate run" in ended.out
    result = result_of(run_dir)
    assert result["status"] == "interrupted"
    assert result["evaluation"] is None
    assert ended.seconds < SECONDS_TO_END
    temporary = [path.name for path in run_dir.rglob("*") if path.name.endswith(".tmp")]
    assert temporary == []


def test_ctrl_c_in_mid_training_ends_quickly_and_leaves_a_run_that_can_be_used(tmp_path, capsys):
    out = tmp_path / "out"
    ended = interrupt(
        tmp_path, "env.num_envs=4", *ENDLESS, when=lambda: out.exists() and out.read_text().count("iteration ") >= 2
    )
    run_dir = tmp_path / "run"
    assert_ended_well(ended, run_dir)
    result = result_of(run_dir)
    assert result["iterations"] >= 2
    assert result["env_steps"] == 800 * result["iterations"]
    rows = (run_dir / "metrics.csv").read_text().splitlines()[1:]
    assert len(rows) in (result["iterations"], result["iterations"] + 1)
    assert rows[result["iterations"] - 1].startswith(f"{result['iterations']},{result['env_steps']},")
    assert load_policy(run_dir)([1.0, 0.0, 0.0]).shape == (1,)
    evaluate_main([str(run_dir), "--episodes", "2"])
    assert "2 deterministic episodes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("steps", "iterations"),
    [(5, 0), (2 * SLOW_EPISODE_STEPS + 5, 1)],
    ids=["first rollout", "second rollout"],
)
def test_ctrl_c_in_the_middle_of_a_slow_rollout_drops_only_that_iteration(
    tmp_path, monkeypatch, capsys, steps, iterations
):
    (tmp_path / "slow_env.py").write_text(SLOW_ENV)
    count = tmp_path / "steps"
    ended = interrupt(
        tmp_path,
        "policy=softmax",
        "env=gymnasium",
        "env.id=slow_env:Slow-v0",
        "env.num_envs=2",
        "env.kwargs.seconds=0.1",
        f"env.kwargs.steps_file={count}",
        *ENDLESS,
        when=lambda: count.exists() and count.stat().st_size >= STEPS_TO_TRY_OUT + steps,
    )
    run_dir = tmp_path / "run"
    assert_ended_well(ended, run_dir)
    result = result_of(run_dir)
    assert result["iterations"] == iterations
    assert result["env_steps"] == iterations * 2 * SLOW_EPISODE_STEPS
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "slow_env", raising=False)
    monkeypatch.delitem(gymnasium.registry, "Slow-v0", raising=False)
    assert int(load_policy(run_dir, trust="slow_env")([0.0, 0.0])) in range(3)
    evaluate_main([str(run_dir), "--episodes", "1", "--trust", "slow_env"])
    assert "1 deterministic episodes" in capsys.readouterr().out
