"""Kill training processes at random moments, resume them until they are complete, and compare every number.

    python tests/kill_and_resume.py --kills 20    # about half an hour on two cores

A run that was killed and resumed must be the run that was never disturbed: `parameters_sha256`, the evaluation, every
row of `metrics.csv` and every scalar in TensorBoard's events, but for those that measure time. Each kind (one run from
the command line, a batch from Python, a sweep with two workers) is killed with each signal; the moments are drawn from
a seed. Of SIGTERM and SIGINT it also measures how long the end takes, and checks the exit code.

The processes are forked from this one, which has imported everything: they begin at once.
"""

import argparse
import csv
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

from pg_experiments import compose, train
from pg_experiments.train import main as main_of_train
from pg_experiments.training import Interrupted

SMALL = (
    "policy=softmax",
    "env=cartpole",
    "env.num_envs=4",
    "policy.hidden_sizes=[8]",
    "evaluation.every=25",
    "evaluation.episodes=50",
    "checkpoint.every=4",
    "checkpoint.seconds=0.2",
    "logging.progress=none",
)
KINDS = ("single", "batch", "sweep")
START_SHARE = 0.2  # of the kills happen before the training has begun
SECONDS = 240.0  # that nothing here takes


def work(kind: str, folder: Path, env_steps: int, resume: bool) -> None:
    """What the process that is killed does; it leads a session of its own, and its output goes to files."""
    os.setsid()
    os.chdir(folder)
    for name, descriptor in (("out", 1), ("err", 2)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if kind == "batch":
        train_batch(env_steps)
        return
    sys.argv = ["train", *(["-m"] if kind == "sweep" else []), *SMALL, f"total_env_steps={env_steps}"]
    if kind == "single":
        sys.argv += ["hydra.run.dir=runs/0", *(["checkpoint.resume=true"] if resume else [])]
    else:
        sys.argv += ["seed=range(4)", "hydra.launcher.workers=2", "hydra.sweep.dir=runs"]
    main_of_train()


def train_batch(env_steps: int) -> None:
    """Three runs of different lengths as one program, from Python."""
    runs = [(f"seed={seed}", f"total_env_steps={env_steps - 1000 * seed}") for seed in range(3)]
    configs = [compose(*SMALL, *run, "checkpoint.resume=true") for run in runs]
    try:
        train(configs, [f"runs/{seed}" for seed in range(3)])
    except Interrupted as interrupted:
        raise SystemExit(128 + interrupted.number) from None


@dataclass
class Trial:
    """One run, batch or sweep in a folder of its own, and what was done to it.

    Attributes:
        kind: of `KINDS`.
        folder: of its own.
        env_steps: of a run.
        starting, seconds: what it took until the training began, and from there to the end, when not disturbed.
        kills: that found it alive.
        problems: what should not have been.
        to_end: seconds from a signal to the end of the process.
    """

    kind: str
    folder: Path
    env_steps: int
    starting: float = 0.0
    seconds: float = 0.0
    kills: int = 0
    problems: list[str] = field(default_factory=list)
    to_end: list[float] = field(default_factory=list)

    def begin(self) -> ForkProcess:
        """Start or resume it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        resume = (self.folder / "runs").exists()
        process = multiprocessing.get_context("fork").Process(
            target=work, args=(self.kind, self.folder, self.env_steps, resume)
        )
        process.start()
        return process

    def undisturbed(self) -> None:
        """From the beginning to the end."""
        begin = time.monotonic()
        process = self.begin()
        self._wait_for_training(process)
        began = time.monotonic()
        self._end(process, expected=0)
        self.starting, self.seconds = began - begin, time.monotonic() - began

    def kill(self, number: signal.Signals, moment: float, at_start: bool) -> bool:
        """Start or resume it and kill it at a moment (0 to 1) of its start or of its training; whether it was alive."""
        process = self.begin()
        if at_start:
            process.join(moment * self.starting)
        else:
            self._wait_for_training(process)
            process.join(moment * self.seconds)
        if process.exitcode is not None:
            self._end(process, expected=0)
            return False
        heard = not at_start  # before that, the process may not listen yet, and dies of the signal
        begin = time.monotonic()
        assert process.pid
        os.kill(process.pid, number)
        ended = self._end(process, expected=None)
        self.to_end.append(ended - begin)
        code = process.exitcode
        if not code:  # it was through but for the end of the process
            return False
        self.kills += 1
        if code not in (-number, 128 + number) or (heard and number != signal.SIGKILL and code < 0):
            self.problems.append(f"{number.name}: exit code {code}")
        return True

    def finish(self) -> None:
        """Resume it without another kill."""
        self._end(self.begin(), expected=0)

    def _log_size(self) -> int:
        return sum(path.stat().st_size for path in (self.folder / "runs").glob("*/train.log"))

    def _wait_for_training(self, process: ForkProcess) -> None:
        before, deadline = self._log_size(), time.monotonic() + SECONDS
        while process.exitcode is None and self._log_size() <= before and time.monotonic() < deadline:
            time.sleep(0.005)

    def _end(self, process: ForkProcess, expected: int | None) -> float:
        """Wait for the end of the process and of all its workers; when the process itself had ended."""
        process.join(SECONDS)
        ended = time.monotonic()
        if expected is not None and process.exitcode != expected:
            self.problems.append(f"exit code {process.exitcode}: {(self.folder / 'err').read_text()[-500:]}")
        while session_of(process.pid or 0) and time.monotonic() < ended + SECONDS:
            time.sleep(0.02)
        return ended

    def runs(self) -> list[Path]:
        """The folders of its runs."""
        return sorted(path.parent for path in (self.folder / "runs").glob("*/train.log"))

    def compare(self, reference: "Trial") -> None:
        """Note every difference to the one that was never disturbed."""
        names, others = ([path.name for path in trial.runs()] for trial in (self, reference))
        if names != others:
            self.problems.append(f"runs {names} instead of {others}")
            return
        for own, other in zip(self.runs(), reference.runs(), strict=True):
            found, expected = outcome(own), outcome(other)
            self.problems += [f"{own.name}: {key} differs" for key in expected if found.get(key) != expected[key]]


def outcome(run_dir: Path) -> dict[str, Any]:
    """Everything about a run that must not depend on interruptions."""
    with suppress(OSError, ValueError):
        result = json.loads((run_dir / "result.json").read_text())
        keys = ("status", "parameters_sha256", "evaluation", "iterations", "env_steps", "episodes")
        events = sorted(run_dir.glob("events.out.tfevents.*"))
        return {
            **{key: result[key] for key in keys},
            "metrics.csv": rows_without_time(run_dir / "metrics.csv"),
            "scalars": [scalar for path in events for scalar in scalars_of(path)],
            "event files": len(events),
            "files": sorted(
                path.name for path in run_dir.rglob("*") if path.suffix in (".pt", ".tmp") and "iter" not in path.name
            ),
        }
    return dict.fromkeys(["status"], "no result.json")


def rows_without_time(path: Path) -> list[dict[str, str]]:
    """The rows of a `metrics.csv`, as text."""
    with path.open(newline="") as file:
        return [{key: text for key, text in row.items() if not key.startswith("time/")} for row in csv.DictReader(file)]


def scalars_of(path: Path) -> list[tuple[str, int, float]]:
    """Tag, step and value of every scalar of an event file, in the order in which they were written."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    events = (Event.FromString(record) for record in RawEventFileLoader(str(path)).Load())
    return [
        (value.tag, event.step, value.simple_value)
        for event in events
        for value in event.summary.value
        if value.HasField("simple_value") and not value.tag.startswith("time/")
    ]


def session_of(leader: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, session, *_ = path.read_text().rpartition(")")[2].split()
            if int(session) == leader and state != "Z":
                found.append(int(path.parent.name))
    return found


def kill_until(trial: Trial, number: signal.Signals, kills: int, moments: random.Random) -> None:
    """Kill and resume it so often, or until it is complete by itself, and then let it be completed."""
    for _ in range(kills):
        at_start = moments.random() < START_SHARE
        if not trial.kill(number, moments.random(), at_start):
            return
    trial.finish()


def main() -> None:
    """Kill, resume, compare; print a table."""
    parser = argparse.ArgumentParser(description="Kill and resume trainings at random moments.")
    parser.add_argument("--kills", type=int, default=20, help="of each kind with each signal")
    parser.add_argument("--each", type=int, default=3, help="at most so many of them on one run")
    parser.add_argument("--env-steps", type=int, default=20_000, help="of a run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--signals", nargs="+", default=["SIGKILL", "SIGTERM"])
    parser.add_argument("--folder", type=Path, help="for the runs; kept")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="kill_and_resume_"))
    moments = random.Random(options.seed)
    print("kind     signal    kills   trials   as never killed   seconds to the end (most)", flush=True)
    failed: list[str] = []
    for kind in options.kinds:
        reference = Trial(kind, folder / f"{kind}-reference", options.env_steps)
        reference.undisturbed()
        if reference.problems:
            raise SystemExit("\n".join(reference.problems))
        for name in options.signals:
            trials: list[Trial] = []
            while sum(trial.kills for trial in trials) < options.kills:
                trial = Trial(
                    kind,
                    folder / f"{kind}-{name}-{len(trials)}",
                    options.env_steps,
                    reference.starting,
                    reference.seconds,
                )
                left = options.kills - sum(trial.kills for trial in trials)
                kill_until(trial, signal.Signals[name], min(options.each, left), moments)
                trial.compare(reference)
                failed += [f"{trial.folder.name}: {problem}" for problem in trial.problems]
                if not trial.problems and not options.folder:
                    shutil.rmtree(trial.folder)
                trials.append(trial)
            print(line_of(kind, name, trials), flush=True)
    for problem in failed:
        print(problem)
    if not failed and not options.folder:
        shutil.rmtree(folder)
    raise SystemExit(bool(failed))


def line_of(kind: str, name: str, trials: Sequence[Trial]) -> str:
    """A row of the table."""
    good = sum(not trial.problems for trial in trials)
    slowest = max((seconds for trial in trials for seconds in trial.to_end), default=0.0)
    kills = sum(trial.kills for trial in trials)
    return f"{kind:8} {name:8} {kills:6} {len(trials):8} {good:10} of {len(trials):2} {slowest:20.2f}"


if __name__ == "__main__":
    main()
