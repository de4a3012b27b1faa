"""The training command: `python -m pg_experiments.train policy=gaussian env=pendulum`, or `--repeat RUN_DIR`.

Hydra composes the config; `pg_experiments.training.train` does the work. torch is imported only when there is work.
"""

import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from pg_experiments import repeat
from pg_experiments.backend_config import described, taken
from pg_experiments.before_work import check_run
from pg_experiments.composition import conf_dir, free_keys, one_line, register, to_config
from pg_experiments.config import resuming
from pg_experiments.envs.hanging import ended_when_hanging
from pg_experiments.errors import RunFailedError, UserError, ctrl_c_stays_itself, fail, first_line
from pg_experiments.interruption import SIGNALS, exit_code, heard
from pg_experiments.progress import say
from pg_experiments.sweeps.arguments import prepared
from pg_experiments.trust import modules_to_trust

EXIT_FAILED = 1


def run_job(node: DictConfig) -> float | None:
    """Train the one run that Hydra composed; the value of a sweep's job is its final mean return."""
    from pg_experiments.summary import print_summary
    from pg_experiments.training import Interrupted, train

    job = HydraConfig.get()
    alone = job.mode == RunMode.RUN
    config = to_config(node)
    own_modules = modules_to_trust(asdict(config))
    if taken(config.env) != "native" and config.logging.progress != "none":
        say(described(config.env))
    try:
        with ended_when_hanging(lambda result: print_summary(result, own_modules)):
            (result,) = train([config if alone else resuming(config)], [Path(job.runtime.output_dir)])
    except Interrupted as interrupted:
        resume = again(sys.argv[1:], job.runtime.output_dir) if alone else ""
        for result in interrupted.results:
            print_summary(result, own_modules, resume)
        raise
    except UserError as error:
        if alone:  # Hydra would put a line of its own before ours
            fail(error)
        raise
    print_summary(result, own_modules)
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
        if any(argument.partition("=")[0] == repeat.OPTION for argument in sys.argv[1:]):
            raise SystemExit(repeat.main(sys.argv[1:]))
        warnings.filterwarnings("error", "provider=.* is not available")  # a folder of configs that is not there
        with ctrl_c_stays_itself():
            sys.argv[1:] = prepared(sys.argv[1:])
            if not check_run(sys.argv[1:]):
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
    except OSError as error:
        fail(UserError(f"{error.filename or 'output folder'}: cannot be written ({error.strerror})"))
    except UserWarning as warning:
        fail(UserError(first_line(warning)))
    except Exception as error:
        if not _is_of_hydra(error):
            raise
        fail(one_line(error, sys.argv[1:]))


def again(arguments: Sequence[str], folder: str) -> str:
    """The command that resumes the run of this one."""
    own = ("hydra.run.dir=", "checkpoint.resume=")
    rest = [item for item in arguments if not item.lstrip("+").startswith(own)]
    path = shlex.quote(os.path.relpath(folder))
    return f"python -m pg_experiments.train {shlex.join([*rest, 'checkpoint.resume=true'])} hydra.run.dir={path}"


def _is_of_hydra(error: Exception) -> bool:
    """Whether Hydra raised it for what it was told, such as `--resolve` alone, and no code of ours that it called."""
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    ours = max(place for place, file in enumerate(files) if Path(__file__).parent in Path(file).parents)
    return any({"hydra", "omegaconf", "antlr4"} & set(Path(file).parts) for file in files[ours + 1 :])


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
