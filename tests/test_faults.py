"""Faults that really happen: environments that do what none may, disks that are full or gone, and too little memory.

In each of them a run fails with one clear line, its neighbours are bit for bit the runs alone, and nothing that was
complete is lost.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from sweeping import (  # noqa: F401 - fixtures
    TINY,
    alone,
    hashes_of,
    results_of,
    run,
    start,
    sweep,
)

import pg_experiments
from pg_experiments import UserError, compose, load_policy, train
from pg_experiments.batch import Batch, joined, rows_of
from pg_experiments.config import config_sha256, differences
from pg_experiments.envs.time_limit import TookTooLong
from pg_experiments.run_folder import RunFolder

TYPE_CHECKS = False  # see conftest.py

SWEEP = Path("outputs") / "sweeps" / "s"
FLAGS = ("--config-dir", "parts")

# --- environments -----------------------------------------------------------------------------------------------------

FAULTY = '''
"""Walks along a line, in Gymnasium and natively; the run whose noise is `culprit` goes wrong in its third step."""

import ctypes
import itertools
import os
import resource
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from pg_experiments.envs.cartpole import CartPole
from pg_experiments.envs.interface import Transition

SEEN = []  # the first noise of every reset

def sleep_for_ever():
    while True:
        time.sleep(1000)


def loop_for_ever():
    while True:
        pass


def try_again_for_ever():
    while True:
        try:
            time.sleep(1000)
        except Exception:
            pass


def never_return_to_python():
    sum(itertools.repeat(0))


def lock_twice():
    """In C, without Python's lock, and no signal ends it."""
    c, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    c.pthread_mutex_lock(mutex)
    c.pthread_mutex_lock(mutex)


def hang_when_repeated(seen):
    if Path("repeated").exists():
        lock_twice()
    return seen


def eat_until_killed():
    Path(os.environ["SMALL_MEMORY"], "cgroup.procs").write_text(str(os.getpid()))
    eaten = []
    while True:
        eaten.append(bytearray(os.urandom(1 << 20)) * 16)


def be_killed():
    os.kill(os.getpid(), signal.SIGKILL)


def eat_until_refused():
    usage, (_, hard) = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize(), LIMIT
    resource.setrlimit(resource.RLIMIT_AS, (usage + (64 << 20), hard))
    try:
        torch.zeros(1 << 30)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, LIMIT)


LIMIT = resource.getrlimit(resource.RLIMIT_AS)


def fail():
    raise RuntimeError("the motor is hot")


CALLS = {
    each.__name__: each
    for each in (
        sleep_for_ever,
        loop_for_ever,
        try_again_for_ever,
        never_return_to_python,
        lock_twice,
        eat_until_killed,
        be_killed,
        eat_until_refused,
    )
}
FAULTS = {
    "raise": lambda seen, gain: fail(),
    "hang when repeated": lambda seen, gain: (hang_when_repeated(seen), gain, False, False, {}),
    "shape": lambda seen, gain: (seen[:3], gain, False, False, {}),
    "one number": lambda seen, gain: (1.0, gain, False, False, {}),
    "ragged": lambda seen, gain: ([[1.0], [1.0, 2.0]], gain, False, False, {}),
    "object": lambda seen, gain: (seen.astype(object), gain, False, False, {}),
    "complex": lambda seen, gain: (seen.astype(complex), gain, False, False, {}),
    "string": lambda seen, gain: (seen.astype(str), gain, False, False, {}),
    "none": lambda seen, gain: (None, gain, False, False, {}),
    "nan": lambda seen, gain: (seen * np.nan, gain, False, False, {}),
    "infinite": lambda seen, gain: (seen + np.array([0, np.inf, 0, 0]), gain, False, False, {}),
    "reward nan": lambda seen, gain: (seen, np.nan, False, False, {}),
    "reward none": lambda seen, gain: (seen, None, False, False, {}),
    "reward list": lambda seen, gain: (seen, [1.0], False, False, {}),
    "reward two": lambda seen, gain: (seen, np.ones(2), False, False, {}),
    "reward string": lambda seen, gain: (seen, "1.0", False, False, {}),
    "terminated none": lambda seen, gain: (seen, gain, None, False, {}),
    "truncated two": lambda seen, gain: (seen, gain, False, np.array([True, False]), {}),
    "four": lambda seen, gain: (seen, gain, False, {}),
    "state -1": lambda seen, gain: (-1, gain, False, False, {}),
    "state 4": lambda seen, gain: (4, gain, False, False, {}),
    "state 1.5": lambda seen, gain: (1.5, gain, False, False, {}),
    "state nan": lambda seen, gain: (float("nan"), gain, False, False, {}),
    "state vector": lambda seen, gain: (np.array([1, 2]), gain, False, False, {}),
}


class Walk(gymnasium.Env):
    """Ten steps; all copies of the run whose seed of an episode is `culprit` go wrong."""

    def __init__(self, culprit=-1, how="raise", where="step", states=0):
        box = spaces.Box(-10.0, 10.0, (4,), np.float32)
        self.observation_space = spaces.Discrete(states) if states else box
        self.action_space = spaces.Discrete(2)
        self.culprit, self.how, self.where, self.states = culprit, how, where, states

    def seen(self):
        return self.place % self.states if self.states else np.full(4, self.place, np.float32)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        self.place, self.bad = int(self.np_random.integers(3)), seed == self.culprit
        if self.bad and self.where == "reset":
            if self.how in CALLS:
                CALLS[self.how]()
            return FAULTS[self.how](self.seen(), 1.0)[0], {}
        return self.seen(), {}

    def step(self, action):
        self.count += 1
        self.place += 1 if action else -1
        seen, gain = self.seen(), float(self.place)
        if self.bad and self.count == 3 and self.where == "step":
            if self.how in CALLS:
                CALLS[self.how]()
            return FAULTS[self.how](seen, gain)
        return seen, gain, False, False, {}


gymnasium.register("Walk-v0", Walk, max_episode_steps=10)


@dataclass(frozen=True)
class NativeWalk(CartPole):
    """CartPole, but the third step of a batch with the run whose first noise is `culprit` goes wrong."""

    culprit: float = 2.0
    how: str = "raise"
    where: str = "step"

    def reset(self, noise):
        state, seen = super().reset(noise)
        SEEN.append(noise[0, 0, 0].item())
        bad, count = noise[:, 0, 0] == self.culprit, torch.zeros(len(noise))
        if bad.any() and self.where == "reset":
            flags = torch.zeros(seen.shape[:2], dtype=torch.bool)
            seen = self.spoil(bad, state, seen, torch.zeros(seen.shape[:2]), flags, flags).observation
        return (state, bad, count), seen

    def step(self, state, action, running):
        own, bad, count = state
        after = super().step(own, action, running)
        after = after._replace(state=(after.state, bad, count + 1))
        now = bad & (count == 2)
        return self.spoil(now, *after) if now.any() and self.where == "step" else after

    def spoil(self, bad, state, seen, gain, ended, cut):
        if self.how in CALLS:
            CALLS[self.how]()
        whole = Transition(state, seen, gain, ended, cut)
        return {
            "raise": lambda: fail(),
            "shape": lambda: whole._replace(observation=seen[..., :3]),
            "double": lambda: whole._replace(observation=seen.double()),
            "array": lambda: whole._replace(observation=seen.numpy()),
            "nan": lambda: whole._replace(observation=torch.where(bad[:, None, None], torch.nan, seen)),
            "reward nan": lambda: whole._replace(reward=torch.where(bad[:, None], torch.nan, gain)),
            "reward none": lambda: whole._replace(reward=None),
            "reward shape": lambda: whole._replace(reward=gain[..., None]),
            "reward whole": lambda: whole._replace(reward=gain.long()),
            "terminated whole": lambda: whole._replace(terminated=ended.long()),
            "truncated none": lambda: whole._replace(truncated=None),
            "none": lambda: None,
            "number": lambda: 1.0,
        }[self.how]()

    def select(self, state, rows):
        return super().select(state[0], rows), state[1][rows], state[2][rows]

    def join(self, states):
        own, bad, count = zip(*states)
        return super().join(own), torch.cat(bad), torch.cat(count)
'''
NATIVE_YAML = """
_target_: faulty.NativeWalk
num_envs: 4
max_episode_steps: 500
culprit: 2.0
how: raise
where: step
"""
SMALL = (*TINY, "total_env_steps=120")
WALK = (*SMALL, "env=gymnasium", "env.id=faulty:Walk-v0")
SEEDS = range(3)
BAD = 1  # the seed of the run that goes wrong


@pytest.fixture
def faulty(tmp_path, monkeypatch) -> Path:
    """A folder with a user's own environments, which can be imported."""
    parts = tmp_path / "parts"
    (parts / "env").mkdir(parents=True)
    (parts / "faulty.py").write_text(FAULTY)
    (parts / "env" / "faulty.yaml").write_text(NATIVE_YAML)
    monkeypatch.syspath_prepend(str(parts))
    monkeypatch.delitem(sys.modules, "faulty", raising=False)
    import gymnasium

    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    return parts


def seed_of_episode(iteration: int) -> int:
    """The seed of an episode that the bad run, in its copy 1, plays in this iteration, and nobody else."""
    import faulty as module  # type: ignore[import-not-found]

    seen: list[list[int]] = []
    from pg_experiments.envs.gymnasium_adapter import GymnasiumEnv

    before = GymnasiumEnv.reset

    def spy(self, noise):
        copies, observation = before(self, noise)
        seen.append([copy.unwrapped.np_random_seed for copy in copies[0]])
        return copies, observation

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GymnasiumEnv, "reset", spy)
        train([compose(*WALK, f"seed={BAD}")])
    assert module.Walk
    return seen[iteration][1]


def outcomes(results) -> list[tuple[str, str]]:
    return [(result.status, result.parameters_sha256) for result in results]


def check_neighbours(results, expected) -> str:
    """All but the bad run are the runs alone; the bad run's reason."""
    for seed in SEEDS:
        if seed != BAD:
            assert (results[seed].status, results[seed].error) == ("completed", None)
            assert outcomes(results)[seed] == outcomes(expected)[seed]
    assert results[BAD].status == "failed"
    assert results[BAD].error
    return str(results[BAD].error)


OF_4 = "expected real numbers of shape (4,)"
GYMNASIUM_FAULTS = {
    "raise": "step raised RuntimeError: the motor is hot",
    "shape": "step returned an observation of shape (3,), expected (4,)",
    "one number": "step returned an observation of shape (), expected (4,)",
    "ragged": "step returned an observation that is no array, expected shape (4,)",
    "object": f"step returned an observation of type object, {OF_4}",
    "complex": f"step returned an observation of type complex128, {OF_4}",
    "string": f"step returned an observation of type <U32, {OF_4}",
    "none": f"step returned an observation of None, {OF_4}",
    "nan": "step returned an observation with nan at place 0, expected finite numbers",
    "infinite": "step returned an observation with inf at place 1, expected finite numbers",
    "reward nan": "step returned a reward of nan, expected a finite number",
    "reward none": "step returned a reward of None, expected a number",
    "reward list": "step returned a reward of [1.0], expected a number",
    "reward two": "step returned a reward of shape (2,), expected a number",
    "reward string": "step returned a reward of '1.0', expected a number",
    "terminated none": "step returned terminated=None, expected a flag",
    "truncated two": "step returned truncated=shape (2,), expected a flag",
    "four": "step raised ValueError: not enough values to unpack (expected 5, got 4)",
}
STATE_FAULTS = {
    "state -1": "step returned an observation of -1, expected a whole number from 0 to 3",
    "state 4": "step returned an observation of 4, expected a whole number from 0 to 3",
    "state 1.5": "step returned an observation of 1.5, expected a whole number from 0 to 3",
    "state nan": "step returned an observation of nan, expected a whole number from 0 to 3",
    "state vector": "step returned an observation of shape (2,), expected a whole number from 0 to 3",
    "none": "step returned an observation of None, expected a whole number from 0 to 3",
}


def walks(culprit: int, how: str, *more: str):
    kwargs = f"env.kwargs={{culprit:{culprit},how:'{how}'}}"
    return [compose(*WALK, kwargs, f"seed={seed}", *more) for seed in SEEDS]


def test_a_faulty_gymnasium_environment_fails_its_run_with_what_it_returned(faulty, tmp_path):
    culprit = seed_of_episode(2)
    expected = train([compose(*WALK, f"seed={seed}") for seed in SEEDS])
    for number, (how, problem) in enumerate(GYMNASIUM_FAULTS.items()):
        folders = [tmp_path / f"{number}-{seed}" for seed in SEEDS]
        results = train(walks(culprit, how), folders)
        assert check_neighbours(results, expected) == f"env faulty:Walk-v0: {problem} (in step 3 of copy 1)"
        assert results[BAD].iterations == 2
        log = (folders[BAD] / "train.log").read_text()
        assert f"failed: {results[BAD].error}" in log
        assert "Traceback" in log


def test_a_faulty_state_fails_its_run_with_what_it_was(faulty):
    small = [item for item in WALK if not item.startswith("policy")]

    def make(*more: str):
        states = ("policy=tabular_softmax", "+env.kwargs.states=4")
        return [compose(*small, *states, f"seed={seed}", *more) for seed in SEEDS]

    culprit = seed_of_episode(2)
    expected = train(make())
    for how, problem in STATE_FAULTS.items():
        results = train(make(f"+env.kwargs.culprit={culprit}", f"+env.kwargs.how='{how}'"))
        assert check_neighbours(results, expected) == f"env faulty:Walk-v0: {problem} (in step 3 of copy 1)"


@pytest.mark.parametrize("how", ["nan", "shape", "string"])
def test_a_faulty_reset_is_told_as_one(faulty, how):
    expected = train([compose(*WALK, f"seed={seed}") for seed in SEEDS])
    results = train(walks(seed_of_episode(1), how, "+env.kwargs.where=reset"))
    problem = GYMNASIUM_FAULTS[how].replace("step", "reset")
    assert check_neighbours(results, expected) == f"env faulty:Walk-v0: {problem} (in the reset of copy 1)"


# --- that hang --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["sleep_for_ever", "loop_for_ever", "try_again_for_ever"])
@pytest.mark.parametrize("where", ["step", "reset"])
def test_a_step_that_hangs_is_interrupted(faulty, how, where):
    expected = train([compose(*WALK, f"seed={seed}") for seed in SEEDS])
    handler, begin = signal.getsignal(signal.SIGALRM), time.monotonic()
    results = train(walks(seed_of_episode(2), how, f"+env.kwargs.where={where}", "env.step_seconds=0.5"))
    moment = "step 3" if where == "step" else "the reset"
    reason = f"env faulty:Walk-v0: a step took longer than 0.5 s (env.step_seconds) (in {moment} of copy 1)"
    assert check_neighbours(results, expected) == reason
    assert time.monotonic() - begin < 30
    assert signal.getsignal(signal.SIGALRM) == handler
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def hanging_command(faulty: Path, how: str, episode: int) -> subprocess.CompletedProcess[str]:
    kwargs = f"env.kwargs={{culprit:{seed_of_episode(episode)},how:{how}}}"
    limit = ("env.step_seconds=0.1", "logging.every=1", f"seed={BAD}", "hydra.run.dir=run")
    return training_command(faulty, *WALK, kwargs, *limit)


def training_command(faulty: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pg_experiments.train", *arguments],
        cwd=faulty.parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(pg_experiments.__file__).parents[1]), str(faulty)])},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("episode", [2, -1])  # of training, and of the evaluation
def test_a_command_that_hangs_in_c_fails_with_a_result_and_can_be_evaluated(faulty, episode):
    ended = hanging_command(faulty, "lock_twice", episode)
    reason = "a step took longer than 0.1 s (env.step_seconds) and never returned to Python"
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"error: {reason}; it was in\n")
    assert "in lock_twice" in ended.stderr
    assert f"failed: {reason}; after " in ended.stdout
    folder = faulty.parent / "run"
    result = json.loads((folder / "result.json").read_text())
    (alone,) = train([compose(*WALK, f"seed={BAD}")])
    assert (result["status"], result["error"]) == ("failed", reason)
    assert (result["parameters_sha256"] == alone.parameters_sha256) is (episode == -1)
    assert "in lock_twice" in (folder / "train.log").read_text()
    assert load_policy(folder, trust="faulty")
    assert "--trust faulty" in ended.stdout


@pytest.mark.slow
def test_a_repeated_run_that_hangs_in_c_ends_too(faulty):
    assert hanging_command(faulty, "hang when repeated", 2).returncode == 0
    (faulty.parent / "repeated").touch()
    ended = training_command(faulty, "--repeat", "run", "--trust", "faulty")
    assert ended.returncode == 1
    assert "in lock_twice" in ended.stderr
    assert "and never returned to Python; after " in ended.stdout


@pytest.mark.slow
def test_a_command_that_hangs_in_c_with_pythons_lock_ends_and_says_where(faulty):
    ended = hanging_command(faulty, "never_return_to_python", 2)
    assert ended.returncode == 1
    assert "Timeout" in ended.stderr
    assert "in never_return_to_python" in ended.stderr
    assert not (faulty.parent / "run" / "result.json").exists()


def test_the_end_of_one_environments_steps_leaves_the_watch_over_anothers():
    program = """
import itertools, time
from pg_experiments.envs.hanging import POLL_SECONDS, ended_when_hanging
from pg_experiments.envs.time_limit import TimeLimit
first, second = TimeLimit(SECONDS), TimeLimit(SECONDS)
with ended_when_hanging(print):
    with first.heard():
        first.start()
    with second.heard():
        second.start()
        time.sleep(2 * POLL_SECONDS)
        sum(itertools.repeat(0))
"""
    constants = "import pg_experiments.envs.time_limit as limit; limit.GRACE_SECONDS = 1.0; SECONDS = 0.5"
    ended = subprocess.run(
        [sys.executable, "-c", constants + program], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    assert "Timeout" in ended.stderr


def test_a_step_that_hangs_in_the_evaluation_is_interrupted(faulty):
    expected = train([compose(*WALK, f"seed={seed}") for seed in SEEDS])
    results = train(walks(seed_of_episode(-1), "sleep_for_ever", "env.step_seconds=0.5"))
    assert check_neighbours(results, expected).startswith("evaluation: env faulty:Walk-v0: a step took longer than 0.5")
    assert results[BAD].parameters_sha256 == expected[BAD].parameters_sha256


def test_the_limit_changes_no_number_and_makes_no_other_run(faulty):
    plain, limited = (compose(*WALK, *more) for more in ((), ("env.step_seconds=5",)))
    assert config_sha256(plain) == config_sha256(limited)
    assert differences(plain, limited) == []
    assert outcomes(train([plain])) == outcomes(train([limited]))


def test_the_limit_needs_the_main_thread():
    with ThreadPoolExecutor(1) as pool, pytest.raises(UserError, match=r"env.step_seconds=5.0: needs .* main thread"):
        pool.submit(train, [compose(*SMALL, "env.step_seconds=5")]).result()


def test_the_timer_of_somebody_else_goes_on():
    from pg_experiments.envs.time_limit import TimeLimit

    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        limit = TimeLimit(0.05)
        with limit.heard():
            limit.start()
            with pytest.raises(TookTooLong):
                time.sleep(10)
        assert not rung
        time.sleep(0.3)
        assert rung
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- native ones ------------------------------------------------------------------------------------------------------

NATIVE_FAULTS = {
    "raise": "RuntimeError: the motor is hot",
    "shape": "env NativeWalk: step returned an observation of shape (1, 4, 3), expected (1, 4, 4) (in step 3)",
    "double": "env NativeWalk: step returned an observation of type float64, expected float32 (in step 3)",
    "array": "env NativeWalk: step returned an observation of type ndarray, expected a tensor of shape (1, 4, 4)"
    " (in step 3)",
    "nan": "env NativeWalk: step returned an observation that is not finite (in step 3 of copy 0)",
    "reward nan": "env NativeWalk: step returned a reward that is not finite (in step 3 of copy 0)",
    "reward none": "env NativeWalk: step returned a reward of type NoneType, expected a tensor of shape (1, 4)"
    " (in step 3)",
    "reward shape": "env NativeWalk: step returned a reward of shape (1, 4, 1), expected (1, 4) (in step 3)",
    "reward whole": "env NativeWalk: step returned a reward of type int64, expected float32 (in step 3)",
    "terminated whole": "env NativeWalk: step returned terminated of type int64, expected bool (in step 3)",
    "truncated none": "env NativeWalk: step returned truncated of type NoneType, expected a tensor of shape (1, 4)"
    " (in step 3)",
    "none": "env NativeWalk: step returned None, expected a Transition (in step 3)",
    "number": "env NativeWalk: step returned 1.0, expected a Transition (in step 3)",
    "sleep_for_ever": "env NativeWalk: a step took longer than 0.5 s (env.step_seconds) (in step 3)",
}


@pytest.fixture
def native(faulty):
    """Configs of the native environment; `native.noise` is what the bad run meets in its third reset."""
    base = compose(*TINY, "total_env_steps=240", "env=faulty", "env.max_episode_steps=20", config_dir=faulty)

    def make(**env):
        return [replace(base, seed=seed, env={**base.env, **env}) for seed in SEEDS]

    import faulty as module  # type: ignore[import-not-found]

    train(make()[BAD : BAD + 1])
    make.noise = {"culprit": module.SEEN[2]}  # type: ignore[attr-defined]
    return make


def test_a_faulty_native_environment_fails_its_run_with_what_it_returned(native):
    expected = train(native())
    for how, reason in NATIVE_FAULTS.items():
        limit = {"step_seconds": 0.5} if how.endswith("_for_ever") else {}
        results = train(native(**native.noise, how=how, **limit))
        assert check_neighbours(results, expected) == reason
        assert results[BAD].iterations == 2


@pytest.mark.parametrize("how", ["shape", "nan"])
def test_a_faulty_native_reset_is_told_as_one(native, how):
    reason = check_neighbours(train(native(**native.noise, how=how, where="reset")), train(native()))
    assert reason.startswith("env NativeWalk: reset returned an observation ")
    assert "in the reset" in reason


# --- in a sweep -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_hanging_environment_fails_its_job_of_a_sweep(sweep, faulty, tmp_path):  # noqa: F811
    kwargs = f"env.kwargs={{culprit:{seed_of_episode(2)},how:loop_for_ever}}"
    expected = {f"seed={seed}": train([compose(*WALK, f"seed={seed}")])[0].parameters_sha256 for seed in SEEDS}
    overrides = ("env=gymnasium", "env.id=faulty:Walk-v0", kwargs, "env.step_seconds=0.5", "total_env_steps=120")
    ended = sweep(*overrides, "seed=range(3)", "hydra.launcher.workers=1")
    assert ended.code == 1
    reason = "env faulty:Walk-v0: a step took longer than 0.5 s (env.step_seconds) (in step 3 of copy 1)"
    assert f"1 of 3 runs failed:\n  seed={BAD}: {reason}\n" in ended.out
    assert "Traceback" not in ended.out + ended.err
    hashes = hashes_of(tmp_path / SWEEP)
    assert {name: hashes[name] for name in expected if name != f"seed={BAD}"} == {
        name: value for name, value in expected.items() if name != f"seed={BAD}"
    }


@pytest.mark.slow
def test_a_step_that_never_returns_to_python_ends_its_worker_and_fails_alone(start, faulty, tmp_path):  # noqa: F811
    kwargs = f"env.kwargs={{culprit:{seed_of_episode(2)},how:never_return_to_python}}"
    expected = {f"seed={seed}": train([compose(*WALK, f"seed={seed}")])[0].parameters_sha256 for seed in SEEDS}
    launcher = ("hydra.launcher.workers=1", "hydra.launcher.retries=0")
    running = start(*WALK, kwargs, "env.step_seconds=0.1", "sweep.name=s", "seed=range(3)", *launcher)
    assert running.end() == 1
    assert f"1 of 3 runs failed:\n  seed={BAD}: its process died" in running.out
    assert "in never_return_to_python" in running.err  # where it was
    del expected[f"seed={BAD}"]
    assert hashes_of(tmp_path / SWEEP) == expected


# --- disks ------------------------------------------------------------------------------------------------------------

LONG = ("total_env_steps=3000", "checkpoint.every=5")
FULL = "No space left on device"


def mounted(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


@pytest.fixture
def small_disk() -> Iterator[Callable[[Path, str], None]]:
    """Mount a file system of the given size at a folder; called again, it changes the size."""
    folders: list[Path] = []

    def mount(folder: Path, size: str) -> None:
        if folder in folders:
            assert mounted("-o", f"remount,size={size}", str(folder))
            return
        folder.mkdir(parents=True)
        if sys.platform != "linux" or not mounted("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)):
            pytest.skip("a file system of a small size needs the permission to mount one")
        folders.append(folder)

    yield mount
    for folder in folders:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def in_mid_run(monkeypatch) -> Callable[[Callable[[Path], None]], None]:
    """Let something happen to the folder of the bad run, named after its seed, before row 12 of its records."""
    write = RunFolder.write

    def arrange(happens: Callable[[Path], None]) -> None:
        def wrapped(self, iteration, *arguments):
            if iteration == 12 and self.folder.name == str(BAD):
                happens(self.folder)
            return write(self, iteration, *arguments)

        monkeypatch.setattr(RunFolder, "write", wrapped)

    return arrange


def long_runs(*more: str):
    return [compose(*TINY, *LONG, f"seed={seed}", *more) for seed in SEEDS]


@cache
def long_alone() -> tuple[tuple[str, str], ...]:
    return tuple(outcomes(train(long_runs())))


@pytest.mark.parametrize("size", ["28k", pytest.param("44k", marks=pytest.mark.slow), "60k"])
def test_a_disk_that_fills_up_fails_its_run_which_goes_on_when_there_is_space(small_disk, tmp_path, size):
    small_disk(tmp_path / str(BAD), size)
    folders = [tmp_path / str(seed) for seed in SEEDS]
    results = train(long_runs(), folders)
    assert results[BAD].status == "failed"
    assert FULL in results[BAD].error
    assert "cannot write" in results[BAD].error
    assert str(folders[BAD]) in results[BAD].error
    assert [outcomes(results)[seed] for seed in (0, 2)] == [long_alone()[seed] for seed in (0, 2)]
    if (folders[BAD] / "checkpoints" / "last.pt").exists():
        load_policy(folders[BAD])  # whole, whenever it was written
    small_disk(folders[BAD], "20m")
    again = train(long_runs("checkpoint.resume=true"), folders)
    assert outcomes(again) == list(long_alone())
    rows = (folders[BAD] / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == [str(number + 1) for number in range(again[BAD].iterations)]


def vanish(folder: Path) -> None:
    shutil.rmtree(folder)


def become_read_only(folder: Path) -> None:
    # what is open stays open: a file system with open files cannot be made read-only as a whole
    if not mounted("--bind", str(folder), str(folder)):
        pytest.skip("a read-only file system needs the permission to mount one")
    assert mounted("-o", "remount,bind,ro", str(folder))


@pytest.mark.parametrize(
    ("happens", "reason"), [(vanish, "No such file or directory"), (become_read_only, "Read-only file system")]
)
def test_a_folder_that_is_gone_in_mid_run_fails_its_run(in_mid_run, tmp_path, capfd, happens, reason):
    folders = [tmp_path / str(seed) for seed in SEEDS]
    in_mid_run(happens)
    try:
        results = train(long_runs(), folders)
    finally:
        if happens is become_read_only:
            subprocess.run(["umount", "--lazy", folders[BAD]], check=False)
    assert results[BAD].status == "failed"
    assert results[BAD].error.startswith(f"cannot write {folders[BAD]}")
    assert results[BAD].error.endswith(reason)
    assert results[BAD].iterations == 14  # the last iteration before the next checkpoint
    assert [outcomes(results)[seed] for seed in (0, 2)] == [long_alone()[seed] for seed in (0, 2)]
    assert "Traceback" not in "".join(capfd.readouterr())
    in_mid_run(lambda folder: None)
    again = train(long_runs("checkpoint.resume=true"), folders)
    assert outcomes(again) == list(long_alone())


def test_a_folder_that_cannot_be_begun_fails_its_run_only(tmp_path):
    (tmp_path / str(BAD)).write_text("in the way")
    results = train(long_runs(), [tmp_path / str(seed) for seed in SEEDS])
    assert results[BAD].error == f"{tmp_path / str(BAD)}: cannot write the run's folder (File exists)"
    assert [outcomes(results)[seed] for seed in (0, 2)] == [long_alone()[seed] for seed in (0, 2)]


@pytest.mark.slow
def test_a_command_whose_disk_fills_up_says_so_and_goes_on_when_there_is_space(run, small_disk, tmp_path):  # noqa: F811
    small_disk(tmp_path / "full", "60k")
    command = (*TINY, *LONG, "checkpoint.resume=true", "hydra.run.dir=full")
    ended = run(*command)
    assert ended.code == 1
    assert FULL in ended.out + ended.err
    assert "Traceback" not in ended.out + ended.err
    small_disk(tmp_path / "full", "20m")
    assert run(*command).code == 0
    assert json.loads((tmp_path / "full" / "result.json").read_text())["parameters_sha256"] == long_alone()[0][1]


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True], ids=["of one job", "of the sweep"])
def test_a_full_disk_fails_jobs_of_a_sweep_and_the_same_command_finishes_them(sweep, small_disk, tmp_path, whole):  # noqa: F811
    disk = tmp_path / SWEEP if whole else tmp_path / SWEEP / f"seed={BAD}"
    small_disk(disk, "180k" if whole else "60k")
    command = (*LONG, "seed=range(3)", "hydra.launcher.workers=1")
    ended = sweep(*command)
    assert ended.code == 1
    assert "Traceback" not in ended.out + ended.err
    failed = [line for line in ended.out.splitlines() if line.startswith("  seed=")]
    assert all(FULL in line and "cannot write" in line for line in failed)
    assert f"\n{len(failed)} of 3 runs failed:\n" in ended.out
    complete = hashes_of(tmp_path / SWEEP)
    if not whole:
        assert [line.split(":")[0] for line in failed] == [f"  seed={BAD}"]
        assert {name: complete[name] for name in ("seed=0", "seed=2")} == {
            f"seed={seed}": long_alone()[seed][1] for seed in (0, 2)
        }
    small_disk(disk, "40m")
    ended = sweep(*command)
    assert ended.code == 0, ended.out + ended.err
    assert hashes_of(tmp_path / SWEEP) == {f"seed={seed}": long_alone()[seed][1] for seed in SEEDS}


@pytest.mark.slow
def test_a_job_whose_folder_is_deleted_fails_alone(start, tmp_path):  # noqa: F811
    long = ("total_env_steps=20000", "checkpoint.every=5")
    running = start(*TINY, *long, "sweep.name=s", "seed=range(3)", "hydra.launcher.workers=1")
    folder = tmp_path / SWEEP / f"seed={BAD}"
    running.wait_until(lambda: (folder / "checkpoints" / "last.pt").exists())
    shutil.rmtree(folder, ignore_errors=True)
    assert running.end() == 1
    assert f"1 of 3 runs failed:\n  seed={BAD}: cannot write " in running.out
    assert "Traceback" not in running.out + running.err
    expected = {f"seed={seed}": alone("total_env_steps=20000", f"seed={seed}") for seed in (0, 2)}
    assert hashes_of(tmp_path / SWEEP) == expected


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_memory(monkeypatch) -> Iterator[bool]:
    """A control group with 64 MiB of memory, named in the environment; False where none can be made."""
    first, second = (Path("/sys/fs/cgroup") / each for each in ("memory", ""))  # version 1, and version 2
    root = first if first.is_dir() else second
    group = root / f"pg_experiments_test_{os.getpid()}"
    try:
        group.mkdir()
        limit = group / ("memory.limit_in_bytes" if root == first else "memory.max")
        limit.write_text(str(64 << 20))
        if (swap := group / "memory.swap.max").exists():
            swap.write_text("0")
    except OSError:
        if group.is_dir():
            group.rmdir()
        yield False
        return
    monkeypatch.setenv("SMALL_MEMORY", str(group))
    yield True
    deadline = time.monotonic() + 10
    while (group / "cgroup.procs").read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    group.rmdir()


@pytest.mark.slow
def test_a_worker_that_the_system_kills_for_memory(start, faulty, small_memory, tmp_path):  # noqa: F811
    """By the kernel, where a control group can be made; elsewhere SIGKILL stands in, which is what it sends."""
    how = "eat_until_killed" if small_memory else "be_killed"
    kwargs = f"env.kwargs={{culprit:{seed_of_episode(2)},how:{how}}}"
    expected = {f"seed={seed}": train([compose(*WALK, f"seed={seed}")])[0].parameters_sha256 for seed in range(4)}
    begun = start(*WALK, kwargs, "sweep.name=s", "seed=range(4)", "hydra.launcher.workers=1")
    assert begun.end() == 1
    assert f"1 of 4 runs failed:\n  seed={BAD}: its process died (killed, or out of memory?) (3 times)\n" in begun.out
    assert "a worker is lost: its process died (killed, or out of memory?); its 4 unfinished runs" in begun.out
    assert "Traceback" not in begun.out + begun.err
    del expected[f"seed={BAD}"]
    assert hashes_of(tmp_path / SWEEP) == expected
    if small_memory:
        assert kills(Path(os.environ["SMALL_MEMORY"])) >= 3


def kills(group: Path) -> int:
    """How many processes of a control group the kernel has killed for memory."""
    text = (group / ("memory.events" if (group / "memory.events").exists() else "memory.oom_control")).read_text()
    return int(dict(line.split() for line in text.splitlines())["oom_kill"])


def test_memory_that_the_system_refuses_fails_its_run(native):
    expected = train(native())
    reason = check_neighbours(train(native(**native.noise, how="eat_until_refused")), expected)
    assert reason.startswith("RuntimeError: ")
    assert "can't allocate memory" in reason


def test_runs_that_have_not_learned_yet_go_on_beside_those_that_have():
    """As when a run is left out, or continued, while another one is still in its first iteration."""
    configs = long_runs()
    alone_at = [rows_of(one.state(), [0]) for one in (Batch([config]) for config in configs)]
    learned = Batch([configs[1]])
    for _ in range(3):
        learned.iterate()
    alone_at[1] = rows_of(learned.state(), [0])
    for order in ([0, 1], [1, 0]):
        together = Batch([configs[seed] for seed in order], joined([alone_at[seed] for seed in order]))
        for row, seed in enumerate(order):
            own, before = rows_of(together.state(), [row])["policy"], alone_at[seed]["policy"]
            assert own["steps"] == before["steps"]
            for key, value in before["elements"].items():
                assert torch.equal(own["elements"][key], value)
