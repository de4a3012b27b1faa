"""What the tests of sweeps share: tiny sweeps in this process and in one of their own, and a part that goes wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

import pg_experiments
from pg_experiments.train import main

TINY = (
    "policy=softmax",
    "policy.hidden_sizes=[8]",
    "env=cartpole",
    "env.num_envs=4",
    "baseline=leave_one_out",
    "total_env_steps=600",
    "evaluation.episodes=2",
    "logging.progress=none",
)
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
SECONDS = 240.0  # the machines of CI are slow and shared
POISONED = '''
"""CartPole, but a run that is reset with the noise `poison` goes wrong: so it can be any run at any moment."""

import os
import signal
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pg_experiments.envs.cartpole import CartPole

SEEN = []  # in this process: the first noise of every reset of the first run


@dataclass(frozen=True)
class PoisonedCartPole(CartPole):
    poison: float = 2.0
    how: str = "raise"
    seconds: float = 0.0  # that a step takes

    def reset(self, noise):
        SEEN.append(noise[0, 0, 0].item())
        poisoned = (noise[:, 0, 0] == self.poison).any()
        if poisoned and self.how == "raise":
            raise ValueError(f"poisoned\\nin a run of {len(noise)}")
        if poisoned and self.how == "raise the first time" and SEEN.count("raised") < 1:
            SEEN.append("raised")
            raise ValueError("poisoned")
        if poisoned and self.how == "raise in company" and len(noise) > 1:
            raise ValueError("poisoned")
        if poisoned and self.how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if poisoned and self.how == "exit":
            os._exit(3)
        if len(SEEN) > 4 and self.how == "raise in every run":
            raise ValueError("poisoned")
        return super().reset(noise)

    def step(self, state, action, running):
        time.sleep(self.seconds)
        return super().step(state, action, running)
'''
POISONED_YAML = """
_target_: poisoned.PoisonedCartPole
num_envs: 4
max_episode_steps: 500
poison: 2.0
how: raise
seconds: 0.0
"""


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(tmp_path, monkeypatch, capfd) -> Callable[..., Outcome]:
    """The training command in `tmp_path` and in this process; its workers are processes all the same."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # the command sets it; put back afterwards

    def call(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["train", *arguments])
        code = 0
        try:
            main()
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        finally:
            GlobalHydra.instance().clear()
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture
def sweep(run) -> Callable[..., Outcome]:
    """A sweep named `s` over the given overrides."""
    return lambda *overrides, flags=(): run("-m", *flags, *TINY, "sweep.name=s", *overrides)


@pytest.fixture
def poisoned(tmp_path, monkeypatch) -> Callable[[int, int], str]:
    """Overrides for the poisoned environment; called, the noise that a run of this seed meets in its n-th reset."""
    (tmp_path / "parts" / "env").mkdir(parents=True)
    (tmp_path / "parts" / "poisoned.py").write_text(POISONED)
    (tmp_path / "parts" / "env" / "poisoned.yaml").write_text(POISONED_YAML)
    monkeypatch.syspath_prepend(str(tmp_path / "parts"))
    monkeypatch.delitem(sys.modules, "poisoned", raising=False)

    def noise(seed: int, reset: int) -> str:
        import poisoned  # type: ignore[import-not-found]

        poisoned.SEEN.clear()
        config = pg_experiments.compose(*TINY, "env=poisoned", f"seed={seed}", config_dir=tmp_path / "parts")
        pg_experiments.train([config])
        found = poisoned.SEEN[reset]
        poisoned.SEEN.clear()
        return f"env.poison={found!r}"

    return noise


def folders_of(sweep_dir: Path) -> dict[str, Path]:
    """The jobs' folders by their names."""
    return {path.name: path for path in sorted(sweep_dir.iterdir()) if (path / ".hydra").is_dir()}


def results_of(sweep_dir: Path) -> dict[str, dict]:
    """What every job with a `result.json` left there."""
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(sweep_dir.glob("*/result.json"))}


@cache
def alone(*overrides: str) -> str:
    """The hash of a tiny run's parameters when it is trained by itself."""
    (result,) = pg_experiments.train([pg_experiments.compose(*TINY, *overrides)])
    return result.parameters_sha256


def hashes_of(sweep_dir: Path) -> dict[str, str]:
    return {name: result["parameters_sha256"] for name, result in results_of(sweep_dir).items()}


def content_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time and bytes of every file below a folder."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


# --- a process of its own, to be killed and interrupted ---------------------------------------------------------------


class Sweep:
    """A sweep in a process group of its own; its output goes to files in the folder."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        paths = [str(Path(pg_experiments.__file__).parents[1]), str(folder / "parts")]
        with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pg_experiments.train", "-m", *arguments],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                stdout=out,
                stderr=err,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def wait_until(self, condition: Callable[[], object], seconds: float = SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.out + self.err
            assert time.monotonic() < deadline, self.out + self.err
            time.sleep(0.02)

    def signal(self, number: int, group: bool = False) -> None:
        """Send a signal to the launcher, or to its whole group as a terminal does."""
        (os.killpg if group else os.kill)(self.process.pid, number)

    def end(self, seconds: float = SECONDS) -> int:
        """Wait for the end; the exit code."""
        return self.process.wait(timeout=seconds)

    def leaves_no_process(self, seconds: float = 30.0) -> bool:
        """Whether no process of the sweep is left, at the latest after so many seconds: none trains on for hours."""
        deadline = time.monotonic() + seconds
        while self.processes and time.monotonic() < deadline:
            time.sleep(0.05)
        return not self.processes

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text()

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text()

    @property
    def processes(self) -> list[int]:
        """Every living process that the launcher started, and itself."""
        return [pid for pid in _session(self.process.pid) if _alive(pid)]

    @property
    def workers(self) -> list[int]:
        """Those that train: each leads a process group of its own."""
        return [pid for pid in self.processes if pid != self.process.pid and os.getpgid(pid) == pid]


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., Sweep]]:
    """Start a sweep in `tmp_path`; nothing of it outlives the test."""
    sweeps: list[Sweep] = []

    def begin(*arguments: str) -> Sweep:
        sweeps.append(Sweep(tmp_path, *arguments))
        return sweeps[-1]

    yield begin
    for sweep in sweeps:
        for pid in sweep.processes:
            os.kill(pid, signal.SIGKILL)
        sweep.process.wait()


def rows_written(sweep_dir: Path) -> Sequence[int]:
    """How much every run that trains has written: there is a checkpoint or a row of it on the disk."""
    return [path.stat().st_size for path in sweep_dir.glob("*/train.log")]


def _session(leader: int) -> list[int]:
    """Processes of a session; /proc knows them also when their parents are gone."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader:
            found.append(int(path.parent.name))
    return found


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
