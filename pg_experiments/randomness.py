"""One generator per run and purpose: nothing in the package draws from a global stream."""

import hashlib

from torch import Generator


def generator_for(seed: int, purpose: str) -> Generator:
    """A generator that depends on a run's seed and on what it is for, and on nothing else.

    Args:
        seed: of the run.
        purpose: `parameters`, `rollout` or `evaluation`; each has a stream of its own.
    """
    digest = hashlib.sha256(f"{purpose}:{seed}".encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
