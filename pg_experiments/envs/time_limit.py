"""`env.step_seconds`: a step or reset of an environment that takes longer is interrupted.

A timer of the system sends SIGALRM, and Python raises in the middle of what the environment does: it ends a sleep, a
wait and a loop in Python. It does not end C code that never returns to Python: such a step ends the process, see
`hanging.py`, where that is the training command or a worker of a sweep, which goes on as after any death of a worker.
"""

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jaxtyping import Bool, Float, Int64, Num
from torch import Tensor

from pg_experiments.envs.checks import name_of
from pg_experiments.envs.hanging import WATCH
from pg_experiments.envs.interface import Env, EnvSpec, EnvState, Transition
from pg_experiments.errors import ConfigError, EnvError

AGAIN_SECONDS = 1.0  # an environment that swallows the first interruption gets another one
GRACE = 3.0  # limits, and then
GRACE_SECONDS = 5.0  # until a process that cannot be interrupted is ended


class TookTooLong(BaseException):
    """The time is over. No `Exception`, so that an environment which tries again after any does not take it."""


class TimeLimit:
    """Seconds that one call may take.

    Raises:
        ConfigError: where there is no such timer, or Python would raise in another thread than this one.
    """

    def __init__(self, seconds: float) -> None:
        if not hasattr(signal, "setitimer"):
            raise ConfigError("env.step_seconds", seconds, "needs a timer that this system does not have")
        if threading.current_thread() is not threading.main_thread():
            raise ConfigError("env.step_seconds", seconds, "needs training to run in the main thread")
        self.seconds = seconds
        self.problem = f"a step took longer than {seconds} s (env.step_seconds)"
        self._watched = 0.0

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Let the timer be heard in here; afterwards everything is as it was."""
        before = signal.getsignal(signal.SIGALRM)
        rest = signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, _ring)
        self._watched = 0.0
        try:
            yield
        finally:
            self.stop()
            WATCH.stop()
            signal.signal(signal.SIGALRM, before)
            signal.setitimer(signal.ITIMER_REAL, *rest)

    def start(self) -> None:
        """A call begins."""
        if time.monotonic() > self._watched + self.seconds:  # seldom: it takes a thread
            self._watched = time.monotonic()
            WATCH.start(GRACE * self.seconds + GRACE_SECONDS, self.problem)
        signal.setitimer(signal.ITIMER_REAL, self.seconds, max(self.seconds, AGAIN_SECONDS))

    @staticmethod
    def stop() -> None:
        """The call has ended."""
        signal.setitimer(signal.ITIMER_REAL, 0)


class LimitedEnv:
    """An environment whose steps and resets, of all copies at once, take no longer than the limit."""

    def __init__(self, env: Env, limit: TimeLimit) -> None:
        self.inner, self._limit = env, limit
        self.name = name_of(env)
        if hasattr(env, "restart"):
            self.restart = self._restart

    @property
    def spec(self) -> EnvSpec:
        return self.inner.spec

    def reset(self, noise: Float[Tensor, "runs envs noise"]) -> tuple[EnvState, Float[Tensor, "runs envs observation"]]:
        with self._in_time():
            return self.inner.reset(noise)

    def step(
        self, state: EnvState, action: Num[Tensor, "runs envs *action"], running: Bool[Tensor, "runs envs"]
    ) -> Transition:
        with self._in_time():
            return self.inner.step(state, action, running)

    def _restart(self, state: EnvState, over: Bool[Tensor, "runs envs"], noise: Tensor) -> tuple[EnvState, Tensor]:
        with self._in_time():
            return self.inner.restart(state, over, noise)  # type: ignore[attr-defined]

    def select(self, state: EnvState, rows: Int64[Tensor, " rows"]) -> EnvState:
        return self.inner.select(state, rows)

    def join(self, states: Sequence[EnvState]) -> EnvState:
        return self.inner.join(states)

    @contextmanager
    def _in_time(self) -> Iterator[None]:
        try:
            with self._limit.heard():
                self._limit.start()
                yield
        except TookTooLong:
            raise EnvError(self.name, self._limit.problem) from None


def limited(env: Env, seconds: float | None) -> Env:
    """The environment with a limit; one that steps its copies one by one limits each step of each copy itself."""
    if seconds is None:
        return env
    limit = TimeLimit(seconds)
    limit_steps = getattr(env, "limit_steps", None)
    if limit_steps is None:
        return LimitedEnv(env, limit)
    limit_steps(limit)
    return env


def _ring(number: int, frame: Any) -> None:
    raise TookTooLong
