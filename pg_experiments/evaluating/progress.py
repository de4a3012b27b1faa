"""What a person sees on stderr while episodes are played: a bar on a terminal, a line per batch elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

Advance = Callable[[int, str], None]  # how many steps more, or 0 with a line that says what is through


@contextmanager
def shown(steps: int) -> Iterator[Advance]:
    """Show how far it is.

    Args:
        steps: in all, at most.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda more, line: print(line, file=sys.stderr, flush=True) if line else None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("evaluating", total=steps)

        def advance(more: int, line: str) -> None:
            progress.update(task, advance=more, description=line or None)

        yield advance
