"""Sweeps in real processes, and what they leave, for the tests of launchers and clusters."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pg_experiments
from pg_experiments import compose, train

SMALL = ("policy=softmax", "env=cartpole", "env.num_envs=4", "evaluation.episodes=2", "policy.hidden_sizes=[8]")
TINY = (*SMALL, "total_env_steps=2000")
SECONDS = 600  # the machines of CI are slow and shared


def start(folder: Path, *arguments: str, path: str = "", **environment: str) -> subprocess.Popen[str]:
    """`python -m pg_experiments.train -m` in a folder, the sweep's folder being `sweep`."""
    root = str(Path(pg_experiments.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-m", "pg_experiments.train", "-m", *arguments, "hydra.sweep.dir=sweep"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": root + path, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job would ignore Ctrl-C
    )


def finish(process: subprocess.Popen[str], seconds: float = SECONDS) -> subprocess.CompletedProcess[str]:
    """Wait for the end; nothing of its process group is left."""
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def sweep(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return finish(start(folder, *arguments, **environment))


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """By the name of the job's folder."""
    found = sorted((folder / "sweep").glob("*/result.json"))
    return {path.parent.name: json.loads(path.read_text()) for path in found}


def hashes(folder: Path) -> dict[str, str]:
    return {name: result["parameters_sha256"] for name, result in results(folder).items()}


@cache
def alone(*overrides: str) -> str:
    """What the run ends with when it is trained by itself."""
    (result,) = train([compose(*overrides, "logging.progress=none")])
    return result.parameters_sha256


def wait_until(process: subprocess.Popen[str], true: Callable[[], bool]) -> None:
    """Wait for something to become true while the process runs."""
    deadline = time.monotonic() + SECONDS
    while not true():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


def training_processes(folder: Path) -> dict[str, int]:
    """The process that each job says, in its log, to be trained by; the last one."""
    found = {}
    for log in sorted((folder / "sweep").glob("*/train.log")):
        begun = [line for line in log.read_text().splitlines() if "training begins" in line]
        if begun:
            found[log.parent.name] = int(begun[-1].rpartition(" ")[2])
    return found


def has_reported(folder: Path, batches: int) -> bool:
    """Whether so many batches have shown progress, and so are in mid-training."""
    return len(list((folder / "sweep" / ".progress").glob("*.json"))) >= batches
