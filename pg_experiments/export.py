"""The export command: `python -m pg_experiments.export RUN_DIR --format onnx`: a trained policy in one file."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from pg_experiments.errors import ConfigError, UserError, fail, nearest
from pg_experiments.trust import add_loading_options, imports_from_elsewhere
from pg_experiments.untrusted_files import inside

FORMAT_NAMES = ("onnx", "torchscript", "torch")
FOLDER = "export"
README = "README.md"
EXIT_DIFFERENT = 1


class ExportDiffersError(Exception):
    """The exported policy does not act as the original; nothing was written."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a run's policy, checked against the original, with a README.md beside it.

    The folder may be somebody else's, as for `evaluate`: of its code nothing is run but what `--trust` names.
    """
    parser = argparse.ArgumentParser(
        prog="python -m pg_experiments.export",
        description="Write the deterministic policy of a trained run into one file: from the environment's observation "
        "to the action to send, with normalisation and action bounds inside.",
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="folder that a training run wrote")
    parser.add_argument("--format", default="onnx", metavar="NAME", help="onnx (default), torchscript or torch")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help=f"(default: RUN_DIR/{FOLDER}/NAME/policy.onnx, .ts or .pt2)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file and its README.md")
    add_loading_options(parser)
    options = parser.parse_args(arguments)
    try:
        with imports_from_elsewhere(options.trust):
            path, line = export(
                options.run_dir,
                options.format,
                options.output,
                overwrite=options.overwrite,
                checkpoint=options.checkpoint,
                trust=options.trust,
            )
    except UserError as error:
        fail(error)
    except ExportDiffersError as error:
        parser.exit(EXIT_DIFFERENT, f"error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130)
    print(f"policy:  {path}\nreadme:  {path.with_name(README)}\nchecked: {line}")


def export(
    run_dir: Path,
    format_name: str = "onnx",
    output: Path | None = None,
    *,
    overwrite: bool = False,
    checkpoint: str = "last",
    trust: Sequence[str] = (),
) -> tuple[Path, str]:
    """Do what the command says.

    Returns:
        Where the policy is, and how far it is from the original, in words.

    Raises:
        UserError: when it cannot be exported.
        ExportDiffersError: when what was exported acts differently.
    """
    if format_name not in FORMAT_NAMES:
        allowed = f"must be one of {', '.join(FORMAT_NAMES)}.{nearest(format_name, FORMAT_NAMES)}"
        raise ConfigError("--format", format_name, allowed)
    if not run_dir.is_dir():
        raise UserError(f"{run_dir}: there is no such folder")
    from pg_experiments.exporting.formats import FORMATS

    chosen = FORMATS[format_name]
    chosen.check_installed(format_name)
    path = output or inside(run_dir, run_dir / FOLDER / format_name / f"policy{chosen.suffix}")
    check_place(path, chosen.suffix, overwrite)

    import tempfile

    import torch

    from pg_experiments.config import option_of
    from pg_experiments.exporting.check import TOLERANCE, compare, sample_observations
    from pg_experiments.exporting.formats import EXAMPLE_BATCH, read, write
    from pg_experiments.exporting.readme import outputs, readme
    from pg_experiments.files import write_atomically
    from pg_experiments.policies.interface import ExportablePolicy
    from pg_experiments.policies.module import restore
    from pg_experiments.reports.collect import read_run
    from pg_experiments.runs import DTYPES, build, stack
    from pg_experiments.wrapper_config import read_wrappers

    torch.set_num_threads(1)
    policy, parameters, config = restore(run_dir, checkpoint, trust)
    parts = build(stack([config]))
    if not isinstance(parts.trained_policy, ExportablePolicy):
        home = ExportablePolicy.__module__
        raise ConfigError("policy", option_of(type(parts.trained_policy)), f"has no action_module, see {home}")
    assert isinstance(policy, ExportablePolicy)
    module = policy.action_module(parameters)
    observation = sample_observations(policy, parameters, parts.env, DTYPES[config.dtype])
    module(observation[:EXAMPLE_BATCH])  # what a policy makes once and keeps must not be made while it is traced
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / path.name
        write(chosen, module, outputs(parts.trained_policy), observation[:EXAMPLE_BATCH], draft)
        found = compare(policy, parameters, parts.env.spec, read(chosen, draft), observation)
        if not found.passed:
            raise ExportDiffersError(
                f"--format={format_name}: the exported policy acts differently: {found.line()}, and {TOLERANCE:g} is "
                "allowed; nothing was written"
            )
        content = draft.read_bytes()
    settings = read_wrappers(config.env["wrappers"] if isinstance(config.env, dict) else config.env.wrappers)
    run = read_run(run_dir, run_dir)
    text = readme(chosen, path.name, config, run, checkpoint, parts.env, settings, found, parts.trained_policy)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
        write_atomically(path.with_name(README), text.encode())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    return path, found.line()


def check_place(path: Path, suffix: str, overwrite: bool) -> None:
    """Refuse a name of another kind, what is there, unless asked to replace it, and a README.md of somebody's own."""
    if path.is_dir():
        raise ConfigError("--output", path, "is a folder; give the name of a file in it")
    beside = path.with_name(README)
    if path.name == README:
        raise ConfigError("--output", path, "is the name of the text beside the policy; choose another one")
    if path.suffix != suffix:
        raise ConfigError("--output", path, f"must end in {suffix}")
    for existing in (path, beside):
        if existing.exists() and not overwrite:
            raise UserError(f"{existing}: is there already; add --overwrite to replace it, or choose another --output")
    if beside.exists():
        from pg_experiments.exporting.readme import TITLE

        with beside.open(errors="replace") as file:
            if file.readline().strip() != TITLE:
                raise UserError(f"{beside}: was not written by this command; choose another folder with --output")


if __name__ == "__main__":
    main()
