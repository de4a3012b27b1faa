"""`hydra/sweeper=optuna` with the defaults of a search for returns; the sweeper itself comes with the extra `optuna`.

A file `conf/hydra/sweeper/optuna.yaml` cannot do this: Hydra refuses one of the name of a stored config with defaults.
"""

import logging
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.plugins.search_path_plugin import SearchPathPlugin

CHANGED: dict[str, Any] = {
    "_target_": "hydra_plugins.pg_experiments_launcher.optuna_search.ReturnSearch",
    "direction": "maximize",  # the mean final return over sweep.tuning_seeds
    "n_jobs": 10,  # trials at a time: with all of their seeds one program
    "max_failure_rate": 1.0,  # a trial that diverges is a failed trial, not the end of the search
}


class OptunaDefaults(SearchPathPlugin):
    """Changes the stored config. Hydra calls such plugins when all others, in any order, have stored theirs."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Leave the search path as it is; and in another program than ours, everything."""
        stored_configs = ConfigStore.instance().repo["hydra"]
        stored = stored_configs["sweeper"].get("optuna.yaml")
        if "schema" in stored_configs and stored:  # our schemas: `composition.register` was called
            for key, value in CHANGED.items():
                stored.node[key] = value
            logging.getLogger("alembic").setLevel(logging.WARNING)  # of Optuna's storage: a page about its plugins
