"""A run that fails, a worker that dies, a folder that cannot be written: nothing else in the sweep notices."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sweeping import (  # noqa: F401 - fixtures
    TINY,
    alone,
    folders_of,
    hashes_of,
    poisoned,
    results_of,
    run,
    start,
    sweep,
)

from pg_experiments import compose, load_policy, train
from pg_experiments.sweeps.launch import launch_jobs

TYPE_CHECKS = False  # see conftest.py

SWEEP = Path("outputs") / "sweeps" / "s"
FLAGS = ("--config-dir", "parts")


@pytest.fixture
def healthy(poisoned, tmp_path):  # noqa: F811
    """Configs of four poisonous runs, and their results when nobody meets the poison."""

    def make(*overrides: str):
        return [
            compose(*TINY, "env=poisoned", f"seed={seed}", *overrides, config_dir=tmp_path / "parts")
            for seed in range(4)
        ]

    return make


def outcomes(results) -> list[tuple[str, str, dict | None]]:
    return [(result.status, result.parameters_sha256, result.evaluation) for result in results]


# --- one run's part raises --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [0, 3, -1], ids=["first iteration", "later iteration", "evaluation"])
def test_a_run_whose_own_part_raises_leaves_alone(poisoned, healthy, tmp_path, reset):  # noqa: F811
    expected = outcomes(train(healthy()))
    folders = [tmp_path / str(seed) for seed in range(4)]
    results = train(healthy(poisoned(2, reset)), folders)
    assert [result.status for result in results] == ["completed", "completed", "failed", "completed"]
    for seed in (0, 1, 3):
        assert outcomes(results)[seed] == expected[seed]
    bad = results[2]
    assert bad.error == ("evaluation: ValueError: poisoned" if reset == -1 else "ValueError: poisoned")
    assert bad.evaluation is None
    if reset >= 0:
        assert bad.iterations == reset
        assert "Traceback" in (folders[2] / "train.log").read_text()
    else:
        assert bad.parameters_sha256 == expected[2][1]
    assert f"failed: {bad.error}" in (folders[2] / "train.log").read_text()
    assert load_policy(folders[2], trust="poisoned") is not None


def test_what_raises_only_once_changes_nothing(poisoned, healthy):  # noqa: F811
    expected = outcomes(train(healthy()))
    configs = healthy(poisoned(2, 3), "env.how='raise the first time'")
    assert outcomes(train(configs)) == expected
    assert sys.modules["poisoned"].SEEN.count("raised") == 1


def test_what_raises_in_every_batch_and_never_alone_fails_the_batch(poisoned, healthy):  # noqa: F811
    results = train(healthy(poisoned(2, 3), "env.how='raise in company'"))
    assert [(result.status, result.error) for result in results] == [("failed", "ValueError: poisoned")] * 4
    assert results[2].iterations == 3


def test_what_raises_in_every_run_fails_every_run(healthy):
    import poisoned as module  # type: ignore[import-not-found]

    module.SEEN.clear()
    results = train(healthy("env.how='raise in every run'"))
    assert [(result.status, result.error) for result in results] == [("failed", "ValueError: poisoned")] * 4
    assert all(0 < result.iterations <= 4 for result in results)


def test_a_checkpoint_that_cannot_be_written_fails_its_run_only(tmp_path, monkeypatch):
    import pg_experiments.checkpoint as checkpoint

    configs = [compose(*TINY, f"seed={seed}", "checkpoint.every=2") for seed in range(3)]
    expected, save = outcomes(train(configs)), checkpoint.save

    def full(folder, state, before, keep):
        if folder.name == "1":
            raise OSError(28, "No space left on device", str(folder / "last.pt"))
        save(folder, state, before, keep)

    monkeypatch.setattr(checkpoint, "save", full)
    results = train(configs, [tmp_path / str(seed) for seed in range(3)])
    assert [outcomes(results)[seed] for seed in (0, 2)] == [expected[0], expected[2]]
    assert results[1].status == "failed"
    assert "No space left on device" in results[1].error


# --- in a sweep -------------------------------------------------------------------------------------------------------


def test_a_sweep_goes_on_without_failed_runs_and_names_them(sweep, tmp_path):  # noqa: F811
    expected = {str(seed): alone(f"seed={seed}") for seed in range(3)}
    ended = sweep("seed=range(3)", "optimizer.lr=0.005,1e30", "hydra.launcher.workers=2")
    assert ended.code == 1
    assert ended.err == ""
    assert "Traceback" not in ended.out
    results = results_of(tmp_path / SWEEP)
    assert "\n3 of 6 runs failed:\n" in ended.out
    for seed in range(3):
        assert results[f"optimizer.lr=0.005,seed={seed}"]["parameters_sha256"] == expected[str(seed)]
        bad = results[f"optimizer.lr=1e+30,seed={seed}"]
        assert bad["status"] == "failed"
        assert f"\n  optimizer.lr=1e+30,seed={seed}: {bad['error']}\n" in ended.out


@pytest.mark.parametrize("reset", [3, -1], ids=["training", "evaluation"])
def test_a_part_that_raises_in_one_run_of_a_sweep_fails_that_job(sweep, poisoned, tmp_path, reset):  # noqa: F811
    noise = poisoned(2, reset)
    expected = {f"seed={seed}": alone(f"seed={seed}") for seed in (0, 1, 3)}
    ended = sweep("env=poisoned", noise, "seed=range(4)", "hydra.launcher.workers=2", flags=FLAGS)
    assert ended.code == 1
    assert "1 of 4 runs failed:\n  seed=2: " in ended.out
    hashes = hashes_of(tmp_path / SWEEP)
    assert {name: hashes[name] for name in expected} == expected
    statuses = {name: result["status"] for name, result in results_of(tmp_path / SWEEP).items()}
    assert statuses == {"seed=0": "completed", "seed=1": "completed", "seed=2": "failed", "seed=3": "completed"}


@pytest.mark.parametrize(("how", "workers"), [("die", 1), ("exit", 2)])
def test_a_run_that_kills_its_worker_fails_alone(sweep, poisoned, tmp_path, how, workers):  # noqa: F811
    noise = poisoned(2, 3)
    names = [f"seed={seed}" for seed in (0, 1, 3, 4, 5)]
    expected = {name: alone(name) for name in names}
    ended = sweep(
        "env=poisoned", noise, f"env.how={how}", "seed=range(6)", f"hydra.launcher.workers={workers}", flags=FLAGS
    )
    assert ended.code == 1
    assert "1 of 6 runs failed:\n  seed=2: its process died (killed, or out of memory?) (3 times)\n" in ended.out
    assert hashes_of(tmp_path / SWEEP) == expected
    assert "a worker is lost" in ended.out


def test_without_retries_the_culprit_is_found_all_the_same(sweep, poisoned, tmp_path):  # noqa: F811
    ended = sweep(
        "env=poisoned", poisoned(1, 0), "env.how=die", "seed=range(4)", "hydra.launcher.retries=0", flags=FLAGS
    )
    assert ended.code == 1
    assert "1 of 4 runs failed:\n  seed=1: its process died (killed, or out of memory?)\n" in ended.out
    assert sorted(hashes_of(tmp_path / SWEEP)) == ["seed=0", "seed=2", "seed=3"]


def test_the_answers_of_a_launch_are_those_of_its_jobs(sweep, tmp_path, monkeypatch):  # noqa: F811
    found = []

    def spy(*arguments):
        found.extend(launch_jobs(*arguments))
        return found

    monkeypatch.setattr("pg_experiments.sweeps.launch.launch_jobs", spy)
    assert sweep("optimizer.lr=0.005,1e30").code == 1
    good, bad = found
    result = results_of(tmp_path / SWEEP)["optimizer.lr=0.005"]
    assert good.return_value == result["evaluation"]["return_mean"]
    with pytest.raises(Exception, match=r"became|not finite"):
        _ = bad.return_value


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "reason"),
    [(signal.SIGKILL, "its process died"), (signal.SIGTERM, "its process was asked to end")],
    ids=["SIGKILL", "SIGTERM"],
)
def test_a_worker_that_is_killed_is_replaced_and_its_runs_are_trained_again(start, tmp_path, number, reason):  # noqa: F811
    tiny = (*TINY, "total_env_steps=20000", "sweep.name=s", "seed=range(4)", "hydra.launcher.workers=2")
    running = start(*tiny)
    running.wait_until(lambda: "iteration 1" in "".join(p.read_text() for p in (tmp_path / SWEEP).glob("*/train.log")))
    victim = running.workers[0]
    os.kill(victim, number)
    assert running.end() == 0, running.err
    assert f"a worker is lost: {reason}" in running.out
    expected = {f"seed={seed}": alone("total_env_steps=20000", f"seed={seed}") for seed in range(4)}
    assert hashes_of(tmp_path / SWEEP) == expected


@pytest.mark.slow
def test_a_sweep_goes_on_when_nobody_reads_its_output_any_more(tmp_path):
    command = [sys.executable, "-m", "pg_experiments.train", "-m", *TINY, "sweep.name=s", "seed=0,1"]
    tiny = [*command, "total_env_steps=20000", "logging.progress=plain"]
    with subprocess.Popen(tiny, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline().startswith("2 jobs in 1 group")
        process.stdout.close()
        assert process.stderr
        assert process.stderr.read() == ""
    assert process.returncode == 0
    assert {result["status"] for result in results_of(tmp_path / SWEEP).values()} == {"completed"}
    assert (tmp_path / SWEEP / "sweep.png").exists()


# --- folders that cannot be written -----------------------------------------------------------------------------------


def test_a_sweep_below_a_file_is_one_line(run, tmp_path):  # noqa: F811
    (tmp_path / "file").write_text("")
    ended = run("-m", *TINY, "seed=range(2)", "hydra.sweep.dir=file/s")
    assert ended.code == 2
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert "file" in ended.err


def test_a_job_whose_folder_cannot_be_made_fails_alone(sweep, tmp_path):  # noqa: F811
    (tmp_path / SWEEP).mkdir(parents=True)
    (tmp_path / SWEEP / "seed=1").write_text("in the way")
    ended = sweep("seed=range(3)")
    assert ended.code == 1
    assert "1 of 3 runs failed:\n  seed=1: cannot write " in ended.out
    assert "Traceback" not in ended.out + ended.err
    assert sorted(hashes_of(tmp_path / SWEEP)) == ["seed=0", "seed=2"]
    assert (tmp_path / SWEEP / "seed=1").read_text() == "in the way"
