"""A Gymnasium environment that breaks the contract is one line before any work: what it did, and what is expected."""

import os
import subprocess
import sys
from pathlib import Path

import gymnasium
import pytest
from sweeping import results_of
from test_errors import assert_one_line, run_train  # noqa: F401 - a fixture

TYPE_CHECKS = False  # see conftest.py

TANK = """
import random
import gymnasium
import numpy as np
from gymnasium import spaces


class Tank(gymnasium.Env):
    metadata = {"render_modes": ["rgb_array"]}
    observation_space = spaces.Box(-9.0, 9.0, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, area=1.0, render_mode=None):
        self.area, self.render_mode = area, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.level = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return self.level, {}

    def step(self, action):
        self.level = self.level + np.float32(0.1 * action)
        return self.level, 1.0, False, False, {}


class Broken(Tank):
    pass
{broken}

gymnasium.register("Tank-v0", Tank, max_episode_steps=5)
gymnasium.register("Broken-v0", Broken, max_episode_steps=5)
gymnasium.register("Noisy-v0", Broken, max_episode_steps=5, nondeterministic=True)
gymnasium.register("Text-v0", "tank:Nothing", max_episode_steps=5)
gymnasium.register("Elsewhere-v0", "no_such_module:Env", max_episode_steps=5)
gymnasium.register("Function-v0", lambda: "an environment", max_episode_steps=5)
gymnasium.register("Endless-v0", Tank)
"""
RESET = "def reset(self, seed=None, options=None):\n super().reset(seed=seed)\n return {}"
STEP = "def step(self, action):\n return {}"
IN_RESET, IN_STEP = "Gymnasium expects (observation, info)", "Gymnasium expects (observation, reward, terminated, t"
A_PAIR = "expected real numbers of shape (2,), as its observation_space says"
BROKEN = {  # what the class says, and what the message must say
    "no action space": ("action_space = None", "has no action_space; Gymnasium expects one"),
    "no observation space": ("observation_space = property()", "has no observation_space; Gymnasium expects one"),
    "space that raises": (
        "@property\ndef observation_space(self):\n raise RuntimeError('no sensors')",
        "its observation_space raised RuntimeError: no sensors (tank.py, line",
    ),
    "step that leaves Python": (
        "def step(self, action):\n raise SystemExit('no licence')",
        "step raised SystemExit: no licence (tank.py, line",
    ),
    "another space": ("action_space = [0, 1]", "its action_space is a builtins.list; Gymnasium expects one of"),
    "reset without info": (RESET.format("self.np_random.uniform(-1, 1, 2)"), f"reset returned shape (2,); {IN_RESET}"),
    "reset of three": (RESET.format("self.level, {}, 3"), f"reset returned 3 values; {IN_RESET}"),
    "reset of none": (RESET.format("None"), f"reset returned None; {IN_RESET}"),
    "reset with a list for info": (RESET.format("np.zeros(2), []"), "reset returned an info of []; Gymnasium expects"),
    "reset without seed": ("def reset(self):\n return np.zeros(2), {}", "its reset takes no seed; Gymnasium expects"),
    "reset without options": ("def reset(self, seed=None):\n return np.zeros(2), {}", "its reset takes no options"),
    "reset raises": (RESET.format("1 / 0"), "reset raised ZeroDivisionError: division by zero (tank.py, line 30)"),
    "reset of another shape": (RESET.format("np.zeros(3), {}"), "observation of shape (3,), expected (2,), as its obs"),
    "reset of text": (RESET.format("'full', {}"), f"reset returned an observation of 'full', {A_PAIR}"),
    "reset of nan": (RESET.format("np.array([0, np.nan]), {}"), "observation with nan at place 1, expected finite"),
    "state beyond the last": (
        f"observation_space = spaces.Discrete(4)\n{RESET.format('4, {}')}",
        "reset returned an observation of 4, expected a whole number from 0 to 3, as its observation_space says",
    ),
    "floats for an image": (
        f"observation_space = spaces.Box(0, 255, (4, 4), np.uint8)\n{RESET.format('np.ones((4, 4)), {}')}",
        "observation of type float64, expected whole numbers of shape (4, 4), as its observation_space says",
    ),
    "seed that is not used": (
        RESET.format("np.array([random.random(), 0.0]), {}"),
        "two episodes from reset(seed=0) with equal actions differ in the reset: Gymnasium expects reset to call",
    ),
    "random numbers of its own": (
        STEP.format("self.level, random.random(), False, False, {}"),
        "two episodes from reset(seed=0) with equal actions differ in step 1",
    ),
    "numbers of other episodes": (
        RESET.format("self.__dict__.setdefault('count', np.zeros(2)).__iadd__(1), {}"),
        "two episodes from reset(seed=0) with equal actions differ in the reset: Gymnasium expects reset to call",
    ),
    "step of four": (
        STEP.format("self.level, 1.0, False, {}"),
        "step returned 4 values, as the old gym did: its `",
    ),
    "step of two": (STEP.format("self.level, 1.0"), f"step returned 2 values; {IN_STEP}"),
    "step of none": (STEP.format("None"), f"step returned None; {IN_STEP}"),
    "step raises": (STEP.format("self.valve"), "step raised AttributeError: 'Broken' object has no attribute 'valve'"),
    "step of another shape": (STEP.format("1.0, 1.0, False, False, {}"), "observation of shape (), expected (2,), as"),
    "reward of none": (
        STEP.format("self.level, None, False, False, {}"),
        "step returned a reward of None of type NoneType; Gymnasium expects one number, such as float(reward)",
    ),
    "reward of an array": (
        STEP.format("self.level, np.ones(1), False, False, {}"),
        "step returned a reward of shape (1,) of type ndarray; Gymnasium expects one number",
    ),
    "reward of nan": (STEP.format("self.level, np.nan, False, False, {}"), "a reward of nan, expected a finite number"),
    "terminated of 1": (
        STEP.format("self.level, 1.0, 1, False, {}"),
        "step returned terminated=1 of type int; Gymnasium expects True or False, such as bool(terminated)",
    ),
    "truncated of none": (
        STEP.format("self.level, 1.0, False, None, {}"),
        "step returned truncated=None of type NoneType",
    ),
    "step with none for info": (STEP.format("self.level, 1.0, False, False, None"), "step returned an info of None"),
}
BASE = (
    "policy=softmax",
    "env=gymnasium",
    "env.num_envs=2",
    "total_env_steps=20",
    "evaluation.episodes=2",
    "logging.progress=none",
)


@pytest.fixture
def tank(run_train, monkeypatch):  # noqa: F811
    """Write `tank.py` into a folder of its own, and train on an environment of it."""
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))

    def run(name: str, *more: str, broken: str = "", text: str | None = None):
        indented = "\n".join("    " + line for line in broken.splitlines())
        parts = Path.cwd().parent / "parts"
        parts.mkdir(exist_ok=True)
        (parts / "tank.py").write_text(TANK.replace("{broken}", indented) if text is None else text)
        monkeypatch.syspath_prepend(str(parts))
        monkeypatch.delitem(sys.modules, "tank", raising=False)
        return run_train(*BASE, f"env.id={name}", *more)

    return run


@pytest.mark.parametrize(("broken", "says"), BROKEN.values(), ids=BROKEN)
def test_a_broken_contract_is_told_before_any_folder_is_made(tank, broken, says):
    outcome = tank("tank:Broken-v0", broken=broken)
    assert_one_line(outcome, "error: env.id=tank:Broken-v0: ", says)
    assert outcome.files == []


@pytest.mark.parametrize(
    ("name", "more", "says"),
    [
        ("tnk:Tank-v0", (), "cannot import tnk: No module named 'tnk'; run the command in the folder that holds it"),
        ("tank:Tnk-v0", (), "tank was imported, and registers none of that name. Did you mean 'tank:Tank-v0'?"),
        ("tank:Tank-v9", (), "tank was imported, and registers none of that name. Did you mean 'tank:Tank-v0'?"),
        ("Zylinder-v0", (), "One of your own is given as env.id=its_module:Its-v0"),
        ("tank:Text-v0", (), "AttributeError: module 'tank' has no attribute 'Nothing'"),
        ("tank:Elsewhere-v0", (), "its entry_point cannot be imported: No module named 'no_such_module'"),
        ("tank:Function-v0", (), "must inherit from the gymnasium.Env class, actual class: <class 'str'>"),
        ("tank:Endless-v0", (), "env.max_episode_steps: tank:Endless-v0 has no limit of its own; give one"),
        ("tank:Tank-v0", ("+env.kwargs.aera=2.0",), "env.kwargs.aera=2.0: tank:Tank-v0 takes no aera; it has area,"),
        ("tank:Tank-v0", ("+env.kwargs.aera=2.0",), "Did you mean 'area'?"),
        ("tank:Tank-v0", ("+env.kwargs.render_mode=rgb_aray",), "must be one of rgb_array. Did you mean 'rgb_array'?"),
    ],
)
def test_what_cannot_be_made_is_told_with_its_key(tank, name, more, says):
    outcome = tank(name, *more)
    assert_one_line(outcome, says)
    assert outcome.files == []


def test_a_misspelt_module_of_this_folder_is_asked_for(tank):
    Path("water_tank.py").write_text("")
    outcome = tank("watertank:Tank-v0")
    assert_one_line(outcome, "cannot import watertank", "Did you mean 'water_tank'?")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def tank(:", "importing tank raised SyntaxError: invalid syntax (tank.py, line 1)"),
        ("x = 1\ny = 1 / 0", "importing tank raised ZeroDivisionError: division by zero (tank.py, line 2)"),
        ("import no_such_simulator", "cannot import tank: No module named 'no_such_simulator' (tank.py, line 1)"),
    ],
)
def test_a_module_that_cannot_be_imported_is_told_with_its_line(tank, text, says):
    assert_one_line(tank("tank:Tank-v0", text=text), says)


def test_a_missing_argument_is_asked_for_by_its_key(tank):
    outcome = tank("tank:Broken-v0", broken="def __init__(self, width):\n pass")
    assert_one_line(outcome, "missing 1 required positional argument: 'width'; give it as env.kwargs.width=...")


def test_an_environment_that_cannot_be_repeated_is_allowed_when_it_says_so(tank):
    broken = STEP.format("self.level, random.random(), False, False, {}")
    assert tank("tank:Noisy-v0", broken=broken).code == 0


def test_a_reset_that_hangs_at_the_start_is_told_by_the_key_of_the_limit(tank):
    broken = "def reset(self, seed=None, options=None):\n import time\n time.sleep(100)"
    outcome = tank("tank:Broken-v0", "env.step_seconds=0.1", broken=broken)
    assert_one_line(outcome, "env.step_seconds=0.1: a reset of tank:Broken-v0 took longer, before training began")


def test_what_keeps_the_contract_trains(tank):
    outcome = tank("tank:Tank-v0", "+env.kwargs.area=2.0", "+env.kwargs.render_mode=rgb_array")
    assert outcome.code == 0, outcome.err


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("-m", "seed=0,1", "hydra.launcher.workers=2", "sweep.name=s")])
def test_a_module_of_the_working_folder_is_found_by_the_command_and_by_the_workers_of_a_sweep(tmp_path, flags):
    (tmp_path / "tank.py").write_text(TANK.replace("{broken}", ""))
    command = [sys.executable, "-m", "pg_experiments.train", *flags, *BASE, "env.id=tank:Tank-v0"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if flags:
        assert len(results_of(tmp_path / "outputs" / "sweeps" / "s")) == 2
