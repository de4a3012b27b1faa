"""The wheel and the sdist hold what they should, and the installed package works from another folder.

The complete matrix, other Pythons and real extras, is `python tests/check_install.py PYTHON ... --extras`.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import check_install
import pytest
from sweeping import TINY, run  # noqa: F401 - a fixture


def test_wheel_and_sdist_hold_the_same_package_and_it_works_from_another_folder(tmp_path: Path) -> None:
    wheel, _ = check_install.build(tmp_path / "dist")
    installed = check_install.install_borrowing(wheel, tmp_path / "environment")
    (tmp_path / "work").mkdir()
    check_install.use(installed, tmp_path / "work")


@pytest.mark.parametrize(
    ("override", "named", "extra", "module"),
    [
        ("hydra.launcher.backend=ray", "hydra.launcher.backend=ray", "ray", "ray"),
        ("hydra.launcher.backend=submitit", "hydra.launcher.backend=submitit", "slurm", "submitit"),
    ],
)
@pytest.mark.parametrize("sweeper", ["grid", "basic"])
def test_without_the_extra_of_a_backend_the_error_names_the_command(
    run: Callable[..., Any],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    override: str,
    named: str,
    extra: str,
    module: str,
    sweeper: str,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    ended = run("-m", *TINY, "seed=0,1", override, f"hydra/sweeper={sweeper}")
    assert ended.code == 2
    assert ended.err == f"error: {named}: needs the extra {extra}: pip install 'pg_experiments[{extra}]'\n"
    assert list(tmp_path.iterdir()) == []
