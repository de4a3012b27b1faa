"""Where a run was computed: what besides its config can decide its bits. Written into `result.json`."""

import os
import platform
import subprocess
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("pg_experiments", "torch", "gymnasium", "hydra-core", "omegaconf", "numpy", "envpool", "mujoco", "box2d")


def surroundings() -> dict[str, Any]:
    """The fields of `RunResult` that say where it was computed, by name; `threads` are those of this moment."""
    return {**_of_this_process(), "threads": torch.get_num_threads()}


@cache
def _of_this_process() -> dict[str, Any]:
    """Found once: what is installed later, or committed, is not what this process has imported; and it takes 13 ms."""
    commit, dirty = git_state()
    return {
        "versions": versions(),
        "git_commit": commit,
        "git_dirty": dirty,
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch_build": torch.version.git_version,
    }


def versions() -> dict[str, str]:
    """Versions of Python and the packages that decide the numbers."""
    return {"python": platform.python_version()} | versions_of(PACKAGES)


def versions_of(packages: Sequence[str]) -> dict[str, str]:
    """Of installed packages, by name."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def cpu_model() -> str:
    """The processor's name, such as `AMD EPYC`; its architecture where the system does not say more."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except OSError:  # no Linux
        pass
    return platform.processor() or platform.machine()


def git_state(package: Path | None = None) -> tuple[str | None, bool | None]:
    """The commit of the checkout that a package is run from, and whether tracked files differ from it.

    Args:
        package: its folder; None: this one.

    Returns:
        Two times None when it is installed from a wheel, even where that is below some other checkout, and without git.
    """
    package = package or Path(__file__).resolve().parent
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None, None
    commit = _git(package, "rev-parse", "HEAD")
    changes = _git(package, "status", "--porcelain", "--untracked-files=no")
    return (commit, None if changes is None else bool(changes)) if commit else (None, None)


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says in a folder; None when it fails. A repository that the environment names is none of ours."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            env=environment | {"GIT_OPTIONAL_LOCKS": "0"},  # to look must not stop who is committing
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
