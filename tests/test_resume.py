"""Interrupted and resumed, a run is the run that was never interrupted: in every number, at every moment."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import kill_and_resume
import pytest
from kill_and_resume import outcome
from sweeping import run  # noqa: F401 - fixture

from pg_experiments import UserError, checkpoint, compose, load_policy, train
from pg_experiments.batch import Batch
from pg_experiments.interruption import Stop, forget, heard, unbroken
from pg_experiments.training import Interrupted

TYPE_CHECKS = False  # see conftest.py

TINY = (
    "policy=softmax",
    "env=cartpole",
    "env.num_envs=4",
    "policy.hidden_sizes=[8]",
    "baseline.hidden_sizes=[8]",
    "evaluation.episodes=3",
    "logging.progress=none",
)
LENGTH = "total_env_steps=1500"


@pytest.fixture(autouse=True)
def ctrl_c_is_heard() -> Iterator[None]:
    """A background job would ignore it, and Ray, in a test before, has taken SIGTERM."""
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class StopsAt:
    """A display that sends Ctrl-C, or another signal, when the batch has finished an iteration."""

    def __init__(self, iteration: int, number: int = signal.SIGINT) -> None:
        self.iteration, self.number = iteration, number

    def show(self, status) -> None:
        if status.iteration == self.iteration:
            signal.raise_signal(self.number)

    def close(self) -> None:
        pass


def configs(*overrides: str, runs: int = 1, resume: bool = True) -> list:
    own = (f"checkpoint.resume={str(resume).lower()}", *overrides)
    return [compose(*TINY, LENGTH, f"seed={seed}", *own) for seed in range(runs)]


def folders(path: Path, runs: int) -> list[Path]:
    return [path / str(seed) for seed in range(runs)]


def interrupted(configs, dirs, iteration: int, number: int = signal.SIGINT) -> Interrupted:
    """Train until an iteration is finished."""
    with pytest.raises(Interrupted) as caught:
        train(configs, dirs, StopsAt(iteration, number))
    return caught.value


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> list[dict]:
    """Three runs that were never interrupted."""
    path = tmp_path_factory.mktemp("undisturbed")
    train(configs(runs=3, resume=False), folders(path, 3))
    return [outcome(folder) for folder in folders(path, 3)]


# --- bit for bit ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("iteration", [1, 7])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_batch_that_is_interrupted_goes_on_as_if_nothing_had_happened(tmp_path, undisturbed, iteration, number):
    dirs = folders(tmp_path, 3)
    ended = interrupted(configs(runs=3), dirs, iteration, number)
    assert ended.number == number
    assert [result.status for result in ended.results] == ["interrupted"] * 3
    reached = [result.iterations for result in ended.results]
    assert sorted(reached)[1] == iteration
    for folder, count in zip(dirs, reached, strict=True):
        result = json.loads((folder / "result.json").read_text())
        assert (result["status"], result["iterations"]) == ("interrupted", count)
        assert len((folder / "metrics.csv").read_text().splitlines()) == (count + 1 if count else 0)
        assert checkpoint.load(folder)["iterations"] == count
    results = train(configs(runs=3), dirs)
    assert [outcome(folder) for folder in dirs] == undisturbed
    for result, folder, count in zip(results, dirs, reached, strict=True):
        assert result.parameters_sha256 == json.loads((folder / "result.json").read_text())["parameters_sha256"]
        assert f"training goes on after iteration {count} as run" in (folder / "train.log").read_text()


@pytest.mark.parametrize(
    "overrides",
    [
        ("optimizer=sgd", "optimizer.momentum=0.9"),
        ("optimizer=rmsprop", "optimizer.centered=true", "baseline=batch_mean"),
        ("policy=gaussian", "env=pendulum", "total_env_steps=6000"),
        ("optimizer.schedule=kl_adaptive", "algorithm.entropy_schedule=linear"),
        ("baseline=running_mean",),
        ("baseline=time_dependent",),
        ("baseline=linear_features",),
        ("baseline=optimal_constant",),
        ("baseline=optimal_constant", "baseline.per_coordinate=true"),
        ("env=gymnasium", "env.id=CartPole-v1", "baseline=none"),
        ("policy.network=cnn", "env=gymnasium", "env.id=image_envs:Catch-v0", "env.wrappers=[normalize_observation]"),
        ("env.backend=envpool", "env.num_envs=5"),
        ("env.backend=async", "env.num_envs=5"),
        ("evaluation.every=3", "logging.every=2", "optimizer.schedule=cosine"),
        ("dtype=float64", "logging.tensorboard=false"),
    ],
    ids=lambda overrides: overrides[-1],
)
def test_every_kind_of_run_goes_on_bit_for_bit(tmp_path, overrides):
    kept = [item for item in overrides if not item.startswith("baseline=")]
    tiny = [item for item in TINY if not item.startswith("baseline") or len(kept) == len(overrides)]

    def config(resume: str):
        return [compose(*tiny, LENGTH, "seed=5", *overrides, f"checkpoint.resume={resume}")]

    train(config("false"), [tmp_path / "whole"])
    for iteration in (2, 5):
        interrupted(config("true"), [tmp_path / "parts"], iteration)
    train(config("true"), [tmp_path / "parts"])
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def test_runs_whose_checkpoints_are_at_different_iterations_go_on_in_one_batch(tmp_path, undisturbed):
    dirs = folders(tmp_path, 3)
    interrupted(configs("checkpoint.every=4", runs=2), dirs[:2], 9)
    interrupted(configs("checkpoint.every=4", runs=3)[2:], dirs[2:], 6)
    before = int(checkpoint.load(dirs[1])["iterations"])
    (dirs[1] / "checkpoints" / "last.pt").write_bytes(b"")  # back to the one before
    reached = [int(checkpoint.load(folder)["iterations"]) for folder in dirs]
    assert reached[1] < before
    assert len(set(reached)) > 1
    train(configs(runs=3), dirs)
    assert [outcome(folder) for folder in dirs] == undisturbed


def test_a_resumed_batch_with_a_new_run_that_is_interrupted_again_loses_none(tmp_path, undisturbed):
    dirs = folders(tmp_path, 3)
    first = interrupted(configs(runs=2), dirs[:2], 9)
    second = interrupted(configs(runs=3), dirs, 10)
    before, after = ([result.iterations for result in ended.results] for ended in (first, second))
    assert all(new >= old for new, old in zip(after, [*before, 1], strict=True))
    train(configs(runs=3), dirs)
    assert [outcome(folder) for folder in dirs] == undisturbed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_parts_are_made_leaves_the_folders_as_they_were(tmp_path, undisturbed, monkeypatch, number):
    dirs = folders(tmp_path, 3)
    interrupted(configs(runs=3), dirs, 2)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    load = Batch._load
    monkeypatch.setattr(Batch, "_load", lambda *_arguments: signal.raise_signal(number))
    with pytest.raises(Interrupted) as caught:
        train(configs(runs=3), dirs)
    assert (caught.value.results, caught.value.number) == ([], number)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    monkeypatch.setattr(Batch, "_load", load)
    train(configs(runs=3), dirs)
    assert [outcome(folder) for folder in dirs] == undisturbed


def test_interrupted_in_the_first_iteration_a_run_begins_again(tmp_path, undisturbed, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Batch, "iterate", lambda _: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(Interrupted):
            train(configs(), [tmp_path / "0"])
    assert json.loads((tmp_path / "0" / "result.json").read_text())["iterations"] == 0
    train(configs(), [tmp_path / "0"])
    assert outcome(tmp_path / "0")["scalars"] == undisturbed[0]["scalars"]
    assert outcome(tmp_path / "0") == undisturbed[0]


def test_interrupted_in_the_evaluation_a_run_is_only_evaluated_again(tmp_path, undisturbed, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(
            "pg_experiments.evaluating.of_training.evaluate_each", lambda *_: signal.raise_signal(signal.SIGINT)
        )
        with pytest.raises(Interrupted):
            train(configs(), [tmp_path / "0"])
    with monkeypatch.context() as patch:
        patch.setattr(Batch, "iterate", lambda _: pytest.fail("it is trained again"))
        train(configs(), [tmp_path / "0"])
    assert outcome(tmp_path / "0") == undisturbed[0]


def test_what_was_written_after_the_checkpoint_is_written_once(tmp_path, undisturbed):
    """As after SIGKILL: rows behind the checkpoint, half a row at the end, an old temporary file."""
    folder = tmp_path / "0"
    interrupted(configs("checkpoint.every=4"), [folder], 9)
    (folder / "checkpoints" / "last.pt").unlink()
    (folder / "result.json").unlink()
    (folder / "checkpoints" / ".last.pt.1.tmp").write_bytes(b"half")
    (events,) = folder.glob("events.*")
    for path in (folder / "metrics.csv", events):
        with path.open("ab") as file:
            file.write(b"10,12")
    train(configs(), [folder])
    assert outcome(folder) == undisturbed[0]


def test_records_that_are_shorter_than_the_checkpoint_says_lead_to_the_one_before(tmp_path, undisturbed, capfd):
    folder = tmp_path / "0"
    interrupted(configs("checkpoint.every=4"), [folder], 9)
    text = (folder / "metrics.csv").read_bytes()
    (folder / "metrics.csv").write_bytes(text[:-3])
    train(configs(), [folder])
    assert outcome(folder) == undisturbed[0]
    log, message = (folder / "train.log").read_text(), "last.pt: cannot be continued (metrics.csv or the events are "
    assert f"{message}shorter than they were then)" in log
    assert f"{message}shorter than they were then); iteration_000000008.pt is used instead" in capfd.readouterr().err
    assert "training goes on after iteration 8" in log


def test_without_a_whole_checkpoint_a_run_begins_from_the_start_and_says_so(tmp_path, undisturbed, capfd):
    folder = tmp_path / "0"
    interrupted(configs(), [folder], 9)
    (folder / "checkpoints" / "last.pt").write_bytes(b"")
    train(configs(), [folder])
    assert "last.pt: cannot be read (it is empty); there is no other: the run begins from the start" in (
        capfd.readouterr().err
    )
    assert outcome(folder) == undisturbed[0]


def test_a_damaged_best_checkpoint_does_not_stop_a_run(tmp_path, undisturbed, capfd):
    interrupted(configs(), [tmp_path / "0"], 9)
    (tmp_path / "0" / "checkpoints" / "best.pt").write_bytes(b"")
    train(configs(), [tmp_path / "0"])
    assert "best.pt: cannot be read (it is empty)" in capfd.readouterr().err
    assert load_policy(tmp_path / "0", "best")([0.0] * 4) in (0, 1)
    assert outcome(tmp_path / "0") == undisturbed[0]


def test_complete_runs_are_returned_as_they_are(tmp_path, undisturbed):
    dirs = folders(tmp_path, 2)
    (first,) = train(configs(), dirs[:1])
    before = {path: path.read_bytes() for path in dirs[0].rglob("*") if path.is_file()}
    again, second = train(configs(runs=2), dirs)
    assert {path: path.read_bytes() for path in dirs[0].rglob("*") if path.is_file()} == before
    assert (again.parameters_sha256, again.evaluation) == (first.parameters_sha256, first.evaluation)
    assert int(again.policy([0.0] * 4)) == int(first.policy([0.0] * 4))
    assert outcome(dirs[1]) == undisturbed[1]
    assert second.status == "completed"


def test_logging_may_change(tmp_path):
    folder = tmp_path / "0"
    interrupted(configs("logging.tensorboard=false"), [folder], 4)
    interrupted(configs(), [folder], 6)
    interrupted(configs("logging.tensorboard=false"), [folder], 8)
    train(configs("logging.every=1000"), [folder])
    iterations = [int(row.split(",")[0]) for row in (folder / "metrics.csv").read_text().splitlines()[1:]]
    assert iterations[:8] == list(range(1, 9))
    assert len(iterations) == 9
    assert len(list(folder.glob("events.*"))) == 1


def test_seconds_add_up(tmp_path):
    first = interrupted(configs(), [tmp_path], 9).results[0]
    (second,) = train(configs(), [tmp_path])
    assert second.wall_seconds > first.wall_seconds
    assert second.env_steps / second.env_steps_per_second > first.env_steps / first.env_steps_per_second


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("override", ["total_env_steps=2600", "optimizer.lr=0.1", "env.num_envs=5"])
def test_another_config_is_refused_with_its_keys(tmp_path, override):
    interrupted(configs(), [tmp_path], 2)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    key, _, value = override.partition("=")
    with pytest.raises(UserError, match=rf"holds a run of another config: {key} is .* there and {value} now"):
        train(configs(override), [tmp_path])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_folder_with_a_run_is_not_written_to_without_being_asked(tmp_path):
    interrupted(configs(), [tmp_path], 2)
    with pytest.raises(UserError, match=r"holds a run already; .*checkpoint\.resume=true"):
        train(configs(resume=False), [tmp_path])


def test_the_command_says_what_is_wrong_in_one_line(run, tmp_path):  # noqa: F811
    tiny = (*TINY, "total_env_steps=100")
    ended = run(*tiny, "checkpoint.resume=true")
    assert (ended.code, ended.err) == (
        2,
        "error: checkpoint.resume=True: needs the folder of the run as well: hydra.run.dir=RUN\n",
    )
    assert run(*tiny, "checkpoint.resume=true", "hydra.run.dir=r").code == 0  # there is nothing yet: from the start
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    ended = run(*tiny, "checkpoint.resume=true", "hydra.run.dir=r")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == "r: is complete already; there is nothing to resume\n"
    ended = run(*tiny, "checkpoint.resume=true", "hydra.run.dir=r", "seed=3", "checkpoint.every=3")
    assert ended.code == 2
    assert ended.err.startswith("error: r: holds a run of another config: seed is 0 there and 3 now; ")
    assert ended.err.count("\n") == 1
    ended = run(*tiny, "checkpoint.resume=true", "hydra.run.dir=${env.num_envs}")
    assert ended.code == 2
    assert "must be a plain path" in ended.err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


# --- signals ----------------------------------------------------------------------------------------------------------


def test_a_signal_waits_for_the_end_of_what_belongs_together():
    done = []

    def send(then: str) -> None:
        with unbroken():
            signal.raise_signal(signal.SIGTERM)
            done.append(then)

    with heard():
        with pytest.raises(Stop):
            send("after the signal")
        assert done == ["after the signal"]
        with pytest.raises(Stop):  # the second one does not wait
            send("not reached")
    assert done == ["after the signal"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    forget()


def test_somebody_elses_handler_stays():
    def own(number, frame):
        pass

    before = signal.signal(signal.SIGTERM, own)
    try:
        with heard():
            assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


# --- killed, in processes of their own --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["single", "batch", "sweep"])
def test_killed_at_random_moments_and_resumed_it_is_the_run_that_was_never_killed(tmp_path, kind):
    """Three kills with SIGKILL and three with SIGTERM; `tests/kill_and_resume.py` does it more often."""
    command = [
        sys.executable,
        kill_and_resume.__file__,
        "--kinds",
        kind,
        "--kills",
        "3",
        "--env-steps",
        "5000",
        "--seed",
        "7",
    ]
    ended = subprocess.run([*command, "--folder", str(tmp_path)], capture_output=True, text=True, timeout=600)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout + ended.stderr
