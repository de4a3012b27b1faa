"""What all tests share: one thread, as in training, because with more of them sums are split by size."""

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings
from type_checks import without_type_checks

# the same examples at every run, and nothing remembered; asked for more, other ones every time
settings.register_profile(
    "always the same",
    derandomize="PG_EXPERIMENTS_EXAMPLES" not in os.environ,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("always the same")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _types_are_checked_where_parts_are_tested(request: pytest.FixtureRequest) -> Iterator[None]:
    """At every call, which takes longer than the work: so not in the slow tests, nor in those of whole commands.

    A module of the latter says `TYPE_CHECKS = False`: its runs are as in a user's process, which checks none.
    """
    if request.node.get_closest_marker("slow") is None and getattr(request.module, "TYPE_CHECKS", True):
        yield
        return
    with without_type_checks():
        yield
