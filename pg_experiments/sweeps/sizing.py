"""How many runs one program should hold: as many as the memory takes, and no more than make a run cheaper."""

from pg_experiments.config import Config
from pg_experiments.envs.interface import BoxActions, MixedActions, action_width
from pg_experiments.runs import build, num_envs, stack
from pg_experiments.sizing import available_bytes, parameter_bytes

MOST_RUNS = 100  # with 200 a run is no cheaper: measured by benchmarks/batch_size.py
MEMORY_SHARE = 0.5  # of what is available, for all workers together
WORKER_BYTES = 300e6  # of a worker before its first run


def batch_limit(config: Config, workers: int) -> tuple[int, str]:
    """The most runs of a batch, and the reason in words.

    Args:
        config: of one of the runs.
        workers: that share the machine, and its CUDA device where the config names one.
    """
    each = run_bytes(config)
    available = MEMORY_SHARE * available_bytes(config.device) / workers - WORKER_BYTES
    fitting = max(1, int(available / each))
    if fitting < MOST_RUNS:
        return fitting, f"memory, {each / 1e6:,.0f} MB a run"
    return MOST_RUNS, "a larger batch makes a run no cheaper"


def run_bytes(config: Config) -> float:
    """Memory of one run at the longest episodes, in bytes: parameters, trajectory, and what the update makes of it.

    A step of a copy holds observation, action, reward and three flags in the grid, and again in dense blocks with
    returns, values, weight, entropy, objective and position; while blocks are made, both are there.
    """
    parts = build(stack([config]))
    spec = parts.env.spec
    real = 8 if config.dtype == "float64" else 4
    action = action_width(spec.actions) * (real if isinstance(spec.actions, BoxActions | MixedActions) else 8)
    grid = real * (spec.observation_size + 1) + action + 3
    blocks = real * (spec.observation_size + 8) + action + 16
    trajectory = float(num_envs(config) * spec.max_episode_steps * (2 * grid + blocks))
    return trajectory + parameter_bytes(config, parts) + 2e6
