"""Whether the parameters of a batch of runs fit into the memory: asked before the first of them is drawn."""

import os
from pathlib import Path

import torch

from pg_experiments.baselines.shared_value import SharedValue
from pg_experiments.config import Config
from pg_experiments.errors import ConfigError
from pg_experiments.optimizer_settings import OptimizerSettings
from pg_experiments.policies.networks import Network
from pg_experiments.runs import DTYPES, Parts


def check_parameters_fit(config: Config, parts: Parts, runs: int = 1) -> None:
    """Raise a `ConfigError` that names the larger network when the parameters need more memory than there is.

    Args:
        config: of one of the runs.
        parts: made from it.
        runs: that train as one program.
    """
    needed = {part: runs * learner_bytes(config, parts, part) for part in ("policy", "baseline")}
    available = available_bytes(config.device)
    if sum(needed.values()) <= available:
        return
    part = max(needed, key=lambda name: needed[name])
    each = f" of {runs} runs" if runs > 1 else ""
    raise ConfigError(
        f"{part}.hidden_sizes",
        list(network.hidden_sizes)
        if (network := _network(parts.trained_policy if part == "policy" else parts.baseline))
        else None,
        f"the parameters{each} with their gradients and the optimizer's state need {needed[part] / 1e9:,.1f} GB "
        f"({needed[part]:.0f} bytes), and {available / 1e9:,.1f} GB ({available:.0f} bytes) are available",
    )


def parameter_bytes(config: Config, parts: Parts) -> float:
    """Memory that training takes for the parameters of one run, policy and baseline."""
    return sum(learner_bytes(config, parts, part) for part in ("policy", "baseline"))


def learner_bytes(config: Config, parts: Parts, part: str) -> float:
    """Memory of the `policy` or `baseline` of one run while it takes a step; 0 for a part without a network of ours.

    There are the parameters, their gradients, their values before the step and the optimizer's state, and a copy of
    parameters and state that an interruption falls back to.
    """
    network = _network(parts.trained_policy if part == "policy" else parts.baseline)
    if network is None:
        return 0.0
    shapes, settings = network.shapes, getattr(parts.baseline, "optimizer", None)
    if part == "policy":
        settings = parts.optimizer
    elif isinstance(parts.baseline, SharedValue):  # the other layers are the policy's
        shapes, settings = shapes[-1:], parts.optimizer
    states = settings.state_tensors if isinstance(settings, OptimizerSettings) else 0
    count = sum((size_in + 1) * size_out for size_in, size_out in shapes)
    return float(count) * DTYPES[config.dtype].itemsize * (2 * (1 + states) + 2)


def _network(part: object) -> Network | None:
    network = getattr(part, "network", None)
    return network if isinstance(network, Network) else None


def available_bytes(device: str = "cpu") -> float:
    """Memory that this process may still take: of the machine, or of its control group where that is less.

    Of a CUDA device it is the device's own; where there is none, as where jobs for a cluster are made, the machine's.
    """
    if device.startswith("cuda") and torch.cuda.is_available():
        return float(torch.cuda.mem_get_info(device)[0])
    free = float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
        group = Path("/sys/fs/cgroup")
        limit = float((group / "memory.max").read_text())
        return min(free, limit - float((group / "memory.current").read_text()))
    except (OSError, ValueError, StopIteration):  # no Linux, or no limit ("max")
        return free
