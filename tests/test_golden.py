"""Same machine, same config, same bits: as in `golden.json`, and in a fresh process. `golden.py` writes the file."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import golden
import pytest
from type_checks import without_type_checks

import pg_experiments

GOLDEN = json.loads(golden.FILE.read_text())
COMBINATIONS = list(golden.combinations())
every_combination = pytest.mark.parametrize("names", COMBINATIONS, ids=" ".join)
# what multiplies the last bits, in which processors differ, by the condition of a matrix: between an Intel Xeon and an
# AMD EPYC by up to 1.8e-5 of a number
SOLVES_EQUATIONS = {"npg", "trpo", "linear_features"}
AGAIN = "; if this change is meant to change results, say so in CHANGELOG.md and run python tests/golden.py --write"


@cache
def computed(*names: str) -> dict[str, Any]:
    return golden.compute(*names)


def test_every_policy_algorithm_and_baseline_has_golden_numbers():
    assert set(golden.ENVS) == set(golden.options("policy")), "a new policy needs an environment in tests/golden.py"
    assert set(GOLDEN["parameters"]) == {" ".join(names) for names in COMBINATIONS}, f"other combinations{AGAIN}"
    assert len(COMBINATIONS) >= 12


@every_combination
def test_three_updates_give_the_golden_numbers(names):
    expected, found = GOLDEN["parameters"][" ".join(names)]["first"], computed(*names)["first"]
    relative = 1e-4 if SOLVES_EQUATIONS & set(names) else 1e-9
    assert list(found) == list(expected), AGAIN
    for name, numbers in expected.items():
        assert found[name] == pytest.approx(numbers, rel=relative, abs=relative / 1e3), f"{name}{AGAIN}"


@every_combination
def test_three_updates_give_the_golden_bits(names):
    if GOLDEN["written_by"] != golden.writer():
        pytest.skip(f"written by {GOLDEN['written_by']}, this is {golden.writer()}: numbers are compared, bits are not")
    assert computed(*names)["parameters_sha256"] == GOLDEN["parameters"][" ".join(names)]["parameters_sha256"], AGAIN


def test_a_fresh_process_gives_the_same_bits_as_this_one():
    process = subprocess.run(
        [sys.executable, golden.__file__, "--print"],
        env={**os.environ, "PYTHONPATH": str(Path(pg_experiments.__file__).parents[1]), "PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        timeout=900,
        check=True,
    )
    fresh = json.loads(process.stdout)["parameters"]
    with without_type_checks():  # of those that the tests above have left to another process
        assert fresh == {" ".join(names): computed(*names) for names in COMBINATIONS}


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), ([], 2), (["--rite"], 2)])
def test_nothing_is_written_unasked(monkeypatch, capsys, arguments, code):
    monkeypatch.setattr(sys, "argv", ["golden.py", *arguments])
    monkeypatch.setattr(golden, "compute_all", lambda: pytest.fail("it computes"))
    with pytest.raises(SystemExit) as leaving:
        golden.main()
    assert leaving.value.code == code
    assert "--write" in "".join(capsys.readouterr())
