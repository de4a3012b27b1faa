"""The evaluation command: of one run, of a sweep as few programs, and with seeds that are never those of training."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import Ended, call
from scipy import stats

from pg_experiments import ConfigError, compose, randomness, train
from pg_experiments.config import config_sha256, evaluation_seed
from pg_experiments.evaluate import main
from pg_experiments.evaluating import many
from pg_experiments.evaluating.many import How, evaluate_runs
from pg_experiments.randomness import TRAINING, USED_BITS, check_streams, stream
from pg_experiments.reports.collect import collect

TYPE_CHECKS = False  # see conftest.py

TINY = (
    "policy=softmax",
    "env=cartpole",
    "baseline=none",
    "policy.hidden_sizes=[8]",
    "env.num_envs=4",
    "total_env_steps=600",
    "evaluation.episodes=5",
    "logging.progress=none",
    "logging.tensorboard=false",
)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> Ended:
    return call(main, capsys, arguments)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two learning rates and three seeds, and two runs of another structure."""
    root = tmp_path_factory.mktemp("sweep")
    configs = {
        f"optimizer.lr={lr},seed={seed}": compose(*TINY, f"optimizer.lr={lr}", f"seed={seed}")
        for lr in (0.001, 0.1)
        for seed in range(3)
    }
    train(list(configs.values()), [root / name for name in configs])
    others = [compose(*TINY, "policy.activation=tanh", f"seed={seed}") for seed in (0, 1)]
    train(others, [root / f"tanh,seed={seed}" for seed in (0, 1)])
    return root


@pytest.fixture
def sweep(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "sweep")


# --- many runs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [How(7), How(7, seed=3), How(7, deterministic=False)], ids=["own", "seed", "sampled"])
def test_a_run_among_many_gets_the_numbers_that_it_gets_alone(trained: Path, how: How) -> None:
    runs = collect(trained)
    together = evaluate_runs(runs, how)
    assert together == [evaluate_runs([one], how)[0] for one in runs]
    assert len({outcome.return_mean for outcome in together}) > 4  # type: ignore[union-attr]


def test_without_other_wishes_it_is_the_evaluation_of_the_training(trained: Path) -> None:
    runs = collect(trained)
    for one, outcome in zip(runs, evaluate_runs(runs, How(5)), strict=True):
        assert outcome._asdict() == json.loads((one.folder / "result.json").read_text())["evaluation"]  # type: ignore[union-attr]


def test_runs_of_equal_structure_are_one_program(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def counted(policy: object, parameters: list[object], *rest: object, **named: object) -> list[object]:
        sizes.append(len(parameters))
        return original(policy, parameters, *rest, **named)

    original: Callable[..., list[object]] = many.evaluate_each
    monkeypatch.setattr(many, "evaluate_each", counted)
    evaluate_runs(collect(trained), How(5))
    assert sorted(sizes) == [2, 6]
    sizes.clear()
    monkeypatch.setattr(many, "MOST_COPIES", 20)
    evaluate_runs(collect(trained), How(5))
    assert sorted(sizes) == [2, 2, 4]


def test_the_table_and_the_files_hold_what_the_evaluations_say(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended = run(capsys, sweep, "--episodes", 6, "--seed", 11)
    assert ended.code == 0
    assert "8 of 8 runs evaluated" in ended.err
    runs = collect(sweep)
    outcomes = evaluate_runs(runs, How(6, seed=11))
    content = json.loads((sweep / "evaluation.json").read_text())
    assert (content["episodes"], content["seed"], content["actions"]) == (6, 11, "deterministic")
    for row, one, outcome in zip(content["runs"], runs, outcomes, strict=True):
        assert row["run"] == one.folder.name
        assert {name: row[name] for name in outcome._asdict()} == outcome._asdict()  # type: ignore[union-attr]
    with (sweep / "evaluation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["return_mean"]) for row in rows] == [row["return_mean"] for row in content["runs"]]
    (fast,) = [one for one in content["settings"] if one["values"].get("optimizer.lr") == "0.1"]
    means = [row["return_mean"] for row in content["runs"] if "lr=0.1" in row["run"]]
    assert fast["mean"] == pytest.approx(np.mean(means))
    assert fast["sd"] == pytest.approx(np.std(means, ddof=1))
    interval = stats.t.interval(0.95, 2, np.mean(means), stats.sem(means))
    assert (fast["low"], fast["high"]) == pytest.approx(interval)
    assert fast["worst_seed"] == int(np.argmin(means))
    assert "6 episodes per run" in " ".join(ended.out.split())


def test_a_run_that_cannot_be_evaluated_is_named_and_the_others_are(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killed, failed, damaged = (sweep / f"optimizer.lr=0.001,seed={seed}" for seed in range(3))
    (killed / "result.json").unlink()
    result = json.loads((failed / "result.json").read_text())
    (failed / "result.json").write_text(json.dumps({**result, "status": "failed", "evaluation": None}))
    (damaged / "checkpoints" / "last.pt").write_bytes(b"nothing")
    ended = run(capsys, sweep, "--episodes", 3)
    assert ended.code == 1
    named = re.findall(r"^not evaluated: (.*)$", ended.err, re.MULTILINE)
    assert [line.partition(": ")[0] for line in named] == [str(folder) for folder in (killed, failed, damaged)]
    assert "has not ended" in named[0]
    assert "training failed" in named[1]
    assert "cannot be read" in named[2]
    rows = json.loads((sweep / "evaluation.json").read_text())["runs"]
    assert {row["run"] for row in rows if row["problem"]} == {folder.name for folder in (killed, failed, damaged)}
    assert sum("return_mean" in row for row in rows) == 5
    assert "Traceback" not in ended.err


def test_when_no_run_can_be_evaluated_one_line_says_why(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in sweep.rglob("result.json"):
        path.unlink()
    ended = run(capsys, sweep)
    assert ended.code == 2
    assert re.fullmatch(r"error: \S+ and 7 more: cannot be evaluated: its training has not ended[^\n]*\n", ended.err)
    assert not (sweep / "evaluation.json").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--episodes", "0"], "--episodes=0: must be from 1 to"),
        (["--seed", "-1"], "--seed=-1: must be from 0 to"),
        (["--checkpoint", "iteration_7"], "no checkpoint iteration_7; there are "),
    ],
)
def test_a_mistake_is_said(trained: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    ended = run(capsys, trained / "tanh,seed=0", *arguments)
    assert ended.code == 2
    assert says in ended.err


def test_a_folder_that_is_not_there_or_holds_no_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended = run(capsys, tmp_path / "nothing")
    assert (ended.code, ended.err) == (2, f"error: {tmp_path / 'nothing'}: there is no such folder\n")
    ended = run(capsys, tmp_path)
    assert ended.code == 2
    assert "not a run's folder" in ended.err


# --- seeds ------------------------------------------------------------------------------------------------------------


def test_one_evaluation_seed_gives_every_run_the_same_episodes() -> None:
    """A table that does not learn is the same policy in every run, so outcomes differ only where the episodes do."""
    lake = ("policy=tabular_softmax", "env=frozen_lake", "optimizer.lr=0", "baseline=none", "env.num_envs=4")
    small = (*lake, "total_env_steps=1", "evaluation.episodes=20", "logging.progress=none")
    same, own = (
        train([compose(*small, f"seed={seed}", *more) for seed in range(3)]) for more in (["evaluation.seed=4"], [])
    )
    assert [result.parameters_sha256 for result in same] == [result.parameters_sha256 for result in own]
    assert same[0].evaluation == same[1].evaluation == same[2].evaluation
    assert len({str(result.evaluation) for result in own}) == 3


def test_the_command_plays_the_episodes_that_the_training_would_have_played(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train([compose(*TINY, "evaluation.seed=4")], [tmp_path / "four"])
    train([compose(*TINY)], [tmp_path / "own"])
    said = [run(capsys, tmp_path / name, *more).out.splitlines()[1:]
            for name, more in (("four", ()), ("own", ("--seed", 4)), ("own", ()))]  # fmt: skip
    assert said[0] == said[1] != said[2]


def test_the_evaluation_seed_belongs_to_the_config_and_its_absence_does_not() -> None:
    """Folders from before there was the key hold the same run."""
    assert config_sha256(compose(*TINY)) != config_sha256(compose(*TINY, "evaluation.seed=4"))
    assert evaluation_seed(compose(*TINY, "seed=8")) == 8
    with pytest.raises(ConfigError, match=r"evaluation\.seed=-1"):
        compose(*TINY, "evaluation.seed=-1")


def test_torch_uses_the_last_bits_of_a_seed_only() -> None:
    first, second, third = (
        torch.rand(3, generator=torch.Generator().manual_seed(seed)) for seed in (5, 5 + 2**USED_BITS, 6)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_evaluation_streams_are_never_those_of_training() -> None:
    """For ten thousand runs, and for runs that share an evaluation seed: by the bits that torch's generator uses."""
    for seed in (*range(10_000), 2**62, 2**63 - 1):
        check_streams(seed, seed)
        check_streams(seed, 4)
        used = {stream(seed, purpose) % 2**USED_BITS for purpose in (*TRAINING, "evaluation")}
        assert len(used) == 3, seed


def test_a_coincidence_of_streams_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def coincides(seed: int, purpose: str) -> int:
        return stream(3, "rollout") + 2**USED_BITS if (seed, purpose) == (4, "evaluation") else stream(seed, purpose)

    monkeypatch.setattr(randomness, "stream", coincides)
    says = r"evaluation\.seed=4: gives episodes that seed=3 is trained on; choose another number"
    with pytest.raises(ConfigError, match=says):
        train([compose(*TINY, f"seed={seed}", "evaluation.seed=4") for seed in (2, 3)])
    train([compose(*TINY, "seed=2", "evaluation.seed=4")])
