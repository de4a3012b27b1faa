"""What is left of a run: `result.json`, and the same as a Python object."""

import hashlib
import json
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

RESULT = "result.json"


@dataclass
class RunResult:
    """The outcome of one run; its fields but `run_dir` and `policy` are the keys of `result.json`.

    Attributes:
        status: `completed`, `failed` or `interrupted`.
        error: why it failed, or None.
        seed: of the run.
        env_steps, iterations, episodes: done in training.
        wall_seconds: of the batch that the run was in, training and evaluation.
        env_steps_per_second: env_steps / training seconds; of a run in a batch, its share of the batch's.
        runs_in_batch: how many runs shared the program.
        parameters_sha256: over the tensors of policy and baseline in the order of their names.
        evaluation: `episodes`, `return_mean`, `return_std`, `length_mean` and the 95 % interval
            `return_low` to `return_high` of the final deterministic evaluation; None when there was none.
        config_sha256: over what decides the run's numbers (see `config.config_sha256`).
        env_backend: that stepped the environment, such as `native`, `envpool` or `sync`; None in results of before.
        versions: of Python and the packages that decide the numbers.
        git_commit: of the checkout that the package is run from; None when it is installed from a wheel.
        git_dirty: whether tracked files of that checkout differ from the commit; None without a commit.
        platform: operating system and C library, whose functions some numbers come from.
        cpu, cpu_capability: the processor's name, and the instructions that torch uses of it, such as `AVX2`.
        torch_build: torch's own commit.
        threads: that the run was computed with.
        run_dir: the run's folder, or None.
        policy: the trained policy as a `torch.nn.Module`.
    """

    status: str
    error: str | None
    seed: int
    env_steps: int
    iterations: int
    episodes: int
    wall_seconds: float
    env_steps_per_second: float
    runs_in_batch: int
    parameters_sha256: str
    evaluation: dict[str, float] | None
    config_sha256: str
    versions: dict[str, str]
    git_commit: str | None
    git_dirty: bool | None
    platform: str
    cpu: str
    cpu_capability: str
    torch_build: str
    threads: int
    env_backend: str | None = None
    run_dir: Path | None = None
    policy: Any = field(default=None, repr=False)

    def to_json(self) -> str:
        """The text of `result.json`."""
        items = {name: value for name, value in vars(self).items() if name not in ("run_dir", "policy")}
        return json.dumps(items, indent=2) + "\n"


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended the training.

    Attributes:
        results: what every run had reached; their checkpoints are written. Empty when no run had begun, with nothing
            written, and after a second signal, which leaves at once, with whatever was written before.
        number: of the signal.
    """

    def __init__(self, results: list[RunResult], number: int = signal.SIGINT) -> None:
        super().__init__("training was interrupted")
        self.results = results
        self.number = number


def read_result(folder: Path) -> dict[str, Any] | None:
    """The content of a run's `result.json`; None when there is none, or none that can be read."""
    try:
        result = json.loads((folder / RESULT).read_text())
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) else None


def parameters_sha256(parameters: Mapping[str, Tensor]) -> str:
    """SHA-256 over name, type, shape and bytes of every tensor, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(parameters):
        tensor = parameters[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
