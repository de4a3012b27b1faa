"""Where copies of an environment are in pools of EnvPool, and which environments can be reset as they are."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MUJOCO = (
    "Ant",
    "HalfCheetah",
    "Hopper",
    "Humanoid",
    "HumanoidStandup",
    "InvertedDoublePendulum",
    "InvertedPendulum",
    "Pusher",
    "Reacher",
    "Swimmer",
    "Walker2d",
)
CLASSIC = ("Acrobot-v1", "CartPole-v0", "CartPole-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1")
# which draw nothing in their steps, so that an episode's beginning is that of its seed and the resets before it
DRAWING_IN_RESETS = frozenset(
    {*(f"{name}-v{version}" for name in MUJOCO for version in (2, 3, 4, 5)), *CLASSIC}
    | {"BipedalWalker-v3", "BipedalWalkerHardcore-v3"}
)


class Copies(NamedTuple):
    """Where the copies of every run are, `[runs, envs]`, and where those of their next episodes wait.

    Attributes:
        pools: of EnvPool.
        pool: of every copy, its place in `pools`.
        number: of every copy, its number in that pool.
        seed: of every copy's episode.
        episode: how many of its seed lie before it.
        waiting: pool and number of the copies of the next episodes, `[runs, envs, episodes, 2]`; -1: there is none.
        first: their first observations, `[runs, envs, episodes, observation]`.
    """

    pools: list[Any]
    pool: NDArray[np.int32]
    number: NDArray[np.int32]
    seed: NDArray[np.int64]
    episode: NDArray[np.int64]
    waiting: NDArray[np.int32]
    first: NDArray[Any]


def answers(
    state: Copies, chosen: NDArray[np.int64], ask: Callable[[Any, NDArray[np.int32], NDArray[np.int64]], None]
) -> list[tuple[dict[str, NDArray[Any]], NDArray[np.int64]]]:
    """What the pools answer about some copies, pool by pool; all are asked before the first has to answer."""
    numbers, asked = state.number.reshape(-1), []
    for place, pool in enumerate(state.pools):
        own = chosen if len(state.pools) == 1 else chosen[state.pool.reshape(-1)[chosen] == place]
        if len(own):
            ask(pool, numbers[own], own)
            asked.append((pool, own))
    return [(dict(zip(pool._state_keys, pool._recv(), strict=True)), own) for pool, own in asked]


def with_used_pools(copies: Copies) -> Copies:
    """The copies, without pools of which none is left."""
    if len(copies.pools) == 1:
        return copies
    places = np.concatenate([copies.pool.reshape(-1), copies.waiting[..., 0].reshape(-1)])
    (used,) = np.bincount(places + 1, minlength=len(copies.pools) + 1)[1:].nonzero()
    if len(used) == len(copies.pools):
        return copies
    places = np.full(len(copies.pools) + 1, -1, np.int32)  # the last is that of none
    places[used] = np.arange(len(used), dtype=np.int32)
    waiting = copies.waiting.copy()
    waiting[..., 0] = places[waiting[..., 0]]
    return copies._replace(pools=[copies.pools[each] for each in used], pool=places[copies.pool], waiting=waiting)
