"""`hydra/launcher=batched`: all jobs of a sweep at once, runs of equal structure as one tensor program."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class BatchedLauncherConf:
    """How a sweep is spread.

    Attributes:
        workers: processes, or tasks of a cluster at a time; None: one per physical core, on a cluster as many as fit.
        max_runs_per_batch: runs that one program trains at once; None: chosen from the memory, at most
            100.
        backend: `processes` on this machine, `ray` on a Ray cluster, `submitit` on Slurm.
        retries: how often a run whose worker died with it alone is tried again; larger batches come back in halves.
        ray: for `ray.init`, and `remote` for the options of its tasks.
        submitit: `folder` for its logs, `cluster` (null: Slurm where there is one), and parameters of the executor.
    """

    _target_: str = "hydra_plugins.pg_experiments_launcher.batched_launcher.BatchedLauncher"
    workers: int | None = None
    max_runs_per_batch: int | None = None
    backend: str = "processes"
    retries: int = 2
    ray: dict[str, Any] = field(default_factory=dict)
    submitit: dict[str, Any] = field(default_factory=dict)


ConfigStore.instance().store(
    group="hydra/launcher", name="batched", node=BatchedLauncherConf, provider="pg_experiments_launcher"
)


class BatchedLauncher(Launcher):
    """Hydra's side of the launcher; the work is in `pg_experiments.sweeps.launch`."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.hydra_context: HydraContext | None = None
        self.config: DictConfig | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Train all jobs; a failed one is a `JobReturn` with status FAILED, and the others go on."""
        from pg_experiments.sweeps.launch import launch

        assert self.hydra_context is not None
        assert self.config is not None
        return launch(self.hydra_context, self.config, self.settings, job_overrides, initial_job_idx)

    def launch_jobs(self, jobs: Sequence[Any], kept: int) -> Sequence[JobReturn]:
        """Train jobs that the `grid` sweeper has composed already."""
        from pg_experiments.sweeps.launch import launch_jobs

        return launch_jobs(jobs, self.settings, kept)
