"""One generator per run and purpose: nothing in the package draws from a global stream."""

import hashlib

from torch import Generator

from pg_experiments.errors import ConfigError

TRAINING = ("parameters", "rollout")  # purposes of the streams that a run learns from
USED_BITS = 32  # of a seed, by torch's generator on the CPU


def generator_for(seed: int, purpose: str) -> Generator:
    """A generator that depends on a run's seed and on what it is for, and on nothing else.

    Args:
        seed: of the run, or of its evaluation.
        purpose: `parameters`, `rollout` or `evaluation`; each has a stream of its own.
    """
    return Generator().manual_seed(stream(seed, purpose))


def stream(seed: int, purpose: str) -> int:
    """What the generator is seeded with."""
    digest = hashlib.sha256(f"{purpose}:{seed}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def check_streams(seed: int, evaluation_seed: int) -> None:
    """Refuse the one pair of seeds in two thousand million whose evaluation would be played on the run's own training.

    The purpose is hashed with the seed, so streams of equal seeds are different ones; but of a hash, torch's generator
    uses 32 bits, of which two may be equal by chance.

    Raises:
        ConfigError: names both seeds.
    """
    used = {stream(seed, purpose) % 2**USED_BITS for purpose in TRAINING}
    if stream(evaluation_seed, "evaluation") % 2**USED_BITS in used:
        problem = f"gives episodes that seed={seed} is trained on; choose another number"
        raise ConfigError("evaluation.seed", evaluation_seed, problem)
