"""What all tests share: one thread, as in training, because with more of them sums are split by size."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
