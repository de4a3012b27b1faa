"""Check that the package can be installed: build wheel and sdist, and use the wheel from another folder.

    python tests/check_install.py                            # into this Python's own packages, borrowed: half a minute
    python tests/check_install.py python3.11 ~/python3.12    # into fresh environments: minutes and gigabytes each

In a fresh environment everything is downloaded, in the versions of `constraints.txt`, first without any extra.
`--extras` installs those afterwards, and sweeps with each. The folder of the installed packages is read-only where the
system lets root mount it so, and must be unchanged at the end in any case.
"""

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TINY = (
    "policy=softmax",
    "policy.hidden_sizes=[8]",
    "env=cartpole",
    "env.num_envs=4",
    "total_env_steps=400",
    "evaluation.episodes=3",
    "logging.progress=none",
)
SEEDS = ("-m", *TINY, "seed=0,1", "hydra.launcher.workers=1")
EXTRAS = {  # override that needs it -> key and value in the message, the extra, and a module that it installs
    "hydra.launcher.backend=ray": ("hydra.launcher.backend=ray", "ray", "ray"),
    "hydra.launcher.backend=submitit": ("hydra.launcher.backend=submitit", "slurm", "submitit"),
    "hydra/launcher=joblib": ("hydra/launcher=joblib", "joblib", "hydra_plugins.hydra_joblib_launcher"),
    "hydra/sweeper=optuna": ("hydra/sweeper=optuna", "optuna", "hydra_plugins.hydra_optuna_sweeper"),
}


@dataclass(frozen=True)
class Installed:
    """Where the package was installed.

    Attributes:
        python: the interpreter that finds it.
        packages: folder that holds it.
    """

    python: Path
    packages: Path


def build(folder: Path) -> tuple[Path, Path]:
    """Build the sdist, and from it the wheel, without asking the network for anything.

    Raises:
        AssertionError: when the sdist lacks something, or its wheel is not the wheel of the checkout.
    """
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "from-sdist", ROOT])
    run([sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", folder / "direct", ROOT])
    (wheel,), (sdist,) = (folder / "from-sdist").glob("*.whl"), (folder / "from-sdist").glob("*.tar.gz")
    (direct,) = (folder / "direct").glob("*.whl")
    assert contents(wheel) == contents(direct), contents(wheel) ^ contents(direct)
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {str(path.relative_to(ROOT)) for part in ("conf", "tests") for path in tracked(ROOT / part)}
    assert wanted <= packed, wanted - packed
    files = {
        str(path.relative_to(ROOT)) for part in ("pg_experiments", "hydra_plugins") for path in tracked(ROOT / part)
    }
    files |= {f"pg_experiments/{path.relative_to(ROOT)}" for path in tracked(ROOT / "conf")}
    installed = {name for name in contents(wheel) if ".dist-info/" not in name}
    assert installed == files, installed ^ files
    return wheel, sdist


def tracked(folder: Path) -> list[Path]:
    """The files below a folder, without what running leaves there."""
    return [path for path in folder.rglob("*") if path.is_file() and not {"__pycache__", "_build"} & set(path.parts)]


def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def install_borrowing(wheel: Path, folder: Path) -> Installed:
    """A new environment with the wheel alone, that finds everything else where the running Python finds it."""
    run([sys.executable, "-m", "venv", "--without-pip", folder])
    python = folder / "bin" / "python"
    packages = Path(output([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-index",
    ]
    run([*command, "--target", packages, wheel])
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return Installed(python, packages)


def install_afresh(python: str, wheel: Path, folder: Path) -> Installed:
    """A new environment of another Python, in which pip installs the wheel and all that it needs."""
    run([python, "-m", "venv", folder])
    pip_install(folder / "bin" / "python", str(wheel))
    packages = output([folder / "bin" / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"])
    return Installed(folder / "bin" / "python", Path(packages.strip()))


def pip_install(python: Path, *what: str) -> None:
    """`pip install` with the tested versions."""
    quiet = ("--quiet", "--disable-pip-version-check")
    run([python, "-m", "pip", "install", *quiet, "--constraint", ROOT / "constraints.txt", *what])


def use(installed: Installed, folder: Path) -> None:
    """Train, sweep, evaluate and report in a folder; nothing may be written beside the installed package.

    Raises:
        AssertionError: when something does not work.
    """
    before = snapshot(installed.packages)
    place = output(
        [installed.python, "-c", "from pg_experiments.composition import conf_dir; print(conf_dir())"], folder
    )
    assert Path(place.strip()) == installed.packages.resolve() / "pg_experiments" / "conf", place
    call = Command(installed, folder)
    call("train", *TINY, "hydra.run.dir=run")
    assert "return mean" in call("evaluate", "run", "--episodes", "2")
    call("train", *SEEDS, "sweep.name=s")
    assert "picture: outputs/sweeps/s/sweep.png" in call("report", "outputs/sweeps/s")
    assert snapshot(installed.packages) == before, "something was written beside the installed package"


def check_extras_are_missed(installed: Installed, folder: Path) -> list[str]:
    """What needs an extra that is not installed says so in one line; the extras that are not installed."""
    call, missing = Command(installed, folder), []
    for override, (named, extra, module) in EXTRAS.items():
        if finds(installed.python, module):
            continue
        missing.append(extra)
        expected = f"error: {named}: needs the extra {extra}: pip install 'pg_experiments[{extra}]'\n"
        files = sorted(folder.rglob("*"))
        assert call.fails("train", *SEEDS, override) == expected
        assert sorted(folder.rglob("*")) == files
    return missing


def check_extras_work(installed: Installed, folder: Path) -> None:
    """A sweep with everything that an extra brings."""
    call = Command(installed, folder)
    for number, override in enumerate(EXTRAS):
        more = ("hydra.launcher.submitit.cluster=local",) if "submitit" in override else ()
        values: tuple[str, ...] = (*SEEDS, f"sweep.name=extra{number}")
        if "optuna" in override:
            values = ("-m", *TINY, "optimizer.lr=interval(0.001,0.01)", "hydra.sweeper.n_trials=2", "sweep.name=optuna")
        if "launcher=joblib" in override:
            values = tuple(item for item in values if not item.startswith("hydra.launcher."))
        call("train", *values, override, *more)


class Command:
    """The package's commands in a folder, with the folder of the installed packages read-only where that can be."""

    def __init__(self, installed: Installed, folder: Path) -> None:
        self._begin = [*read_only(installed.packages), str(installed.python), "-m"]
        self._folder = folder

    def __call__(self, command: str, *arguments: str) -> str:
        return output([*self._begin, f"pg_experiments.{command}", *arguments], self._folder)

    def fails(self, command: str, *arguments: str) -> str:
        """The error output of a command that must end with exit code 2."""
        ended = process([*self._begin, f"pg_experiments.{command}", *arguments], self._folder)
        assert ended.returncode == 2, ended.stdout + ended.stderr
        return ended.stderr


def read_only(folder: Path) -> list[str]:
    """What to put before a command so that it cannot write there; nothing where that needs rights that we lack."""
    script = f'mount --bind "{folder}" "{folder}" && mount -o remount,ro,bind "{folder}" && exec "$@"'
    begin = ["unshare", "--mount", "sh", "-c", script, "sh"]
    if os.geteuid() or not shutil.which("unshare") or process([*begin, "true"], folder).returncode:
        return []
    return begin


def finds(python: Path, module: str) -> bool:
    code = f"import sys; from importlib.util import find_spec; sys.exit(find_spec({module!r}) is None)"
    return process([python, "-c", code], Path.cwd()).returncode == 0


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file of the package; of modules as compiled, none."""
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns)
        for part in ("pg_experiments", "hydra_plugins")
        for path in tracked(folder / part)
    }


def process(command: Sequence[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.run(
        [str(part) for part in command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def output(command: Sequence[str | Path], folder: Path = ROOT) -> str:
    """What a command prints; an `AssertionError` with all of it when the command fails."""
    ended = process(command, folder)
    assert ended.returncode == 0, f"{' '.join(map(str, command))}\n{ended.stdout}{ended.stderr}"
    return ended.stdout


def run(command: Sequence[str | Path]) -> None:
    output(command)


def main() -> None:
    """Do what the arguments ask for, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pythons", nargs="*", metavar="PYTHON", help="interpreters for fresh environments")
    parser.add_argument("--extras", action="store_true", help="install the extras as well, and use them")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel, sdist = build(folder)
        print(f"{wheel.name} is the same from {sdist.name} and from the checkout", flush=True)
        for number, python in enumerate(options.pythons or [None]):
            begin = time.monotonic()
            environment, work = folder / f"environment{number}", folder / f"work{number}"
            work.mkdir()
            installed = install_afresh(python, wheel, environment) if python else install_borrowing(wheel, environment)
            version = output([installed.python, "--version"]).strip()
            packed = "read-only" if read_only(installed.packages) else "watched"
            use(installed, work)
            missing = check_extras_are_missed(installed, work)
            print(f"{version}: trains, sweeps, evaluates and reports, packages {packed}; named as missing: {missing}")
            if options.extras and python:
                pip_install(installed.python, f"{wheel}[joblib,optuna,ray,slurm]")
                check_extras_work(installed, work)
                print(f"{version}: sweeps with joblib, optuna, ray and submitit")
            print(f"{version}: took {time.monotonic() - begin:.0f} s", flush=True)
            shutil.rmtree(environment)


if __name__ == "__main__":
    main()
