"""A study of Optuna that is stored: the same command goes on with it, as the same command goes on with a sweep.

Hydra's sweeper by itself would add `n_trials` to whatever there is, leave the trials of a killed command unfinished for
ever, begin a seeded sampler from its start, so that it asks for the same values again, and mix trials of other configs.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from pg_experiments.config import FREE_KEYS
from pg_experiments.errors import ConfigError
from pg_experiments.progress import say


def go_on(sweeper: Any, fixed: Mapping[str, Any], searched: Sequence[str]) -> None:
    """Prepare Hydra's sweeper for what its study holds; without a storage and a name, it begins a new one.

    What a killed command of the same `sweep.name` was training is asked for again, with the same values: so its runs
    go on in their folders. Nobody else may be training there.

    Args:
        sweeper: Hydra's, set up.
        fixed: values that every trial has, by key.
        searched: keys that the search varies.

    Raises:
        ConfigError: when the trials of the study cannot be compared with those to come.
    """
    from optuna import load_study
    from optuna.trial import TrialState

    if sweeper.storage is None or sweeper.study_name is None:
        return
    try:
        study = load_study(sweeper.study_name, sweeper.storage)
    except KeyError:  # there is none of this name
        return
    trials = study.get_trials(deepcopy=False)
    _check_same(study, [trial for trial in trials if trial.state == TrialState.COMPLETE], sweeper, fixed, searched)
    name = sweeper.config.sweep.name
    left = [trial for trial in trials if trial.state == TrialState.RUNNING]
    for trial in left:
        if name is not None and trial.user_attrs.get("sweep.name") == str(name):
            study._storage.set_trial_state(trial._trial_id, TrialState.WAITING)
    ended = sum(trial.state.is_finished() for trial in trials)
    if ended:
        say(f"study {sweeper.study_name}: {ended} of {max(ended, sweeper.n_trials)} trials have ended already")
    sweeper.n_trials = max(0, sweeper.n_trials - ended)
    sampler = sweeper.config.hydra.sweeper.sampler
    if trials and sampler.get("seed") is not None:
        sweeper.sampler = instantiate(sampler, seed=sampler.seed + len(trials))
    if not sweeper.n_trials:
        Path(sweeper.sweep_dir).mkdir(parents=True, exist_ok=True)  # for the best values, which the sweeper writes


def _check_same(
    study: Any, trials: Sequence[Any], sweeper: Any, fixed: Mapping[str, Any], searched: Sequence[str]
) -> None:
    """Refuse to go on in another direction, or with another config than the last trial's."""
    before = [direction.name.lower() for direction in study.directions]
    pairs = [("hydra.sweeper.direction", "+".join(before), "+".join(sweeper._get_directions()))]
    if trials:
        there, varied = trials[-1].user_attrs, {*trials[-1].params, *searched}
        keys = [key for key in sorted({*there, *fixed} - varied) if _matters(key)]
        pairs += [(key, str(there.get(key, "not set")), str(fixed.get(key, "not set"))) for key in keys]
    found = [f"{key} is {then} there and {now} now" for key, then, now in pairs if then != now]
    if found:
        reason = f"holds trials that cannot be compared with these: {', '.join(found)}; give the study another name"
        raise ConfigError("hydra.sweeper.study_name", sweeper.study_name, reason)


def _matters(key: str) -> bool:
    return key == "sweep.tuning_seeds" or not key.startswith(FREE_KEYS)
