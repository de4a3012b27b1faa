"""Hydra's Optuna sweeper, whose mistakes and failures are one line. Without the extra `optuna` there is none."""

from contextlib import nullcontext, suppress
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser

with suppress(ImportError):
    from hydra_plugins.hydra_optuna_sweeper.optuna_sweeper import OptunaSweeper

    class ReturnSearch(OptunaSweeper):
        """Searches for the highest mean return over `sweep.tuning_seeds`."""

        def sweep(self, arguments: list[str]) -> None:
            """Run all trials, or those that a stored study lacks.

            Raises:
                UserError: for what Optuna refuses; before any work, when a seed is given as for a training.
                RunFailedError: when no trial was completed.
            """
            from sqlalchemy.exc import SQLAlchemyError

            from pg_experiments.errors import ConfigError, RunFailedError, UserError, first_line

            _check(arguments, self.sweeper.direction)
            try:
                self._go_on(arguments)
                super().sweep(arguments)
            except SQLAlchemyError as error:
                raise ConfigError("hydra.sweeper.storage", self.sweeper.storage, first_line(error)) from error
            except (ValueError, NotImplementedError, AssertionError) as error:
                if "No trials are completed" in str(error):
                    print("every trial of the search failed; see the reasons above", flush=True)
                    raise RunFailedError("every trial of the search failed") from error
                raise UserError(f"hydra/sweeper=optuna: {first_line(error)}") from error
            except RuntimeError as error:
                if "Study.stop" not in str(error):
                    raise
                # Optuna's grid sampler ends a study in a way that the sweeper forgives when the last trial succeeds
                print("the last trial of the grid failed; hydra/sweeper=grid trains a grid as well", flush=True)
                raise RunFailedError("the last trial of the grid failed") from error

        def _go_on(self, arguments: list[str]) -> None:
            from hydra_plugins.hydra_optuna_sweeper._impl import create_params_from_overrides

            from pg_experiments.sweeps.folder import locked
            from pg_experiments.sweeps.study import go_on

            folder = Path(str(self.sweeper.sweep_dir))
            more = [f"{key!s}={value}" for key, value in (self.sweeper.params or {}).items()]
            searched, fixed = create_params_from_overrides([*more, *arguments])
            with locked(folder) if folder.is_dir() else nullcontext():
                go_on(self.sweeper, fixed, list(searched))


def _check(arguments: list[str], direction: object) -> None:
    from pg_experiments.errors import ConfigError

    name = getattr(direction, "name", direction)
    if name not in ("maximize", "minimize"):
        raise ConfigError("hydra.sweeper.direction", name, "must be one of maximize, minimize")
    for override in OverridesParser.create().parse_overrides(arguments):
        if override.key_or_group == "seed":
            raise ConfigError(
                "seed",
                (override.input_line or "").partition("=")[2],
                "a search trains every trial with the seeds of sweep.tuning_seeds; set those, and report on others",
            )
