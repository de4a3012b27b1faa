"""`hydra/sweeper=grid`: Hydra's grid over all values, checked as a whole before the first folder is made."""

from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore


@dataclass
class GridSweeperConf:
    """As Hydra's `basic` sweeper: `max_batch_size` jobs are launched at a time, `params` are further overrides."""

    _target_: str = "hydra_plugins.pg_experiments_launcher.grid_sweeper.GridSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = None


ConfigStore.instance().store(
    group="hydra/sweeper", name="grid", node=GridSweeperConf, provider="pg_experiments_launcher"
)


class GridSweeper(BasicSweeper):
    """Hydra's side of the sweeper; the work is in `pg_experiments.sweeps.sweep`."""

    def sweep(self, arguments: list[str]) -> Any:
        """Check every job, keep what is complete, launch what is missing, and report."""
        from pg_experiments.sweeps.sweep import sweep

        assert self.config is not None
        assert self.launcher is not None
        assert self.hydra_context is not None
        return sweep(
            self.hydra_context, self.config, self.launcher, [*self._parse_config(), *arguments], self.max_batch_size
        )
