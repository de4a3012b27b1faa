"""The store of checkpoints: what is damaged is found and passed over, and no fault at any moment loses the last one."""

import os
import re
from pathlib import Path

import pytest
import torch

from pg_experiments import UserError, checkpoint, compose, load_policy, train
from pg_experiments.checkpoint import BEST, LAST, DamagedError

TYPE_CHECKS = False  # see conftest.py

TINY = (
    "policy=softmax",
    "env=cartpole",
    "env.num_envs=2",
    "policy.hidden_sizes=[4]",
    "evaluation.episodes=2",
    "logging.progress=none",
)


def state(iteration: int) -> dict:
    """What `save` takes, recognisable by its iteration."""
    parameters = {"weight": torch.full((1, 50), float(iteration))}
    return {"policy": {"parameters": parameters, "optimizer": {}}, "iterations": iteration}


def saved(folder: Path, *iterations: int, keep: int = 1) -> Path:
    """A store to which these were saved, one after the other."""
    before = None
    for iteration in iterations:
        checkpoint.save(folder, state(iteration), before, keep)
        before = iteration
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)


def flip_the_checksum(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut_the_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def add_bytes(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0" * 10)


def write_zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


DAMAGES = {
    "a bit": (flip_a_bit, "its checksum is wrong"),
    "the checksum": (flip_the_checksum, "its checksum is wrong"),
    "cut": (cut_the_end, "its end, with the checksum, is missing"),
    "half": (cut_in_half, "its end, with the checksum, is missing"),
    "empty": (empty, "it is empty"),
    "longer": (add_bytes, "its end, with the checksum, is missing"),
    "zeros": (write_zeros, "its end, with the checksum, is missing"),
    "missing": (Path.unlink, "it is missing"),
}
every_damage = pytest.mark.parametrize(("damage", "reason"), DAMAGES.values(), ids=DAMAGES)


# --- the files --------------------------------------------------------------------------------------------------------


def test_the_last_and_the_one_before_it_stay(tmp_path):
    saved(tmp_path, 3, 6, 9)
    assert names(tmp_path) == ["iteration_000000006.pt", "last.pt"]
    assert checkpoint.load(tmp_path)["iterations"] == 9
    assert checkpoint.load(tmp_path, "iteration_000000006")["iterations"] == 6


def test_as_many_as_configured_stay(tmp_path):
    saved(tmp_path, 1, 2, 3, 4, 5, keep=3)
    assert names(tmp_path) == ["iteration_000000002.pt", "iteration_000000003.pt", "iteration_000000004.pt", "last.pt"]


def test_a_checkpoint_is_a_file_of_torch(tmp_path):
    saved(tmp_path, 3)
    assert torch.load(tmp_path / LAST, weights_only=True)["iterations"] == 3


def test_a_file_system_without_hard_links_keeps_the_one_before_as_well(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    saved(tmp_path, 3, 6, 9)
    assert names(tmp_path) == ["iteration_000000006.pt", "last.pt"]
    assert checkpoint.load(tmp_path, "iteration_000000006")["iterations"] == 6


# --- damage -----------------------------------------------------------------------------------------------------------


@every_damage
def test_instead_of_a_damaged_one_the_one_before_is_used_and_the_message_names_it(tmp_path, capsys, damage, reason):
    saved(tmp_path, 3, 6)
    damage(tmp_path / LAST)
    assert checkpoint.load(tmp_path)["iterations"] == 3
    said = capsys.readouterr().err
    assert said == f"note: {tmp_path / LAST}: cannot be read ({reason}); iteration_000000003.pt is used instead\n"


@every_damage
def test_two_damaged_ones_are_both_named(tmp_path, capsys, damage, reason):
    saved(tmp_path, 3, 6, 9, keep=2)
    damage(tmp_path / LAST)
    flip_a_bit(tmp_path / "checkpoints" / "iteration_000000006.pt")
    assert checkpoint.load(tmp_path)["iterations"] == 3
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.endswith("iteration_000000003.pt is used instead") for line in lines)


@pytest.mark.parametrize("bit", range(0, 8 * 1500, 997))
def test_every_flipped_bit_is_found(tmp_path, bit):
    saved(tmp_path, 3)
    content = bytearray((tmp_path / LAST).read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    (tmp_path / LAST).write_bytes(content)
    with pytest.raises(DamagedError, match=r"last\.pt: cannot be read"):
        checkpoint.read(tmp_path / LAST)


def test_a_damaged_best_one_is_not_replaced_by_another(tmp_path):
    saved(tmp_path, 3, 6)
    checkpoint.save_best(tmp_path, state(2))
    assert checkpoint.load(tmp_path, "best")["iterations"] == 2
    flip_a_bit(tmp_path / BEST)
    with pytest.raises(UserError, match=r"best\.pt: cannot be read"):
        checkpoint.load(tmp_path, "best")


@pytest.mark.parametrize("name", ["best", "iteration_000000001", "../last", "../checkpoints/last"])
def test_a_checkpoint_that_is_not_there_is_named(tmp_path, name):
    saved(tmp_path, 3)
    with pytest.raises(UserError, match=f"no checkpoint {re.escape(name)}; there are last"):
        checkpoint.load(tmp_path, name)


def test_no_code_in_a_checkpoint_is_run_even_with_the_right_checksum(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "trapped",))

    saved(tmp_path, 3)
    (tmp_path / LAST).write_bytes(checkpoint.sealed({"policy": Trap()}))
    with pytest.raises(UserError, match="cannot be read"):
        checkpoint.load(tmp_path)
    assert not (tmp_path / "trapped").exists()


# --- faults while it is written ---------------------------------------------------------------------------------------


class FaultError(Exception):
    """What a test lets happen instead of the next step."""


def fail(*_, **__):
    raise FaultError


STEPS = {
    "os.fsync": ("os.fsync", True),  # (what fails, whether the old one is still the last)
    "the kept name": ("pg_experiments.checkpoint._keep", True),
    "the rename": ("pathlib.Path.replace", True),
    "the folder's fsync": ("pg_experiments.checkpoint.sync_folder", False),
    "the pruning": ("pg_experiments.checkpoint.prune", False),
}


@pytest.mark.parametrize(("step", "old"), STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_a_fault_at_any_step_loses_nothing(tmp_path, monkeypatch, step, old, links):
    saved(tmp_path, 3, 6)
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(1, "no links")))
    with monkeypatch.context() as patch:
        patch.setattr(step, fail)
        with pytest.raises(FaultError):
            checkpoint.save(tmp_path, state(9), 6)
    assert checkpoint.load(tmp_path)["iterations"] == (6 if old else 9)
    assert not [name for name in names(tmp_path) if name.endswith(".tmp")]
    whole = [checkpoint.read(path)["iterations"] for path in checkpoint.candidates(tmp_path) if path.exists()]
    assert len(set(whole)) >= 2  # the newest is not the only one at any moment


def test_old_ones_are_removed_only_when_the_new_one_is_in_place(tmp_path, monkeypatch):
    saved(tmp_path, 3, 6)
    seen = []

    def prune(run_dir, keep):
        seen.append((checkpoint.read(run_dir / LAST)["iterations"], names(run_dir)))

    monkeypatch.setattr(checkpoint, "prune", prune)
    checkpoint.save(tmp_path, state(9), 6)
    assert seen == [(9, ["iteration_000000003.pt", "iteration_000000006.pt", "last.pt"])]


# --- of a run ---------------------------------------------------------------------------------------------------------


def test_the_best_checkpoint_has_the_parameters_that_played_the_best_iteration(tmp_path):
    config = compose(*TINY, "total_env_steps=800", "checkpoint.every=1", "checkpoint.keep=1000")
    train([config], [tmp_path])
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    returns = [float(row.split(",")[2]) for row in rows[1:]]
    best = checkpoint.load(tmp_path, "best")
    assert best["score"] == {
        "value": max(returns),
        "by": "episode/return_mean",
        "iteration": returns.index(max(returns)),  # the state after that many iterations played the next one
    }
    assert load_policy(tmp_path, "best")([0.0] * 4) in (0, 1)


def test_with_evaluations_on_the_way_the_best_checkpoint_is_the_best_evaluated(tmp_path):
    config = compose(*TINY, "total_env_steps=800", "evaluation.every=3", "evaluation.episodes=5")
    (result,) = train([config], [tmp_path])
    rows = [row.split(",") for row in (tmp_path / "metrics.csv").read_text().splitlines()[1:]]
    scores = {int(row[0]): float(row[-1]) for row in rows if row[-1]} | {
        result.iterations: result.evaluation["return_mean"]
    }
    score = checkpoint.load(tmp_path, "best")["score"]
    assert score["by"] == "evaluation/return_mean"
    assert score["value"] == max(scores.values()) == scores[score["iteration"]]


def test_by_time_a_run_is_saved_now_and_then(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(checkpoint, "save", lambda folder, content, *_: written.append(content["iterations"]))
    monkeypatch.setattr("pg_experiments.recording.SHARE", 1e9)
    train([compose(*TINY, "total_env_steps=400", "checkpoint.seconds=0.000001")], [tmp_path / "often"])
    assert written == sorted(set(written))
    assert len(written) > 3
    written.clear()
    (result,) = train([compose(*TINY, "total_env_steps=400", "checkpoint.seconds=1000")], [tmp_path / "seldom"])
    assert written == [result.iterations]
