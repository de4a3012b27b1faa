"""The training command: `python -m pg_experiments.train policy=gaussian env=pendulum`.

Hydra composes the config; `pg_experiments.training.train` does the work. torch is imported only when there is work.
"""

import os
import re
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from pg_experiments.composition import compose_node, conf_dir, free_keys, one_line, register, to_config
from pg_experiments.config import Config, resuming
from pg_experiments.errors import ConfigError, RunFailedError, UserError
from pg_experiments.interruption import SIGNALS, exit_code, heard

EXIT_FAILED, EXIT_USER_ERROR = 1, 2


def run_job(node: DictConfig) -> float | None:
    """Train the one run that Hydra composed; the value of a sweep's job is its final mean return."""
    from pg_experiments.summary import print_summary
    from pg_experiments.training import Interrupted, train

    job = HydraConfig.get()
    alone = job.mode == RunMode.RUN
    try:
        config = to_config(node)
        (result,) = train([config if alone else resuming(config)], [Path(job.runtime.output_dir)])
    except Interrupted as interrupted:
        print_summary(interrupted.results[0], again(sys.argv[1:], job.runtime.output_dir) if alone else "")
        raise
    except UserError as error:
        if alone:  # Hydra would put a line of its own before ours
            fail(error)
        raise
    print_summary(result)
    if result.status == "failed":
        raise SystemExit(EXIT_FAILED) if alone else RunFailedError(result.error)  # the other jobs of a sweep go on
    return result.evaluation["return_mean"] if result.evaluation else None


def main() -> None:
    """Run the command line; exit code 0, 1 (a run failed), 2 (a user's mistake), 130 (Ctrl-C) or 143 (SIGTERM)."""
    with heard():
        try:
            command()
        except KeyboardInterrupt:
            raise SystemExit(exit_code()) from None


def command() -> None:
    """The same, with Ctrl-C and SIGTERM still `KeyboardInterrupt`."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors reach us: Hydra itself would print a traceback and exit with 1
    sys.argv[1:] = free_keys(sys.argv[1:])
    register()
    try:
        sys.argv[1:] = name_folders_by_what_varies(sys.argv[1:])
        if not check_before_work(sys.argv[1:]):
            return
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(run_job)()
    except UserError as error:
        fail(error)
    except RunFailedError:
        raise SystemExit(EXIT_FAILED) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `--help | head`: nobody reads on
    except (HydraException, OmegaConfBaseException) as error:  # before OSError, which some of Hydra's are as well
        fail(one_line(error, sys.argv[1:]))
    except ValueError as error:  # of Hydra's own command line, such as --resolve alone
        if "hydra" not in (traceback.extract_tb(error.__traceback__)[-1].filename):
            raise
        fail(UserError(str(error).splitlines()[0]))
    except OSError as error:
        fail(UserError(f"{error.filename or 'output folder'}: cannot be written ({error.strerror})"))


def fail(error: UserError) -> NoReturn:
    """One line on stderr, and exit code 2."""
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(EXIT_USER_ERROR)


def check_before_work(arguments: Sequence[str]) -> bool:
    """Compose and build a single run before Hydra makes its folder, so that a mistake leaves nothing behind.

    Returns:
        Whether there is work: not for a run that is to be resumed and is complete.
    """
    from hydra._internal.utils import get_args_parser

    flags = get_args_parser().parse_args(list(arguments))
    if flags.help or flags.hydra_help or flags.info or flags.cfg or flags.multirun or flags.shell_completion:
        return True
    overrides = [item for item in flags.overrides if not re.match(r"[+~]*hydra(?!\.searchpath)", item)]
    config = to_config(compose_node(overrides, flags.config_dir))
    if config.sweep.name is not None or config.sweep.preview:
        key = "sweep.preview" if config.sweep.preview else "sweep.name"
        raise ConfigError(key, config.sweep.name or True, "is for sweeps; add -m, and several values of a key")
    folder = folder_to_resume(config, flags.overrides) if config.checkpoint.resume else None
    from pg_experiments.runs import build, stack

    build(stack([config]))
    if folder is None:
        return True
    from pg_experiments.resume import is_complete

    if complete := is_complete(folder, config):
        print(f"{folder}: is complete already; there is nothing to resume")
    return not complete


def folder_to_resume(config: Config, overrides: Sequence[str]) -> Path:
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


def again(arguments: Sequence[str], folder: str) -> str:
    """The command that resumes the run of this one."""
    own = ("hydra.run.dir=", "checkpoint.resume=")
    rest = [item for item in arguments if not item.lstrip("+").startswith(own)]
    path = shlex.quote(os.path.relpath(folder))
    return f"python -m pg_experiments.train {shlex.join([*rest, 'checkpoint.resume=true'])} hydra.run.dir={path}"


def name_folders_by_what_varies(arguments: Sequence[str]) -> list[str]:
    """Leave the overrides that all jobs of a sweep share out of the names of the jobs' folders.

    A sweeper hands a launcher whole jobs, and only the command line says which of their overrides vary.
    """
    from hydra._internal.utils import get_args_parser
    from hydra.core.override_parser.overrides_parser import OverridesParser

    flags = get_args_parser().parse_args(list(arguments))
    if not flags.multirun:
        return list(arguments)
    parsed = OverridesParser.create().parse_overrides(flags.overrides)
    named = {item.key_or_group for item in parsed if item.is_sweep_override()} | {"seed"}
    fixed = [item.key_or_group for item in parsed if item.key_or_group not in named and not item.is_hydra_override()]
    key = "hydra.job.config.override_dirname.exclude_keys"
    if not fixed or any(item.key_or_group == key for item in parsed):
        return list(arguments)
    return [*arguments, f"{key}=[{','.join(dict.fromkeys(fixed))}]"]


class _CallableModule(ModuleType):
    """`from pg_experiments import train` is the function, also after something imported the command of that name."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        from pg_experiments.training import train

        return train(*arguments, **named)


sys.modules[__name__].__class__ = _CallableModule

if __name__ == "__main__":
    try:
        main()
    except SystemExit as leaving:
        alone = "pg_experiments.sweeps.launch" not in sys.modules  # a sweep has semaphores to give back
        if alone and leaving.code in [128 + number for number in SIGNALS]:  # who asked waits, and all is saved
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(int(leaving.code or 0))
        raise
