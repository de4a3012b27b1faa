"""EnvPool's environments behind the same interface as the native ones: C++ on one thread."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Num
from numpy.typing import NDArray
from torch import Tensor

from pg_experiments.backend_config import DIFFERENT
from pg_experiments.devices import from_numpy
from pg_experiments.envs.envpool_copies import DRAWING_IN_RESETS, Copies, answers, with_used_pools
from pg_experiments.envs.gymnasium_adapter import gymnasium_copies
from pg_experiments.envs.interface import BoxActions, DiscreteActions, EnvSpec, Transition, Twin
from pg_experiments.envs.seeds import EPISODES, episodes_of, following_noise, following_seeds, seeds_of
from pg_experiments.errors import ConfigError, first_line, nearest

KEY = "env.backend"
MOST_AHEAD = 8  # episodes of a copy for which another copy waits
MOST_WAITING = 1024  # copies that wait, where that leaves one each: each is an environment in memory
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


class EnvPoolEnv:
    """Copies of an environment in pools of EnvPool, each stepped only while its episode runs.

    EnvPool takes seeds only when a pool is made, so every `reset` makes one, with a seed per copy from its run's own
    noise: an episode depends on nothing else, not on its neighbours, nor on what was played before. That takes 0.2 to
    0.6 ms a copy for classic control and Box2D and 0.5 to 3 ms for MuJoCo, whose model is read anew.

    Where single copies begin anew, `following_noise` says what their next episodes are. Environments that draw nothing
    in their steps are reset as they are, which takes 0.01 to 0.2 ms: how an episode begins then depends on its seed and
    on how many resets were before it. Of the others a copy has to be made for every episode. A step takes the longer,
    the more pools there are, so when a copy has none waiting for it, one pool is made for the next ones of all.

    EnvPool itself would call an episode truncated that ends in the very step of its limit, so its limit is one step
    behind ours and is never reached. It would also begin the next episode by itself in the step after the last one:
    that step is never asked for.

    Attributes:
        resets_in_place: whether `restart` resets copies as they are, see `Env`.

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
        self.resets_in_place = id in DRAWING_IN_RESETS
        self._episodes = EPISODES if self.resets_in_place else 1  # of one seed
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
        seeds, episodes = seeds_of(noise).cpu().numpy(), episodes_of(noise).cpu().numpy()
        pool, observation = self._begun(seeds.reshape(-1), episodes.reshape(-1))
        self._real = noise.cpu().numpy().dtype
        number = np.arange(runs * envs, dtype=np.int32).reshape(runs, envs)
        ahead = 1 if self.resets_in_place else min(MOST_AHEAD, max(1, MOST_WAITING // (runs * envs)))
        waiting = np.full((runs, envs, ahead, 2), -1, np.int32)
        first = np.zeros((runs, envs, ahead, self.spec.observation_size), observation.dtype)
        copies = Copies([pool], np.zeros_like(number), number, seeds, episodes, waiting, first)
        return copies, from_numpy(observation).to(noise.dtype).reshape(runs, envs, -1)

    def restart(
        self, state: Copies, over: Bool[Tensor, "runs envs"], noise: Float[Tensor, "runs envs 2"]
    ) -> tuple[Copies, Float[Tensor, "runs envs observation"]]:
        """Reset the copies that are over, replace them by those that wait, or for any other seed by a new pool's.

        What is known of the copies is changed in place, as the pools are: only the newest state is one.
        """
        (chosen,) = over.cpu().numpy().reshape(-1).nonzero()
        observation = np.zeros((over.numel(), self.spec.observation_size), self._real)
        if len(chosen):
            own = noise.reshape(1, -1, 2)[:, from_numpy(chosen)]
            seeds, episodes = (found(own).cpu().numpy()[0] for found in (seeds_of, episodes_of))
            again = (state.seed.reshape(-1)[chosen] == seeds) & (state.episode.reshape(-1)[chosen] + 1 == episodes)
            for given, copies in answers(state, chosen[again], lambda pool, number, own: pool._reset(number)):
                observation[copies] = given["obs"]
            if np.count_nonzero(other := ~again):
                state = self._exchanged(state, chosen[other], seeds[other], episodes[other], observation)
            state.seed.reshape(-1)[chosen], state.episode.reshape(-1)[chosen] = seeds, episodes
        return state, from_numpy(observation).view(*over.shape, -1)

    def _exchanged(
        self,
        state: Copies,
        chosen: NDArray[np.int64],
        seeds: NDArray[np.int64],
        episodes: NDArray[np.int64],
        observation: NDArray[Any],
    ) -> Copies:
        """With other copies in these places, for these episodes, whose first observations are put where they belong."""
        copies = state.seed.size
        follows = seeds == following_seeds(torch.from_numpy(state.seed.reshape(-1)[chosen])).numpy()
        follows &= episodes == 0
        expected, other = chosen[follows], chosen[~follows]
        if np.count_nonzero(state.waiting.reshape(copies, -1)[expected, 0] < 0):
            state = self._with_waiting(state)
        place, number = state.pool.reshape(-1), state.number.reshape(-1)
        waiting, first = (part.reshape(copies, *part.shape[2:]) for part in (state.waiting, state.first))
        place[expected], number[expected] = waiting[expected, 0].T
        observation[expected] = first[expected, 0]
        waiting[expected, :-1], first[expected, :-1] = waiting[expected, 1:], first[expected, 1:]
        waiting[expected, -1] = -1
        if len(other):
            pool, observation[other] = self._begun(seeds[~follows], episodes[~follows])
            place[other], number[other] = len(state.pools), np.arange(len(other), dtype=np.int32)
            waiting[other] = -1
            state = state._replace(pools=[*state.pools, pool])
        return with_used_pools(state)

    def _with_waiting(self, state: Copies) -> Copies:
        """With one pool more, so that as many as there may be wait for the next episodes of every copy."""
        seeds, coming = torch.from_numpy(state.seed), []
        for _ in range(state.waiting.shape[2]):
            seeds = following_seeds(seeds)
            coming.append(seeds.numpy())
        lacking = state.waiting[..., 0] < 0
        wanted = np.stack(coming, -1)[lacking]
        pool, observation = self._begun(wanted, np.zeros_like(wanted))
        waiting, first = state.waiting.copy(), state.first.copy()
        numbers = np.arange(len(observation), dtype=np.int32)
        waiting[lacking] = np.stack([np.full_like(numbers, len(state.pools)), numbers], 1)
        first[lacking] = observation
        return state._replace(pools=[*state.pools, pool], waiting=waiting, first=first)

    def following_noise(self, noise: Float[Tensor, "runs envs 2"]) -> Float[Tensor, "runs envs 2"]:
        """That of each copy's next episode, from that of its episode: only a reset, or a copy for it may be waiting."""
        return following_noise(noise, self._episodes)

    def _begun(self, seeds: NDArray[np.int64], episodes: NDArray[np.int64]) -> tuple[Any, Any]:
        """A pool of copies with these seeds, after so many episodes of each; and their first observations."""
        limit = self.spec.max_episode_steps + 1
        pool = self._make_pool(
            self._id,
            **{
                **self._kwargs,
                "num_threads": 1,
                "num_envs": len(seeds),
                "seed": seeds.tolist(),
                "max_episode_steps": limit,
            },
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of bounds in float64 for observations in float32, once a pool
            observation, _ = pool.reset()
        for episode in range(1, max(episodes.tolist(), default=0) + 1):
            (later,) = (episodes >= episode).nonzero()
            pool._reset(later.astype(np.int32))
            observation[later] = dict(zip(pool._state_keys, pool._recv(), strict=True))["obs"]
        return pool, observation

    def step(
        self, state: Copies, action: Num[Tensor, "runs envs *action"], running: Bool[Tensor, "runs envs"]
    ) -> Transition:
        """Step the copies whose episode is not over; the others give zeros."""
        # arrays with one index for all copies: this is done for every step, and takes longer than classic control
        copies = running.numel()
        actions = action.cpu().numpy().reshape(copies, *action.shape[2:]).astype(self._action_type, copy=False)
        (playing,) = running.cpu().numpy().reshape(-1).nonzero()
        # what its `step` does in twice the time
        found = answers(state, playing, lambda pool, number, own: pool._send([number, number, actions[own]]))
        if len(found) == 1 and len(playing) == copies:
            ((given, _),) = found
            observation, reward = (given[key].astype(self._real, copy=False) for key in ("obs", "reward"))
            truncated = given["trunc"]
            terminated = given["done"] > truncated
        else:
            observation = np.zeros((copies, self.spec.observation_size), self._real)
            reward, (terminated, truncated) = np.zeros(copies, self._real), np.zeros((2, copies), bool)
            for given, own in found:
                observation[own], reward[own], truncated[own] = given["obs"], given["reward"], given["trunc"]
                terminated[own] = given["done"] > given["trunc"]
        parts = (observation, reward, terminated, truncated)
        return Transition(state, *(from_numpy(part).view(*running.shape, *part.shape[1:]) for part in parts))

    def select(self, state: Copies, rows: Int64[Tensor, " rows"]) -> Copies:
        kept = rows.cpu().numpy()
        return with_used_pools(Copies(state.pools, *(part[kept] for part in state[1:])))

    def join(self, states: Sequence[Copies]) -> Copies:
        ahead = min(state.waiting.shape[2] for state in states)
        pools = list({id(pool): pool for state in states for pool in state.pools}.values())
        place = {id(pool): number for number, pool in enumerate(pools)}
        parts = []
        for state in states:
            places = np.array([*(place[id(pool)] for pool in state.pools), -1], np.int32)  # the last is that of none
            waiting = state.waiting[:, :, :ahead].copy()
            waiting[..., 0] = places[waiting[..., 0]]
            first = state.first[:, :, :ahead]
            parts.append((places[state.pool], state.number, state.seed, state.episode, waiting, first))
        return Copies(pools, *(np.concatenate(part) for part in zip(*parts, strict=True)))


def _actions_of(space: Any) -> DiscreteActions | BoxActions:
    """The actions that EnvPool's description of an array stands for; -1 in its shape is the copies."""
    shape = tuple(size for size in space.shape if size != -1)
    if np.issubdtype(space.dtype, np.integer) and not shape:
        return DiscreteActions(int(space.maximum) + 1)
    low, high = (np.broadcast_to(bound, shape or (1,)).flatten().tolist() for bound in (space.minimum, space.maximum))
    return BoxActions(tuple(low), tuple(high))
