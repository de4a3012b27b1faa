"""EnvPool's environments behind the same interface as the native ones: C++ on one thread."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Num
from numpy.typing import NDArray
from torch import Tensor

from pg_experiments.backend_config import DIFFERENT
from pg_experiments.devices import from_numpy
from pg_experiments.envs.gymnasium_adapter import gymnasium_copies
from pg_experiments.envs.interface import BoxActions, DiscreteActions, EnvSpec, Transition, Twin
from pg_experiments.envs.seeds import seeds_of
from pg_experiments.errors import ConfigError, first_line, nearest

KEY = "env.backend"
OURS = (  # no matter of env.kwargs
    "num_envs",
    "batch_size",
    "seed",
    "env_seed",
    "max_episode_steps",
    "num_threads",
    "thread_affinity_offset",
    "base_path",
    "render_mode",
)


class Copies(NamedTuple):
    """Where the copies of every run are, `[runs, envs]`.

    Attributes:
        pools: of EnvPool.
        pool: of every copy, its place in `pools`.
        number: of every copy, its number in that pool.
    """

    pools: list[Any]
    pool: NDArray[np.int32]
    number: NDArray[np.int32]


class EnvPoolEnv:
    """Copies of an environment in pools of EnvPool, each stepped only while its episode runs.

    EnvPool takes seeds only when a pool is made, so every `reset` makes one, with a seed per copy from its run's own
    noise: an episode depends on nothing else, not on its neighbours, nor on what was played before. That takes 0.1 to
    0.3 ms a copy for classic control and Box2D and 0.7 to 2.6 ms for MuJoCo, whose model is read anew.

    EnvPool itself would call an episode truncated that ends in the very step of its limit, so its limit is one step
    behind ours and is never reached. It would also begin the next episode by itself in the step after the last one:
    that step is never asked for.

    Args:
        id: EnvPool's name of the environment.
        kwargs: for `envpool.make_gymnasium`.
        max_episode_steps: limit of an episode; None takes the environment's own.

    Raises:
        ConfigError: for an unknown id, wrong kwargs, or observations that are not one vector of real numbers.
    """

    def __init__(self, id: str, kwargs: Mapping[str, Any], max_episode_steps: int | None) -> None:
        import envpool  # takes a second, so only where it is used

        self.name = self._id = id
        self._kwargs = dict(kwargs)
        self._make_pool = envpool.make_gymnasium
        if id not in (known := envpool.list_all_envs()):
            reason = f"EnvPool has no {id}; env.backend=sync steps any Gymnasium id.{nearest(id, known)}"
            raise ConfigError(KEY, "envpool", reason)
        for name in OURS:
            if name in self._kwargs:
                raise ConfigError(f"env.kwargs.{name}", self._kwargs[name], "is not for EnvPool: it is decided here")
        try:
            made = envpool.make_spec(id, **self._kwargs)
        except Exception as error:  # of Python or C++, whatever the kwargs are
            key, value = ("env.kwargs", self._kwargs) if self._kwargs else ("env.id", id)
            raise ConfigError(key, value, f"{type(error).__name__}: {first_line(error)}") from error
        observations, actions = made.state_array_spec, made.action_array_spec
        seen = observations.get("obs")
        if seen is None or len(seen.shape) != 1 or not np.issubdtype(seen.dtype, np.floating) or len(actions) != 3:
            reason = f"{id} is not one vector of real observations and one action there; env.backend=sync may take it"
            raise ConfigError(KEY, "envpool", reason)
        self.spec = EnvSpec(
            observation_size=int(seen.shape[0]),
            actions=_actions_of(actions["action"]),
            max_episode_steps=max_episode_steps or int(made.config.max_episode_steps),
            reset_noise_size=2,
        )
        self._action_type = actions["action"].dtype
        self._real = np.dtype(np.float32)

    def twin(self) -> Twin:
        """Gymnasium's environment of the same id, which draws itself: its episodes are its own, not EnvPool's.

        Raises:
            ConfigError: where it is not installed, or another task than EnvPool's (see `backend_config.DIFFERENT`).
        """
        if difference := DIFFERENT.get(self._id):
            problem = f"cannot be shown: Gymnasium's {self._id}, which would draw it, is another task: {difference}"
            raise ConfigError(KEY, "envpool", problem)
        if self._kwargs:
            problem = f"cannot be shown: Gymnasium's {self._id}, which would draw it, does not have EnvPool's kwargs"
            raise ConfigError("env.kwargs", self._kwargs, problem)
        return gymnasium_copies(self._id, {}, self.spec.max_episode_steps)

    def reset(self, noise: Float[Tensor, "runs envs 2"]) -> tuple[Copies, Float[Tensor, "runs envs observation"]]:
        """Make a pool, each copy with a seed of its two random numbers, see `seeds_of`."""
        runs, envs = noise.shape[:2]
        pool, observation = self._begun(seeds_of(noise).flatten().tolist())
        self._real = noise.cpu().numpy().dtype
        number = np.arange(runs * envs, dtype=np.int32).reshape(runs, envs)
        copies = Copies([pool], np.zeros_like(number), number)
        return copies, from_numpy(observation).to(noise.dtype).reshape(runs, envs, -1)

    def restart(
        self, state: Copies, over: Bool[Tensor, "runs envs"], noise: Float[Tensor, "runs envs 2"]
    ) -> tuple[Copies, Float[Tensor, "runs envs observation"]]:
        """Replace the copies that are over by those of a new pool: a pool's seeds are fixed when it is made."""
        observation = torch.zeros(*over.shape, self.spec.observation_size, dtype=noise.dtype)
        chosen, seeds = over.cpu().numpy(), seeds_of(noise)[over].tolist()
        if not seeds:
            return state, observation
        pool, first = self._begun(seeds)
        observation[over] = from_numpy(first).to(noise.dtype)
        place, number = state.pool.copy(), state.number.copy()
        place[chosen], number[chosen] = len(state.pools), np.arange(len(first), dtype=np.int32)
        return _with_used_pools([*state.pools, pool], place, number), observation

    def _begun(self, seeds: Sequence[int]) -> tuple[Any, Any]:
        """A pool of copies with these seeds, and their first observations."""
        limit = self.spec.max_episode_steps + 1
        pool = self._make_pool(
            self._id,
            **{**self._kwargs, "num_threads": 1, "num_envs": len(seeds), "seed": seeds, "max_episode_steps": limit},
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of bounds in float64 for observations in float32, once a pool
            observation, _ = pool.reset()
        return pool, observation

    def step(
        self, state: Copies, action: Num[Tensor, "runs envs *action"], running: Bool[Tensor, "runs envs"]
    ) -> Transition:
        """Step the copies whose episode is not over; the others give zeros."""
        # arrays with one index for all copies: this is done for every step, and takes longer than classic control
        actions = action.cpu().numpy().reshape(running.numel(), *action.shape[2:]).astype(self._action_type, copy=False)
        observation = np.zeros((running.numel(), self.spec.observation_size), self._real)
        reward = np.zeros(running.numel(), self._real)
        terminated, truncated = np.zeros(running.numel(), bool), np.zeros(running.numel(), bool)
        (playing,) = running.cpu().numpy().reshape(-1).nonzero()
        for place, pool in enumerate(state.pools):
            own = playing if len(state.pools) == 1 else playing[state.pool.reshape(-1)[playing] == place]
            if len(own):
                number = state.number.reshape(-1)[own]
                pool._send([number, number, actions[own]])  # what its `step` does in twice the time
                given = dict(zip(pool._state_keys, pool._recv(), strict=True))
                observation[own], reward[own], truncated[own] = given["obs"], given["reward"], given["trunc"]
                terminated[own] = given["done"] > given["trunc"]
        parts = (observation, reward, terminated, truncated)
        return Transition(state, *(from_numpy(part).view(*running.shape, *part.shape[1:]) for part in parts))

    def select(self, state: Copies, rows: Int64[Tensor, " rows"]) -> Copies:
        kept = rows.cpu().numpy()
        return _with_used_pools(state.pools, state.pool[kept], state.number[kept])

    def join(self, states: Sequence[Copies]) -> Copies:
        before = np.cumsum([0, *(len(state.pools) for state in states)], dtype=np.int32)
        return Copies(
            [pool for state in states for pool in state.pools],
            np.concatenate([state.pool + offset for state, offset in zip(states, before[:-1], strict=True)]),
            np.concatenate([state.number for state in states]),
        )


def _with_used_pools(pools: Sequence[Any], place: Any, number: Any) -> Copies:
    """The copies, without pools of which none is left."""
    used, places = np.unique(place, return_inverse=True)
    return Copies([pools[each] for each in used], places.astype(np.int32).reshape(place.shape), number)


def _actions_of(space: Any) -> DiscreteActions | BoxActions:
    """The actions that EnvPool's description of an array stands for; -1 in its shape is the copies."""
    shape = tuple(size for size in space.shape if size != -1)
    if np.issubdtype(space.dtype, np.integer) and not shape:
        return DiscreteActions(int(space.maximum) + 1)
    low, high = (np.broadcast_to(bound, shape or (1,)).flatten().tolist() for bound in (space.minimum, space.maximum))
    return BoxActions(tuple(low), tuple(high))
