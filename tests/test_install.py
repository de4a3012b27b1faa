"""The wheel and the sdist hold what they should, and the installed package works from another folder.

The complete matrix, other Pythons and real extras, is `python tools/check_install.py PYTHON ... --extras`.
"""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from sweeping import TINY, run  # noqa: F401 - a fixture

TOOL = Path(__file__).parents[1] / "tools" / "check_install.py"


def tool() -> ModuleType:
    """`tools/check_install.py` as a module."""
    spec = importlib.util.spec_from_file_location("check_install", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_install"] = module  # where its dataclass looks for its own module
    spec.loader.exec_module(module)
    return module


def test_wheel_and_sdist_hold_the_same_package_and_it_works_from_another_folder(tmp_path: Path) -> None:
    check = tool()
    wheel, _ = check.build(tmp_path / "dist")
    installed = check.install_borrowing(wheel, tmp_path / "environment")
    (tmp_path / "work").mkdir()
    check.use(installed, tmp_path / "work")


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
