"""What is checked before the first folder is made, so that a mistake leaves nothing behind.

A single run is composed and built before Hydra starts. What only Hydra knows, the run's folder and the jobs of a
sweeper that is not ours, is checked by `BeforeWork`, which Hydra calls when it has composed and not yet written.
"""

import re
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pg_experiments.baseline_config import without_effect
from pg_experiments.composition import compose_node, one_line, to_config
from pg_experiments.errors import ConfigError, UserError, fail
from pg_experiments.policy_config import AutoConfig


def check_run(arguments: Sequence[str]) -> bool:
    """Compose and build the single run of a command line.

    `--cfg` and `--info` show what is composed, also what could not be trained: they are how one looks for a mistake.

    Returns:
        Whether there is work: not for a run that is to be resumed and is complete.

    Raises:
        UserError: when it cannot be trained.
    """
    flags = parsed_flags(arguments)
    if flags.help or flags.hydra_help or flags.info or flags.cfg or flags.multirun or flags.shell_completion:
        return True
    overrides = [item for item in flags.overrides if not re.match(r"[+~]*hydra(?!\.searchpath)", item)]
    config = to_config(compose_node(overrides, flags.config_dir))
    if config.sweep.name is not None or config.sweep.preview:
        key = "sweep.preview" if config.sweep.preview else "sweep.name"
        raise ConfigError(key, config.sweep.name or True, "is for sweeps; add -m, and several values of a key")
    folder = _folder_to_resume(flags.overrides) if config.checkpoint.resume else None
    from pg_experiments.devices import check_device
    from pg_experiments.evaluating.on_the_way import check_video
    from pg_experiments.runs import build, stack
    from pg_experiments.sizing import check_parameters_fit

    check_device(config.device)
    parts = build(stack([config]))
    check_parameters_fit(config, parts)
    check_video(config, parts.env)
    if isinstance(config.policy, AutoConfig):
        from pg_experiments.policies.auto import reason

        print(reason(parts.policy_spec))
    if note := without_effect(config.baseline, config.algorithm):
        print(note)
    if folder is None:
        return True
    from pg_experiments.resume import is_complete

    if complete := is_complete(folder, config):
        print(f"{folder}: is complete already; there is nothing to resume")
    return not complete


def _folder_to_resume(overrides: Sequence[str]) -> Path:
    """The folder that `hydra.run.dir` names.

    Raises:
        ConfigError: when it is not given, so that Hydra would make a new one, or depends on other keys.
    """
    given = [item.partition("=")[2] for item in overrides if item.lstrip("+").startswith("hydra.run.dir=")]
    if not given:
        raise ConfigError("checkpoint.resume", True, "needs the folder of the run as well: hydra.run.dir=RUN")
    if "${" in given[-1]:
        raise ConfigError("hydra.run.dir", given[-1], "must be a plain path with checkpoint.resume=true")
    return Path(given[-1].strip("'\""))


def parsed_flags(arguments: Sequence[str]) -> Namespace:
    """Hydra's own view of a command line.

    Raises:
        UserError: for a flag that it does not have.
    """
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    parser.error = _raise_flag_error  # type: ignore[method-assign]  # it would print its usage and exit
    return parser.parse_args(list(arguments))


def _raise_flag_error(message: str) -> NoReturn:
    raise UserError(f"{message}; --hydra-help lists the flags")


class BeforeWork(Callback):
    """Called by Hydra (`hydra.callbacks`), which would turn an exception into a warning: a mistake ends the command."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Refuse a folder that holds a run before Hydra writes into it."""
        _or_end(lambda: _check_run_folder(config))

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Check the launcher, and the jobs of every sweeper but `grid`, which does that itself."""
        _or_end(lambda: _check_sweep(config))


def _or_end(check: Callable[[], None]) -> None:
    try:
        check()
    except UserError as error:
        fail(error)
    except (HydraException, OmegaConfBaseException) as error:
        fail(one_line(error, []))


def _check_run_folder(config: DictConfig) -> None:
    from pg_experiments.checkpoint import LAST
    from pg_experiments.results import RESULT

    inside = config.hydra.output_subdir
    if inside is not None and Path(inside).name != inside:
        raise ConfigError("hydra.output_subdir", inside, "must be the name of a folder in the run's folder, or null")
    HydraConfig.instance().set_config(config)  # what ${hydra:...} in the folder's name reads
    folder = Path(str(config.hydra.run.dir))
    if ((folder / RESULT).exists() or (folder / LAST).exists()) and not config.checkpoint.resume:
        raise ConfigError(
            "hydra.run.dir", folder, "holds a run already; choose another folder, or add checkpoint.resume=true"
        )


def _check_sweep(config: DictConfig) -> None:
    from pg_experiments.sweeps.backends.interface import check as check_launcher
    from pg_experiments.sweeps.grouping import check_parts
    from pg_experiments.sweeps.jobs import Composer
    from pg_experiments.sweeps.sweep import check_jobs

    launcher, sweeper = str(config.hydra.launcher._target_), str(config.hydra.sweeper._target_)
    if launcher.endswith(".BatchedLauncher"):
        check_launcher(config.hydra.launcher)
    chunk = config.hydra.sweeper.get("max_batch_size")
    if chunk is not None and chunk < 1:
        raise ConfigError("hydra.sweeper.max_batch_size", chunk, "must be at least 1")
    if sweeper.endswith(".GridSweeper"):
        return
    loader: ConfigLoader = GlobalHydra.instance().config_loader()
    given = OmegaConf.to_container(config.hydra.overrides.task)
    params = OmegaConf.to_container(OmegaConf.create(config.hydra.sweeper.get("params") or {}))
    assert isinstance(given, list)
    assert isinstance(params, dict)
    overrides = OverridesParser.create(config_loader=loader).parse_overrides(
        [*(f"{key!s}={value}" for key, value in params.items()), *given]
    )
    if sweeper.endswith(".BasicSweeper"):
        check_jobs(loader, config, overrides)
        return
    composer = Composer(loader, config)
    check_parts([composer(job, number) for number, job in enumerate(_corners(overrides))])


def _corners(overrides: Sequence[Override]) -> Iterator[list[str]]:
    """Jobs in which every value that a search may choose, or the ends of its interval, occurs once."""
    values = {item.get_key_element(): list(dict.fromkeys(_values(item))) for item in overrides}
    first = {key: choices[0] for key, choices in values.items() if choices}
    yield list(first.values())
    for key, choices in values.items():
        for value in choices[1:]:
            yield list((first | {key: value}).values())


def _values(override: Override) -> Iterator[str]:
    if not override.is_sweep_override():
        yield str(override.input_line)
    elif isinstance(interval := override.value(), IntervalSweep):
        yield from (f"{override.get_key_element()}={end}" for end in (interval.start, interval.end))
    else:
        yield from (f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator())
