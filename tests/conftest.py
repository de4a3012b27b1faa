"""What all tests share: one thread, as in training, because with more of them sums are split by size."""

import os
import signal
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings
from type_checks import begin_a_test, spare_functions_inside_of_functions, without_type_checks

# the same examples at every run, and nothing remembered; asked for more, other ones every time
settings.register_profile(
    "always the same",
    derandomize="PG_EXPERIMENTS_EXAMPLES" not in os.environ,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("always the same")
spare_functions_inside_of_functions()


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_is_heard() -> None:
    """Also where a shell has started the tests in the background, which lets them and their children ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


NEW_VALUE = pytest.StashKey[bool]()  # whether a test is the first of its function with some value of a parameter


@pytest.hookimpl(tryfirst=True)  # before anything is left out or dealt to processes
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    seen: dict[str, set[tuple[str, str]]] = {}
    for item in items:
        function, _, _ = item.nodeid.partition("[")
        known = seen.setdefault(function, set())
        parameters = getattr(item, "callspec", None)
        values = {(name, repr(value)) for name, value in parameters.params.items()} if parameters else set()
        item.stash[NEW_VALUE] = not values or not values <= known
        known |= values


@pytest.fixture(autouse=True)
def _types_are_checked_where_parts_are_tested(request: pytest.FixtureRequest) -> Iterator[None]:
    """At every call, which takes longer than the work: so not in the slow tests, nor in those of whole commands.

    A module of the latter says `TYPE_CHECKS = False`: its runs are as in a user's process, which checks none. Of a test
    with parameters, those are checked that bring a value which none before had; a new combination of old values is not.
    """
    begin_a_test()
    is_slow, whole = request.node.get_closest_marker("slow"), not getattr(request.module, "TYPE_CHECKS", True)
    if is_slow is None and not whole and request.node.stash[NEW_VALUE]:
        yield
        return
    with without_type_checks():
        yield
