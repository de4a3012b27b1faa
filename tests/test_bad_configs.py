"""Two thousand command lines that cannot be used: every one is one line, exit code 2, and nothing left behind.

They are drawn by Hypothesis, always the same ones (see `conftest.py`). `PG_EXPERIMENTS_EXAMPLES=10` draws ten times as
many, and others.
"""

import contextlib
import io
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from bad_overrides import (
    Broken,
    Key,
    all_keys,
    bad_sweep,
    broken_key,
    conflict,
    hydra_nonsense,
    sweep_without_flag,
    unknown_key,
    unknown_option,
    wrong_fit,
    wrong_syntax,
)
from hydra.core.global_hydra import GlobalHydra
from hypothesis import given, settings
from hypothesis import strategies as st

from pg_experiments.config import SCHEMAS, Config
from pg_experiments.train import main

TYPE_CHECKS = False  # see conftest.py

TIMES = int(os.environ.get("PG_EXPERIMENTS_EXAMPLES", "1"))
SECONDS = 3.0  # of the processor, for one command in process
KEYS = all_keys()
SWEPT = [key for key in KEYS if not key.needs and not key.name.startswith(("sweep.", "seed"))]
KINDS: dict[str, tuple[st.SearchStrategy[Broken], int]] = {
    "unknown key": (unknown_key(), 120),
    "unknown option": (unknown_option(), 70),
    "conflict": (conflict(), 60),
    "wrong fit": (wrong_fit(), 30),
    "wrong syntax": (wrong_syntax(), 100),
    "sweep without -m": (sweep_without_flag(), 40),
    "hydra's own": (hydra_nonsense(), 30),
    "sweep": (bad_sweep(SWEPT), 45),
}
EACH_KEY = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty working folder; the first, slow imports are over."""
    folder = tmp_path_factory.mktemp("bad") / "work"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HYDRA_FULL_ERROR", "0")  # the command sets it; put back afterwards
        command("policy=softmax")
        command("-m", "policy=softmax", "seed=1,2")
        yield folder


def command(*arguments: str) -> tuple[object, str, str]:
    """The training command in this process: its exit code and both streams."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["train", *arguments])
        patch.setattr("pg_experiments.train.run_job", lambda node: None)  # nothing is trained where a mistake is missed
        patch.setattr("pg_experiments.sweeps.launch.launch_jobs", lambda *_: [])
        try:
            main()
        except SystemExit as leaving:
            code = leaving.code
        finally:
            GlobalHydra.instance().clear()
    return code, out.getvalue(), err.getvalue()


def check(broken: Broken, folder: Path) -> None:
    begin = time.process_time()
    code, out, err = command(*broken.flags, *broken.overrides)
    assert time.process_time() - begin < SECONDS
    assert code == 2, err
    assert err.startswith("error: "), err
    assert err.endswith("\n"), err
    assert len(err.splitlines()) == 1, err
    assert "Traceback" not in err
    assert any(name in err for name in broken.names), err
    assert out == ""
    assert list(folder.iterdir()) == []


class Enough(BaseException):
    """Ends Hypothesis's search, which takes an `Exception` for a mistake that it has found."""


def draw_and_check(strategy: st.SearchStrategy[Broken], examples: int, folder: Path) -> None:
    """Check so many different command lines of a strategy."""
    examples *= TIMES
    checked: set[Broken] = set()
    failed = False  # then Hypothesis looks for a simpler one, and every one counts

    @settings(max_examples=4 * examples)  # some of them are the same
    @given(strategy)
    def each(broken: Broken) -> None:
        nonlocal failed
        if not failed and broken in checked:
            return
        try:
            check(broken, folder)
        except AssertionError:
            failed = True
            raise
        checked.add(broken)
        if not failed and len(checked) == examples:
            raise Enough

    with contextlib.suppress(Enough):
        each()
    assert len(checked) == examples


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_a_key_with_a_value_that_it_cannot_have_is_one_line(key: Key, folder: Path) -> None:
    draw_and_check(broken_key(key), EACH_KEY, folder)


@pytest.mark.parametrize("kind", KINDS)
def test_a_command_line_that_cannot_be_used_is_one_line(kind: str, folder: Path) -> None:
    strategy, examples = KINDS[kind]
    draw_and_check(strategy, examples, folder)


def test_every_key_of_every_schema_is_among_them_and_there_are_two_thousand() -> None:
    drawn = {(key.schema, key.name.rpartition(".")[2]) for key in KEYS}
    schemas = [Config, *(schema for options in SCHEMAS.values() for schema in options.values())]
    expected = set()
    while schemas:
        schema = schemas.pop()
        for field in fields(schema):
            if is_dataclass(field.type):
                schemas.append(field.type)
            elif str(field.type) != "typing.Any":
                expected.add((schema.__name__, field.name))
    assert drawn == expected
    assert len(KEYS) * EACH_KEY + sum(examples for _, examples in KINDS.values()) >= 2000
