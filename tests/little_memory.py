"""A limit on the memory that a piece of code may take: beyond it the system gives none, and Python says `MemoryError`.

The peak of a process says less. It may be from long before, and it is read when ten gigabytes have been taken already.

`python tests/little_memory.py BYTES evaluate FOLDER report FOLDER ...` reads each folder with that entry point, in a
process that holds nothing else, and prints how each ended.
"""

import contextlib
import io
import json
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from pg_experiments import UserError, load_policy
from pg_experiments.evaluate import main as evaluate_main
from pg_experiments.report import main as report_main

FILE = str(Path(__file__).resolve())
PAGE = resource.getpagesize()


@contextlib.contextmanager
def little_memory(more_bytes: float) -> Iterator[None]:
    """What is in here may take so much more than the process has now, touched or not."""
    has = int(Path("/proc/self/statm").read_text().split()[0]) * PAGE
    before, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (has + int(more_bytes), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, hard))


def _read(entry: str, folder: str) -> None:
    if entry == "load_policy":
        try:
            load_policy(folder)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from error
    elif entry == "evaluate":
        evaluate_main([folder, "--episodes", "2"])
    else:
        report_main([folder])


def main(more_bytes: str, *reads: str) -> None:
    """Read every folder; print a list of exit codes and messages."""
    torch.set_num_threads(1)
    ends = []
    for entry, folder in zip(reads[::2], reads[1::2], strict=True):
        code, out, err = 0, io.StringIO(), io.StringIO()
        with little_memory(float(more_bytes)), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                _read(entry, folder)
            except SystemExit as stop:
                code = int(stop.code or 0)
            except MemoryError:
                err.write("MemoryError")
        ends.append((code, err.getvalue()))
    print(json.dumps(ends))


if __name__ == "__main__":
    main(*sys.argv[1:])
