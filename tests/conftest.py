"""What all tests share: one thread, as in training, because with more of them sums are split by size."""

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

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
