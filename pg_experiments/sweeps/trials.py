"""Trials of a search, such as Optuna's: each is trained with several seeds, and its value is their mean return."""

from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from pg_experiments.errors import ConfigError, RunFailedError

GRIDS = ("GridSweeper", "BasicSweeper")  # whose jobs are runs, each with the seed that it was given


def is_search(master: DictConfig) -> bool:
    """Whether the sweeper looks for the best values, and so wants one value per trial."""
    return not str(master.hydra.sweeper._target_).endswith(GRIDS)


def searched_keys(master: DictConfig) -> list[str]:
    """The keys that a search varies: as typed, or in `hydra.sweeper.params`."""
    params = [f"{key}={value}" for key, value in (master.hydra.sweeper.get("params") or {}).items()]
    overrides = OverridesParser.create().parse_overrides([*params, *master.hydra.overrides.task])
    return [override.key_or_group.replace("/", ".") for override in overrides if override.is_sweep_override()]


def with_seeds(trials: Sequence[Sequence[str]], seeds: Sequence[int]) -> list[list[str]]:
    """The runs of all trials, trial by trial.

    Args:
        trials: overrides of each.
        seeds: to tune on, `sweep.tuning_seeds`: never those of a report, or the best trial is the luckiest one.

    Raises:
        ConfigError: when there is no seed, or a trial brings its own.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError("sweep.tuning_seeds", list(seeds), "must be one or more different seeds")
    for override in (override for trial in trials for override in trial):
        if override.lstrip("+").startswith("seed="):
            raise ConfigError(
                "seed", override.partition("=")[2], "a search trains every trial with the seeds of sweep.tuning_seeds"
            )
    return [[*trial, f"seed={seed}"] for trial in trials for seed in seeds]


class FailedTrial(JobReturn):
    """The answer of a trial that has no value; a sweeper reads the reason, which Hydra's own class would also print."""

    @property
    def return_value(self) -> float:
        """Raises what made it fail."""
        raise self._return_value

    @return_value.setter
    def return_value(self, value: Exception) -> None:
        self._return_value = value


def mean_of_seeds(trial: Sequence[str], names: Sequence[str], answers: Sequence[JobReturn]) -> JobReturn:
    """The answer of a trial: the mean of its runs, one per seed, or the failure of the first that failed, by name."""
    runs = zip(names, answers, strict=True)
    name, failed = next(((name, one) for name, one in runs if one.status != JobStatus.COMPLETED), (None, None))
    answer = FailedTrial() if failed else JobReturn()
    answer.overrides, answer.cfg = list(trial), answers[0].cfg
    answer.working_dir, answer.task_name = answers[0].working_dir, answers[0].task_name
    answer.status = failed.status if failed else JobStatus.COMPLETED
    if failed:
        answer.return_value = RunFailedError(f"{name}: {failed._return_value}")
    else:
        answer.return_value = sum(float(one.return_value) for one in answers) / len(answers)
    return answer
