"""Any Gymnasium environment, its copies shared out among processes: for those of which a step takes long."""

import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Num
from joblib import cpu_count
from torch import Tensor

from pg_experiments.devices import from_numpy
from pg_experiments.envs.gymnasium_adapter import GymnasiumEnv, gymnasium_copies
from pg_experiments.envs.interface import Transition, Twin
from pg_experiments.envs.time_limit import TimeLimit
from pg_experiments.errors import EnvError

PRELOADED = ["pg_experiments.envs.gymnasium_processes"]
IGNORED = (signal.SIGINT, signal.SIGTERM)  # they are for the training, which then closes its ends of the pipes


@dataclass(frozen=True, eq=False)
class Remote:
    """The same rows in every process, each of which has some columns of copies of them."""

    number: int
    envs: int


@dataclass(eq=False)
class _Workers:
    """The processes of one environment, and the pipes to them; none before they are needed."""

    connections: list[Connection] = field(default_factory=list)

    def close(self) -> None:
        """A process ends when its pipe does."""
        for connection in self.connections:
            connection.close()
        self.connections.clear()


class GymnasiumProcesses:
    """Copies of a registered Gymnasium environment in one process per physical core, all of which step at once.

    Every process has a `GymnasiumEnv` with the same runs and its own columns of their copies. An episode is decided by
    its seed alone, so it is the one that `backend=sync` plays. A step waits for the slowest process, and takes about
    0.1 ms more than it would in this one.

    The processes import the environment: an id that a program registers itself is given as `module:id`, and such a
    program needs `if __name__ == "__main__":` around what it does, as with all of Python's `multiprocessing`.

    Args:
        id, kwargs, max_episode_steps, action_mask: as of `GymnasiumEnv`.
        processes: how many; None: one per physical core.
    """

    def __init__(
        self,
        id: str,
        kwargs: Mapping[str, Any],
        max_episode_steps: int | None,
        processes: int | None = None,
        *,
        action_mask: bool = False,
    ) -> None:
        self.name = id
        self._settings = (id, dict(kwargs), max_episode_steps, action_mask)
        self._count = processes or int(cpu_count(only_physical_cores=True))
        self._seconds: float | None = None
        self._dtype = torch.float32
        self._states = 0
        one = GymnasiumEnv(*self._settings)
        self.spec, self.own_spaces = one.spec, one.own_spaces
        self._workers = _Workers()
        weakref.finalize(self, self._workers.close)

    def twin(self) -> Twin:
        """The same id in this process: every copy draws itself."""
        return gymnasium_copies(*self._settings)

    def limit_steps(self, limit: TimeLimit) -> None:
        """Interrupt every step and every reset of a copy that takes longer, in its process."""
        self._seconds = limit.seconds

    def reset(self, noise: Float[Tensor, "runs envs 2"]) -> tuple[Remote, Float[Tensor, "runs envs observation"]]:
        """Reset every copy, see `GymnasiumEnv.reset`."""
        if not self._workers.connections:
            self._workers.connections += [self._started() for _ in range(self._count)]
        self._dtype = noise.dtype
        state = self._new(noise.shape[1])
        answers = self._asked(state, "reset", noise.cpu().numpy())
        return state, from_numpy(np.concatenate([answer[0] for answer in answers], 1))

    def restart(
        self, state: Remote, over: Bool[Tensor, "runs envs"], noise: Float[Tensor, "runs envs 2"]
    ) -> tuple[Remote, Float[Tensor, "runs envs observation"]]:
        """Reset the copies that are over, see `GymnasiumEnv.restart`."""
        answers = self._asked(state, "restart", over.cpu().numpy(), noise.cpu().numpy())
        return state, from_numpy(np.concatenate([answer[0] for answer in answers], 1))

    def step(
        self, state: Remote, action: Num[Tensor, "runs envs *action"], running: Bool[Tensor, "runs envs"]
    ) -> Transition:
        """Step the copies whose episode is not over; the others give zeros."""
        answers = self._asked(state, "step", action.cpu().numpy(), running.cpu().numpy())
        return Transition(state, *(from_numpy(np.concatenate(part, 1)) for part in zip(*answers, strict=True)))

    def select(self, state: Remote, rows: Int64[Tensor, " rows"]) -> Remote:
        return self._told("select", [state], rows.tolist())

    def join(self, states: Sequence[Remote]) -> Remote:
        return self._told("join", states, None)

    def _started(self) -> Connection:
        context = multiprocessing.get_context("forkserver")  # whose server, unlike this process, has no threads
        context.set_forkserver_preload(PRELOADED)
        with _path_of_this_process():
            multiprocessing.forkserver.ensure_running()
        here, there = context.Pipe()
        arguments = (there, *self._settings, self._seconds, _surroundings())
        context.Process(target=_serve, args=arguments, name=f"copies of {self.name}", daemon=True).start()
        there.close()
        return here

    def _new(self, envs: int) -> Remote:
        self._states += 1
        return Remote(self._states, envs)

    def _asked(self, state: Remote, call: str, *arrays: Any) -> list[tuple[Any, ...]]:
        """What the processes answer, those that have copies of this state; all are heard before an error is raised."""
        columns = [part for part in np.array_split(np.arange(state.envs), self._count) if len(part)]
        working = list(zip(self._workers.connections, columns, strict=False))
        try:
            for connection, own in working:
                connection.send((call, state.number, [array[:, own] for array in arrays]))
            answers = [connection.recv() for connection, _ in working]
        except (EOFError, OSError) as error:
            raise self._ended(call) from error
        for answer, own in zip(answers, columns, strict=True):
            if isinstance(answer, EnvError):
                answer.copy = None if answer.copy is None else answer.copy + int(own[0])
                raise answer
        return answers

    def _told(self, call: str, states: Sequence[Remote], rows: Any) -> Remote:
        """A state that the processes make of others, of which nothing is asked again."""
        state = self._new(states[0].envs)
        try:
            for connection in self._workers.connections:
                connection.send((call, state.number, [[each.number for each in states], rows]))
        except OSError as error:
            raise self._ended("step") from error
        return state

    def _ended(self, call: str) -> EnvError:
        """The error for a process that is not there any more; the others end as well."""
        self._workers.close()
        return EnvError(self.name, f"a process of its copies ended during a {call}")


@contextmanager
def _path_of_this_process() -> Iterator[None]:
    """Let a process of Python that is started in here import from where this one does, and from nowhere else.

    Python 3.11 imports what the server preloads before it gives it this process's path, and so from the working folder
    first, although that may be somebody else's, see `trust.py`.
    """
    before = _surroundings()
    os.environ["PYTHONSAFEPATH"] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    try:
        yield
    finally:
        _set(before)


def _surroundings() -> dict[str, str | None]:
    """What Python reads about its path when it starts."""
    return {name: os.environ.get(name) for name in ("PYTHONSAFEPATH", "PYTHONPATH")}


def _set(surroundings: Mapping[str, str | None]) -> None:
    for name, value in surroundings.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _serve(
    connection: Connection,
    id: str,
    kwargs: Mapping[str, Any],
    max_episode_steps: int | None,
    action_mask: bool,
    seconds: float | None,
    surroundings: Mapping[str, str | None],
) -> None:
    """Answer until the pipe ends."""
    _set(surroundings)  # the server's own are not for what an environment may start
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    env = GymnasiumEnv(id, kwargs, max_episode_steps, action_mask)
    if seconds is not None:
        env.limit_steps(TimeLimit(seconds))
    states: dict[int, Any] = {}
    while True:
        try:
            call, number, given = connection.recv()
        except (EOFError, OSError):
            return
        if call in ("select", "join"):
            olds, rows = given
            befores = [states.pop(old) for old in olds if old in states]  # no copies: there are fewer than processes
            if befores:
                made = env.join(befores) if rows is None else env.select(befores[0], torch.tensor(rows).long())
                states[number] = made
            continue
        try:
            connection.send(_answer(env, states, call, number, [torch.from_numpy(array) for array in given]))
        except EnvError as error:
            connection.send(error)


def _answer(
    env: GymnasiumEnv, states: dict[int, Any], call: str, number: int, given: Sequence[Tensor]
) -> tuple[Any, ...]:
    if call == "reset":
        states[number], observation = env.reset(*given)
        return (observation.numpy(),)
    if call == "restart":
        states[number], observation = env.restart(states[number], *given)
        return (observation.numpy(),)
    states[number], *rest = env.step(states[number], *given)
    return tuple(part.numpy() for part in rest)
