"""Errors that a user can mend: one line that names the key, the value, what is allowed and the nearest choice."""

import difflib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NoReturn

EXIT_USER_ERROR = 2
LONGEST_VALUE = 200  # characters of it in a message


def printable(text: str) -> str:
    """A text from somebody's files in one line, without the control characters that a terminal would obey."""
    return "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))


class UserError(Exception):
    """Something the user asked for cannot be done. The message is one line; commands print it and exit with 2."""

    def __init__(self, message: str) -> None:
        super().__init__("".join(letter if letter.isprintable() else _escaped(letter) for letter in message))


class ConfigError(UserError):
    """A config value that cannot be used.

    Args:
        key: dotted name, such as `optimizer.lr`.
        value: what was given; None leaves it out of the message.
        problem: what is wrong and what is allowed.
    """

    def __init__(self, key: str, value: object, problem: str) -> None:
        given = key if value is None else f"{key}={_shortened(' '.join(str(value).split()))}"
        super().__init__(f"{given}: {problem}")
        self.key = key
        self._given = (key, value, problem)

    def __reduce__(self) -> tuple[type["ConfigError"], tuple[str, str | None, str]]:
        """For the way back from a worker: pickle would make it from its message alone."""
        key, value, problem = self._given
        return type(self), (key, None if value is None else str(value), problem)


@contextmanager
def ctrl_c_stays_itself() -> Iterator[None]:
    """Undo what a library makes of a Ctrl-C in the middle of its work: an error of its own, such as OmegaConf's."""
    try:
        yield
    except Exception as error:
        before: BaseException | None = error
        while before is not None:
            if isinstance(before, KeyboardInterrupt):
                raise before from None
            before = before.__cause__ or before.__context__
        raise


def _escaped(letter: str) -> str:
    """A control character as Python writes it: in a terminal it would do something."""
    return letter.encode("unicode_escape").decode()


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}... ({len(text)} characters)"


def needs_extra(key: str, value: object, extra: str) -> ConfigError:
    """The error for a choice that comes with an extra of the package which is not installed."""
    return ConfigError(key, value, f"needs the extra {extra}: pip install 'pg_experiments[{extra}]'")


def fail(error: UserError) -> NoReturn:
    """One line on stderr, and exit code 2."""
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(EXIT_USER_ERROR)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind when it has none."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


FOLDER_OR_INSTALL = "run the command in the folder that holds it, or install it"


def nearest(word: str, choices: Iterable[str]) -> str:
    """The question "Did you mean 'x'?", x the choice most like the word; an empty string when none is like it."""
    found = difflib.get_close_matches(word, sorted(choices), n=1, cutoff=0.5)
    return f" Did you mean '{found[0]}'?" if found else ""


class EnvError(Exception):
    """An environment raised, took too long or returned what none may return. The run that plays it fails.

    The message says which environment, what it did and what was expected, and in which step of which copy.

    Args:
        name: of the environment.
        problem: such as `step returned a reward of nan, expected a finite number`.
        row, copy: whose copy it was, as far as that is known; the rollout makes a run and a step of it.
        certain: whether only that run can be to blame, so that it need not be tried again.
    """

    def __init__(
        self, name: str, problem: str, row: int | None = None, copy: int | None = None, certain: bool = False
    ) -> None:
        super().__init__(name, problem)
        self.name, self.problem, self.row, self.copy, self.certain = name, problem, row, copy, certain
        self.run: int | None = None
        self.step: int | None = None  # 0: the reset

    def __str__(self) -> str:
        moment = {None: "", 0: "in the reset"}.get(self.step, f"in step {self.step}")
        copy = "" if self.copy is None else f"of copy {self.copy}"
        where = " ".join(part for part in (moment, copy) if part)
        return f"env {self.name}: {self.problem}" + (f" ({where})" if where else "")


def reason_of(error: BaseException) -> str:
    """Why a run failed, in one line: the kind of error and what it says, or what an environment did."""
    return first_line(error) if isinstance(error, EnvError) else f"{type(error).__name__}: {first_line(error)}"


class RunFailedError(Exception):
    """A run of a sweep ended as `failed`; the message is the reason. It is no mistake of the command: exit code 1."""
