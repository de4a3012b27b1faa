"""The backend `submitit` with its local executor: jobs are processes that share only a folder with the launcher."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from sweep_process import (
    SMALL,
    TINY,
    alone,
    finish,
    has_reported,
    hashes,
    results,
    start,
    sweep,
    training_processes,
    wait_until,
)
from sweeping import Outcome, run  # noqa: F401 - fixture

pytest.importorskip("submitit", reason="needs the extra slurm")

LOCAL = ("hydra.launcher.backend=submitit", "hydra.launcher.submitit.cluster=local")
TWO_BATCHES = ("hydra.launcher.max_runs_per_batch=2", "seed=range(4)")


@pytest.mark.slow
def test_every_run_is_the_run_alone_and_the_logs_are_in_the_sweeps_folder(tmp_path: Path) -> None:
    ended = sweep(tmp_path, *TINY, *LOCAL, *TWO_BATCHES, "optimizer.lr=0.001,0.01")
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert hashes(tmp_path) == {
        f"optimizer.lr={rate},seed={seed}": alone(*TINY, f"optimizer.lr={rate}", f"seed={seed}")
        for rate in ("0.001", "0.01")
        for seed in range(4)
    }
    assert len(list((tmp_path / "sweep" / ".submitit").glob("*_log.out"))) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["sweep"]


@pytest.mark.slow
def test_the_runs_of_a_job_that_is_killed_are_trained_again(tmp_path: Path) -> None:
    longer = (*SMALL, "total_env_steps=30000")
    process = start(tmp_path, *longer, *LOCAL, *TWO_BATCHES)
    try:
        wait_until(process, lambda: has_reported(tmp_path, 2))
        victim = training_processes(tmp_path)["seed=0"]
        os.kill(victim, signal.SIGKILL)
    finally:
        ended = finish(process)
    assert ended.returncode == 0, ended.stderr
    assert "its 2 unfinished runs will be trained again" in ended.stdout
    assert training_processes(tmp_path)["seed=0"] != victim
    assert hashes(tmp_path) == {f"seed={seed}": alone(*longer, f"seed={seed}") for seed in range(4)}


@pytest.mark.slow
def test_ctrl_c_leaves_interrupted_runs_and_no_process(tmp_path: Path) -> None:
    process = start(tmp_path, *SMALL, "total_env_steps=1000000000", *LOCAL, *TWO_BATCHES)
    try:
        wait_until(process, lambda: has_reported(tmp_path, 2))
        os.killpg(process.pid, signal.SIGINT)  # as the terminal does it: to all processes of the command
        out, err = process.communicate(timeout=60)
    finally:
        finish(process)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "the same command with hydra.sweep.dir=sweep finishes what is missing" in out
    found = results(tmp_path)
    assert {name: result["status"] for name, result in found.items()} == {
        f"seed={seed}": "interrupted" for seed in range(4)
    }
    assert all(result["iterations"] > 0 for result in found.values())


def test_a_task_that_is_started_twice_keeps_what_is_complete(tmp_path: Path) -> None:
    from pg_experiments import compose
    from pg_experiments.config import resuming
    from pg_experiments.sweeps.backends.elsewhere import RemoteTask, train_elsewhere
    from pg_experiments.sweeps.worker import Task

    configs = [resuming(compose(*TINY, f"seed={seed}", "logging.progress=none")) for seed in range(2)]
    folders = [tmp_path / str(seed) for seed in range(2)]
    for folder in folders:
        folder.mkdir()
    remote = RemoteTask.of(Task(configs, folders, tmp_path / "0.json"))
    before = train_elsewhere(remote)
    times = [(folder / "result.json").stat().st_mtime_ns for folder in folders]
    (folders[1] / "result.json").unlink()  # as a machine leaves it that dies in the second run
    assert [result["parameters_sha256"] for result in train_elsewhere(remote)] == [
        result["parameters_sha256"] for result in before
    ]
    assert (folders[0] / "result.json").stat().st_mtime_ns == times[0]
    assert (folders[1] / "result.json").stat().st_mtime_ns > times[1]


def test_a_folder_that_is_not_shared_is_a_clear_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pg_experiments import compose
    from pg_experiments.sweeps.backends import elsewhere
    from pg_experiments.sweeps.worker import Task

    monkeypatch.setattr(elsewhere, "SHARED_SECONDS", 0.0)
    config = compose(*TINY)
    remote = elsewhere.RemoteTask.of(Task([config], [tmp_path / "nowhere"], tmp_path / "0.json"))
    (result,) = elsewhere.train_elsewhere(remote)
    assert result["status"] == "failed"
    assert "all machines must share this folder" in result["error"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("hydra.launcher.submitit.cluster=slurmm", "hydra.launcher.submitit={'cluster': 'slurmm'}: "),
        ("hydra.launcher.submitit.nonsense=x", "hydra.launcher.submitit={'cluster': 'local', 'nonsense': 'x'}: "),
        (
            "hydra.launcher.submitit.cluster=null",
            "hydra.launcher.backend=submitit: there is no Slurm here (no sbatch in PA",
        ),
        ("hydra.launcher.backend=slurm", "hydra.launcher.backend=slurm: must be one of processes, ray, submitit."),
    ],
)
def test_a_setting_that_cannot_be_used_is_one_line(setting: str, message: str, run: Callable[..., Outcome]) -> None:  # noqa: F811
    ended = run("-m", *TINY, *LOCAL, "seed=0,1", setting)
    assert ended.code == 2
    assert ended.err.startswith(f"error: {message}"), ended.err
    assert len(ended.err.splitlines()) == 1
