"""The same sweep again: what is complete is kept, what is missing is trained, and nothing else is touched."""

import fcntl
import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from own_time import own_seconds_to_end
from sweeping import (  # noqa: F401 - fixtures
    TINY,
    alone,
    content_of,
    folders_of,
    hashes_of,
    results_of,
    run,
    start,
    sweep,
)

from pg_experiments import checkpoint, load_policy
from pg_experiments.sweeps import launch

TYPE_CHECKS = False  # see conftest.py

SWEEP = Path("outputs") / "sweeps" / "s"


def names_of(*jobs: str) -> list[str]:
    return sorted(jobs)


# --- extending --------------------------------------------------------------------------------------------------------


def test_more_seeds_are_added_and_the_complete_jobs_are_not_touched(sweep, tmp_path):  # noqa: F811
    assert sweep("seed=range(2)").code == 0
    before = {name: content_of(folder) for name, folder in folders_of(tmp_path / SWEEP).items()}
    ended = sweep("seed=range(4)")
    assert ended.code == 0
    assert "2 of 4 jobs are complete already" in ended.out
    assert "2 jobs in 1 group" in ended.out
    folders = folders_of(tmp_path / SWEEP)
    assert sorted(folders) == [f"seed={seed}" for seed in range(4)]
    assert {name: content_of(folders[name]) for name in before} == before
    for seed in range(4):
        assert hashes_of(tmp_path / SWEEP)[f"seed={seed}"] == alone(f"seed={seed}")


def test_a_complete_sweep_trains_nothing(sweep, tmp_path):  # noqa: F811
    assert sweep("seed=range(2)").code == 0
    before = {name: content_of(folder) for name, folder in folders_of(tmp_path / SWEEP).items()}
    ended = sweep("seed=range(2)")
    assert ended.code == 0
    assert "2 of 2 jobs are complete already" in ended.out
    assert {name: content_of(folder) for name, folder in folders_of(tmp_path / SWEEP).items()} == before


def test_what_the_workers_of_a_killed_launcher_reported_is_not_taken_for_a_report(sweep, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(launch, "POLL_SECONDS", 0.0)  # the display looks before the workers have reported
    reports = tmp_path / SWEEP / ".progress"
    reports.mkdir(parents=True)
    for number in range(1, 5):
        status = {"env_steps": 10**9, "running": 7, "failed": 5, "returns": [123456.0] * 7}
        (reports / f"{number}.json").write_text(json.dumps(status))
    ended = sweep("seed=range(2)", "logging.progress=plain")
    assert ended.code == 0
    assert "123456" not in ended.out
    assert "2 of 2 runs finished, 0 running, 0 failed" in ended.out
    assert not reports.exists()


@pytest.mark.parametrize("status", ["failed", "interrupted", "", None])
def test_what_is_not_complete_is_completed(sweep, tmp_path, status):  # noqa: F811
    assert sweep("seed=range(2)").code == 0
    expected = hashes_of(tmp_path / SWEEP)
    kept, again = (tmp_path / SWEEP / f"seed={seed}" for seed in range(2))
    before, file = content_of(kept), again / "result.json"
    if status is None:
        file.unlink()
    else:
        file.write_text(json.dumps(json.loads(file.read_text()) | {"status": status}) if status else '{"status": "com')
    old_events = {path.name for path in again.glob("events.*")}
    assert sweep("seed=range(2)").code == 0
    assert hashes_of(tmp_path / SWEEP) == expected
    assert results_of(tmp_path / SWEEP)["seed=1"]["status"] == "completed"
    assert content_of(kept) == before
    assert len(list(again.glob("events.*"))) == len(old_events) == 1
    log = (again / "train.log").read_text()
    assert log.count("training begins") == 1
    assert ("training goes on after iteration" in log) == (status != "failed")  # which begins from the start


@pytest.mark.parametrize("written", ["config.yaml", "hydra.yaml", "overrides.yaml"])
@pytest.mark.parametrize("launcher", ["batched", "basic"])
def test_a_job_that_was_killed_while_its_config_was_written_begins_again(sweep, tmp_path, launcher, written):  # noqa: F811
    arguments = ("seed=range(2)", f"hydra/launcher={launcher}", "logging.progress=none")
    assert sweep(*arguments).code == 0
    expected = hashes_of(tmp_path / SWEEP)
    for seed in range(2):  # either may be the one that the others are compared with
        job = tmp_path / SWEEP / f"seed={seed}"
        for path in job.iterdir():
            if path.is_file():
                path.unlink()
        files = ["config.yaml", "hydra.yaml", "overrides.yaml"]
        (job / ".hydra" / written).write_text("")
        for name in files[files.index(written) + 1 :]:
            (job / ".hydra" / name).unlink()
        shutil.rmtree(job / "checkpoints")
        ended = sweep(*arguments)
        assert (ended.code, ended.err) == (0, "")
        assert hashes_of(tmp_path / SWEEP) == expected


def test_a_failed_run_is_tried_again_and_may_fail_again(sweep, tmp_path):  # noqa: F811
    assert [sweep("optimizer.lr=0.005,1e30").code for _ in range(2)] == [1, 1]
    statuses = {name: result["status"] for name, result in results_of(tmp_path / SWEEP).items()}
    assert statuses == {"optimizer.lr=0.005": "completed", "optimizer.lr=1e+30": "failed"}


def test_a_group_sweep_is_extended_by_an_environment_with_keys_that_follow_it(run, tmp_path):  # noqa: F811
    tiny = [item for item in TINY if item != "env=cartpole"]
    follow = "optimizer.max_gradient_norm=${env.default_initial_std}"
    arguments = ("-m", *tiny, "sweep.name=s", follow, "seed=range(2)")
    assert run(*arguments, "env=cartpole").code == 0
    before = hashes_of(tmp_path / SWEEP)
    ended = run(*arguments, "env=cartpole,navigation_discrete")
    assert (ended.code, ended.err) == (0, "")
    assert "2 of 4 jobs are complete already" in ended.out
    after = hashes_of(tmp_path / SWEEP)
    assert len(after) == 4
    assert set(before.items()) <= set(after.items())


def test_a_key_that_was_fixed_can_be_swept_later(sweep, tmp_path):  # noqa: F811
    assert sweep("seed=range(2)", "optimizer.lr=0.004").code == 0
    before = {name: content_of(folder) for name, folder in folders_of(tmp_path / SWEEP).items()}
    ended = sweep("seed=range(2)", "optimizer.lr=0.004,0.002")
    assert (ended.code, ended.err) == (0, "")
    assert "2 of 4 jobs are complete already" in ended.out
    folders = folders_of(tmp_path / SWEEP)
    assert len(folders) == 4
    assert {name: content_of(folders[name]) for name in before} == before
    assert sweep("seed=range(3)", "optimizer.lr=0.002").code == 0  # and fixed again


def test_logging_and_the_number_of_workers_may_change(sweep, tmp_path):  # noqa: F811
    assert sweep("seed=range(2)").code == 0
    free = ("logging.every=3", "logging.tensorboard=false", "checkpoint.every=5", "hydra.launcher.workers=1")
    ended = sweep("seed=range(3)", *free)
    assert (ended.code, ended.err) == (0, "")
    assert "2 of 3 jobs are complete already" in ended.out


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        (["seed=range(2)"], ["seed=range(2)", "total_env_steps=700"], "total_env_steps is 600 there and 700 now"),
        (["seed=range(2)"], ["seed=range(3)", "optimizer.lr=0.5"], "optimizer.lr is 0.005 there and 0.5 now"),
        (["seed=range(2)"], ["seed=range(2)", "optimizer=sgd"], "optimizer._target_ is torch.optim.Adam there and"),
        (["seed=range(2)"], ["seed=5,6", "env.gamma=0.5"], "env.gamma is 0.99 there and 0.5 now"),
        (
            ["baseline=leave_one_out,none"],
            ["baseline=leave_one_out,value_network,none", "env.num_envs=3"],
            "env.num_envs is 4 there and 3 now",
        ),
        (
            ["env=cartpole,navigation_discrete", "env.gamma=0.9"],
            ["env=cartpole,navigation_discrete", "env.gamma=0.8"],
            "env.gamma is 0.9 there and 0.8 now",
        ),
    ],
    ids=["length", "lr", "group", "other seeds", "beside a swept group", "in a swept group"],
)
def test_another_config_under_the_same_name_is_refused(sweep, tmp_path, first, second, says):  # noqa: F811
    assert sweep(*first).code == 0
    before = content_of(tmp_path)
    ended = sweep(*second)
    assert ended.code == 2
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert "holds runs of another config: " in ended.err
    assert says in ended.err
    assert content_of(tmp_path) == before


def test_a_sweep_that_is_running_cannot_be_started_twice(sweep, tmp_path):  # noqa: F811
    assert sweep("seed=range(2)").code == 0
    (tmp_path / SWEEP / "seed=1" / "result.json").unlink()
    before = content_of(tmp_path)
    with (tmp_path / SWEEP / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ended = sweep("seed=range(2)")
    assert ended.code == 2
    assert "this sweep is running already (process " in ended.err
    assert ended.err.count("\n") == 1
    assert content_of(tmp_path) == before


# --- killed and interrupted, in processes of their own ----------------------------------------------------------------

LONG = (*TINY, "sweep.name=s", "seed=range(4)", "hydra.launcher.workers=2")


def begun(folder: Path, runs: int = 4) -> bool:
    """Whether all runs have played their first iteration."""
    return sum("iteration 1" in path.read_text() for path in (folder / SWEEP).glob("*/train.log")) == runs


@pytest.mark.slow
def test_a_killed_launcher_leaves_no_process_and_the_same_command_completes_the_sweep(start, tmp_path):  # noqa: F811
    arguments = (*LONG, "total_env_steps=20000")
    killed = start(*arguments)
    killed.wait_until(lambda: begun(tmp_path))
    assert len(killed.workers) == 2
    killed.signal(signal.SIGKILL)
    assert killed.leaves_no_process()
    again = start(*arguments)
    assert again.end() == 0, again.err
    expected = {f"seed={seed}": alone("total_env_steps=20000", f"seed={seed}") for seed in range(4)}
    assert hashes_of(tmp_path / SWEEP) == expected


@pytest.mark.parametrize("group", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["launcher", "group"])
def test_ctrl_c_leaves_runs_that_can_be_used(start, tmp_path, group):  # noqa: F811
    sweep = start(*LONG, "total_env_steps=100000000")  # noqa: F811
    sweep.wait_until(lambda: begun(tmp_path))
    sweep.signal(signal.SIGINT, group=group)
    assert sweep.end(30) == 130
    assert sweep.err == ""
    assert "stopping: the runs save what they have; Ctrl-C again leaves at once" in sweep.out
    assert "interrupted; the same command finishes what is missing" in sweep.out
    assert sweep.leaves_no_process()
    results = results_of(tmp_path / SWEEP)
    assert [result["status"] for result in results.values()] == ["interrupted"] * 4
    for name, result in results.items():
        assert result["iterations"] > 0
        assert load_policy(tmp_path / SWEEP / name)([0.0] * 4) in (0, 1)


@pytest.mark.slow
def test_fifty_runs_of_usual_size_are_saved_within_two_seconds_of_sigterm(start, tmp_path):  # noqa: F811
    grid = ("policy=softmax", "env=cartpole", "sweep.name=s", "seed=range(50)", "hydra.launcher.workers=2")
    endless = start(*grid, "total_env_steps=100000000", "logging.progress=none")
    endless.wait_until(lambda: begun(tmp_path, 50))
    workers = endless.workers
    endless.signal(signal.SIGTERM)
    assert own_seconds_to_end(endless.process, helpers=workers) < 2
    assert endless.end() == 143
    assert endless.err == ""
    assert endless.leaves_no_process()
    results = results_of(tmp_path / SWEEP)
    assert [result["status"] for result in results.values()] == ["interrupted"] * 50
    for name, result in results.items():
        assert checkpoint.load(tmp_path / SWEEP / name)["iterations"] == result["iterations"] > 0


@pytest.mark.slow
def test_ctrl_c_at_any_moment_of_the_start_ends_the_sweep_without_a_traceback(start, tmp_path):  # noqa: F811
    for moment in range(4):
        sweep = start(*TINY, f"sweep.name=s{moment}", "seed=range(4)", "total_env_steps=100000000")  # noqa: F811
        folder = tmp_path / "outputs" / "sweeps" / f"s{moment}"
        sweep.wait_until(lambda folder=folder: list(folder.glob("*/.hydra/overrides.yaml")))
        time.sleep(0.1 * moment)
        sweep.signal(signal.SIGINT, group=True)
        assert sweep.end(30) == 130
        assert sweep.err == ""
        assert sweep.leaves_no_process()


def test_ctrl_c_of_which_a_library_makes_an_error_of_its_own_is_ctrl_c_all_the_same(sweep, monkeypatch):  # noqa: F811
    def half_done(*_arguments):
        try:
            raise KeyboardInterrupt
        finally:
            raise AttributeError("half done")

    monkeypatch.setattr("pg_experiments.sweeps.launch.write_hydra_folder", half_done)
    ended = sweep("seed=range(2)", "hydra.launcher.workers=1")
    assert (ended.code, ended.err) == (130, "")
    assert "stopping: the runs save what they have" in ended.out


@pytest.mark.slow
def test_a_second_ctrl_c_leaves_at_once(start, tmp_path):  # noqa: F811
    sweep = start(*LONG, "total_env_steps=100000000")  # noqa: F811
    sweep.wait_until(lambda: begun(tmp_path))
    for pid in sweep.workers:
        # a worker that does not answer, as one that waits for a network disk
        os.kill(pid, signal.SIGSTOP)
    sweep.signal(signal.SIGINT)
    sweep.wait_until(lambda: "stopping" in sweep.out)
    time.sleep(0.5)
    assert sweep.process.poll() is None
    sweep.signal(signal.SIGINT)
    assert own_seconds_to_end(sweep.process) < 3
    assert sweep.end() == 130
    assert sweep.err == ""
    assert sweep.leaves_no_process()
