"""The report command: `python -m pg_experiments.report DIR`: a table of a sweep's settings, and a picture of them."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pg_experiments.errors import UserError, fail
from pg_experiments.trust import imports_from_elsewhere

PICTURE = "sweep.png"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table and write the picture; exit code 2 when there is nothing to read or the picture has no place."""
    parser = argparse.ArgumentParser(
        prog="python -m pg_experiments.report",
        description=f"Compare the runs of sweeps: a table here, and learning curves in the first folder's {PICTURE}.",
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="folder of a sweep, or of one run")
    options = parser.parse_args(arguments)
    try:
        with imports_from_elsewhere():
            report(*options.folders)
    except UserError as error:
        fail(error)
    except KeyboardInterrupt:
        parser.exit(130)


def report(*folders: Path) -> None:
    """Print the table of all runs in the folders, write `sweep.png` into the first, print where it is.

    The folders may be somebody else's. Classes that their configs name are compared as texts and never imported, so
    there is nothing to trust here; files that lead out of a folder are not read.

    Args:
        folders: of sweeps, or of single runs. A run that is in several is one run.

    Raises:
        UserError: when a folder holds no runs, or, after the table, when the picture cannot be written.
    """
    from rich.console import Console

    from pg_experiments.reports.collect import collect
    from pg_experiments.reports.picture import write_picture
    from pg_experiments.reports.settings import compare
    from pg_experiments.reports.table import print_table

    runs = {run.folder.resolve(): run for folder in folders for run in collect(folder)}
    comparison = compare(list(runs.values()))
    console = Console(highlight=False)
    if not comparison.settings:
        reasons = f"; {comparison.notes[0]}" if comparison.notes else ""
        more = f" and {len(comparison.notes) - 1} more" if len(comparison.notes) > 1 else ""
        raise UserError(f"{folders[0]}: holds no run with a config that can be read{reasons}{more}")
    for note in comparison.notes:
        print(f"warning: {note}", file=sys.stderr)
    print_table(comparison, console)
    path = folders[0] / PICTURE
    write_picture(comparison, path)
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
