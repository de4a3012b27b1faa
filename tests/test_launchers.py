"""Hydra's own launchers and the Optuna sweeper, as real commands; what they refuse, in this process."""

import os
import signal
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hydra.core.config_store import ConfigStore
from sweep_process import TINY, alone, finish, hashes, results, start, sweep, training_processes, wait_until
from sweeping import Outcome, run  # noqa: F401 - fixture

from pg_experiments.errors import ConfigError, UserError
from pg_experiments.train import main

GRID = ("optimizer.lr=0.001,0.01", "seed=0,1")
NAMES = [f"optimizer.lr={lr},seed={seed}" for lr in ("0.001", "0.01") for seed in (0, 1)]
DIVERGING = ("optimizer=sgd", "optimizer.lr=0.001,1e38")
SEARCH = ("hydra/sweeper=optuna", "optimizer.lr=tag(log, interval(1e-4, 1e-1))", "hydra.sweeper.n_jobs=2")
SEED_OF_SAMPLER = "hydra.sweeper.sampler.seed=5"

launchers = pytest.mark.parametrize("launcher", ["basic", "joblib"])


def needs(launcher: str) -> None:
    if launcher == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs the extra joblib")


@pytest.fixture
def _optuna() -> None:
    pytest.importorskip("optuna", reason="needs the extra optuna")
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra optuna")


def swept_grid(folder: Path, launcher: str) -> dict[str, str]:
    """The hash of every job of `GRID`."""
    ended = sweep(folder, *TINY, *GRID, f"hydra/launcher={launcher}", "logging.progress=none")
    assert ended.returncode == 0, ended.stderr
    assert list(results(folder)) == NAMES
    return hashes(folder)


@pytest.fixture(scope="module")
def batched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return swept_grid(tmp_path_factory.mktemp("batched"), "batched")


@pytest.mark.slow
@launchers
def test_folders_and_parameters_are_those_of_the_batched_launcher(
    launcher: str, batched: dict[str, str], tmp_path: Path
) -> None:
    needs(launcher)
    found = swept_grid(tmp_path, launcher)
    assert found == batched
    assert found[NAMES[3]] == alone(*TINY, "optimizer.lr=0.01", "seed=1")


@pytest.mark.slow
@launchers
def test_the_same_command_finishes_what_a_signal_has_left(launcher: str, tmp_path: Path) -> None:
    needs(launcher)
    tiny = (*TINY, "total_env_steps=10000")
    command = (*tiny, "seed=range(4)", f"hydra/launcher={launcher}", "logging.progress=none")
    process = start(tmp_path, *command)
    wait_until(process, lambda: len(results(tmp_path)) > 0)
    os.killpg(process.pid, signal.SIGTERM)
    stopped = finish(process)
    assert stopped.returncode == 143, stopped.stderr
    assert "Traceback" not in stopped.stderr
    complete = [name for name, result in results(tmp_path).items() if result["status"] == "completed"]
    assert 0 < len(complete) < 4
    times = {name: (tmp_path / "sweep" / name / "result.json").stat().st_mtime_ns for name in complete}
    ended = sweep(tmp_path, *command)
    assert ended.returncode == 0, ended.stderr
    assert hashes(tmp_path) == {f"seed={seed}": alone(*tiny, f"seed={seed}") for seed in range(4)}
    assert times == {name: (tmp_path / "sweep" / name / "result.json").stat().st_mtime_ns for name in complete}


@pytest.mark.slow
@launchers
def test_a_failed_run_is_named_and_the_exit_code_is_1(launcher: str, tmp_path: Path) -> None:
    needs(launcher)
    ended = sweep(tmp_path, *TINY, *DIVERGING, f"hydra/launcher={launcher}")
    assert ended.returncode == 1
    assert "1 of 2 runs failed:" in ended.stdout
    assert "  optimizer.lr=1e+38: loss/policy became nan" in ended.stdout
    assert "Traceback" not in ended.stderr
    assert {name: result["status"] for name, result in results(tmp_path).items()} == {
        "optimizer.lr=0.001": "completed",
        "optimizer.lr=1e+38": "failed",
    }


@launchers
@pytest.mark.parametrize(
    ("mistake", "named"), [("optimizer.lrr=1,2", "optimizer.lrr=1"), ("optimizer.lr=0.1,-1", "optimizer.lr=-1")]
)
def test_a_mistake_is_found_before_there_is_a_folder(
    launcher: str,
    mistake: str,
    named: str,
    run: Callable[..., Outcome],  # noqa: F811
    tmp_path: Path,
) -> None:
    needs(launcher)
    ended = run("-m", *TINY, mistake, f"hydra/launcher={launcher}", "hydra.sweep.dir=sweep")
    assert ended.code == 2
    assert ended.err.startswith(f"error: {named}")
    assert len(ended.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_survives_the_way_back_from_a_worker() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(ConfigError("optimizer.lr", -1, "must be positive")))
    assert isinstance(error, UserError)
    assert str(error) == "optimizer.lr=-1: must be positive"
    assert error.key == "optimizer.lr"


@pytest.mark.slow
@pytest.mark.usefixtures("_optuna")
def test_a_trial_is_the_mean_over_the_tuning_seeds_and_a_batch_of_trials_one_program(tmp_path: Path) -> None:
    ended = sweep(tmp_path, *TINY, *SEARCH, SEED_OF_SAMPLER, "hydra.sweeper.n_trials=4", "hydra.launcher.workers=1")
    assert ended.returncode == 0, ended.stderr
    found = results(tmp_path)
    assert {result["runs_in_batch"] for result in found.values()} == {6}
    trials: dict[str, dict[int, float]] = {}
    for name, result in found.items():
        rate = name.partition(",")[0].partition("=")[2]
        trials.setdefault(rate, {})[result["seed"]] = result["evaluation"]["return_mean"]
    assert len(trials) == 4
    assert {tuple(sorted(seeds)) for seeds in trials.values()} == {(1000, 1001, 1002)}
    best = yaml.safe_load((tmp_path / "sweep" / "optimization_results.yaml").read_text())
    means = {float(rate): statistics.mean(seeds.values()) for rate, seeds in trials.items()}
    assert best["best_value"] == pytest.approx(max(means.values()), rel=1e-12)
    assert means[best["best_params"]["optimizer.lr"]] == pytest.approx(best["best_value"], rel=1e-12)
    name, result = next(iter(found.items()))
    rate = name.partition(",")[0]
    assert result["parameters_sha256"] == alone(*TINY, rate, f"seed={result['seed']}")


@pytest.mark.slow
@pytest.mark.usefixtures("_optuna")
def test_a_search_with_the_same_sampler_seed_is_the_same_and_a_longer_one_keeps_its_trials(
    tmp_path: Path,
) -> None:
    few = ("hydra.sweeper.n_trials=2", "sweep.tuning_seeds=[1000]", SEED_OF_SAMPLER)
    (tmp_path / "stored").mkdir()
    (tmp_path / "plain").mkdir()
    stored = sweep(tmp_path / "stored", *TINY, *SEARCH, *few, "hydra.sweeper.storage=sqlite:///study.db")
    plain = sweep(tmp_path / "plain", *TINY, *SEARCH, *few)
    assert stored.returncode == plain.returncode == 0, stored.stderr + plain.stderr
    assert (tmp_path / "stored" / "study.db").stat().st_size > 0
    assert hashes(tmp_path / "stored") == hashes(tmp_path / "plain")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "plain" / "sweep").glob("*/result.json")}
    longer = sweep(tmp_path / "plain", *TINY, *SEARCH, *few, "hydra.sweeper.n_trials=3")
    assert longer.returncode == 0, longer.stderr
    assert len(results(tmp_path / "plain")) == 3
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
@pytest.mark.usefixtures("_optuna")
def test_a_stored_search_that_was_killed_ends_with_the_trials_that_it_began(tmp_path: Path) -> None:
    import optuna

    tiny = (*TINY, "total_env_steps=10000")
    stored = ("hydra.sweeper.storage=sqlite:///study.db", "hydra.sweeper.study_name=lr", "sweep.name=lr")
    command = (*tiny, *SEARCH, *stored, "sweep.tuning_seeds=[1000]", SEED_OF_SAMPLER, "hydra.sweeper.n_trials=4")
    process = start(tmp_path, *command)
    wait_until(process, lambda: len(training_processes(tmp_path)) == 4)  # two trials are complete, and two begun
    process.kill()
    finish(process)
    begun = set(training_processes(tmp_path))
    ended = sweep(tmp_path, *command)
    assert ended.returncode == 0, ended.stderr
    assert "study lr: 2 of 4 trials have ended already" in ended.stdout
    assert set(results(tmp_path)) == begun
    rate = next(iter(begun)).partition(",")[0]
    assert hashes(tmp_path)[f"{rate},seed=1000"] == alone(*tiny, rate, "seed=1000")

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "sweep").glob("*/result.json")}
    longer = sweep(tmp_path, *command, "hydra.sweeper.n_trials=5")
    assert longer.returncode == 0, longer.stderr
    assert len(results(tmp_path)) == 5  # with the same seed, but other values
    assert {path: path.stat().st_mtime_ns for path in before} == before
    again = sweep(tmp_path, *command, "hydra.sweeper.n_trials=5")
    assert again.returncode == 0, again.stderr
    trials = optuna.load_study("lr", f"sqlite:///{tmp_path / 'study.db'}").trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 5

    others = ("total_env_steps=500", "sweep.tuning_seeds=[1001]", "hydra.sweeper.direction=minimize")
    refused = sweep(tmp_path, *command, *others)
    assert refused.returncode == 2
    assert refused.stderr.splitlines() == [
        "error: hydra.sweeper.study_name=lr: holds trials that cannot be compared with these: "
        "hydra.sweeper.direction is maximize there and minimize now, "
        "sweep.tuning_seeds is [1000] there and [1001] now, total_env_steps is 10000 there and 500 now; "
        "give the study another name"
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("_optuna")
def test_a_search_with_another_config_under_the_same_name_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    command = (*TINY, *SEARCH, "hydra.sweeper.n_trials=1", "sweep.tuning_seeds=[1000]", SEED_OF_SAMPLER)
    assert sweep(tmp_path, *command).returncode == 0
    before = hashes(tmp_path)
    refused = sweep(tmp_path, *command, "total_env_steps=500")
    assert refused.returncode == 2
    assert "holds runs of another config: total_env_steps is 2000 there and 500 now" in refused.stderr
    assert hashes(tmp_path) == before


@pytest.mark.slow
@pytest.mark.usefixtures("_optuna")
def test_a_trial_that_diverges_is_a_failed_trial_and_the_search_goes_on(tmp_path: Path) -> None:
    choice = "optimizer.lr=choice(1e-3,1e38)"
    ended = sweep(
        tmp_path, *TINY, "hydra/sweeper=optuna", "optimizer=sgd", choice, "hydra.sweeper.n_trials=6", SEED_OF_SAMPLER
    )
    assert ended.returncode == 0, ended.stderr
    assert "Failed experiment: optimizer.lr=1e+38,seed=1000: loss/policy became nan" in ended.stdout
    assert "Traceback" not in ended.stderr
    best = yaml.safe_load((tmp_path / "sweep" / "optimization_results.yaml").read_text())
    assert best["best_params"] == {"optimizer.lr": 1e-3}


@pytest.mark.usefixtures("_optuna")
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=3", "seed=3: a search trains every trial with the seeds of sweep.tuning_seeds"),
        ("hydra.sweeper.direction=up", "hydra.sweeper.direction=up: must be one of maximize, minimize"),
        ("hydra.sweeper.storage=nowhere", "hydra.sweeper.storage=nowhere: "),
        ("hydra.sweeper.n_jobs=many", "hydra.sweeper.n_jobs=many: must be a whole number"),
        ("sweep.tuning_seeds=[1,1]", "sweep.tuning_seeds=[1, 1]: must be one or more different seeds"),
        ("policy=sofmax", "policy=sofmax: must be one of"),
    ],
)
def test_a_mistake_in_a_search_is_one_line(
    override: str,
    message: str,
    run: Callable[..., Outcome],  # noqa: F811
    tmp_path: Path,
) -> None:
    ended = run("-m", *TINY, *SEARCH, override, "hydra.sweep.dir=sweep")
    assert ended.code == 2
    (line,) = [line for line in ended.err.splitlines() if "A new study created" not in line]
    assert line.startswith(f"error: {message}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("group", "name", "extra"), [("sweeper", "optuna", "optuna"), ("launcher", "joblib", "joblib")]
)
def test_without_the_extra_the_error_names_the_command(
    group: str,
    name: str,
    extra: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    from hydra.core.plugins import Plugins

    Plugins.instance()  # stores what is installed
    monkeypatch.delitem(ConfigStore.instance().repo["hydra"][group], f"{name}.yaml", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train", "-m", *TINY, f"hydra/{group}={name}", "seed=0,1"])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert leaving.value.code == 2
    expected = f"error: hydra/{group}={name}: needs the extra {extra}: pip install 'pg_experiments[{extra}]'\n"
    assert capsys.readouterr().err == expected
