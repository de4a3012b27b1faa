"""Any Gymnasium environment behind the same interface as the native ones: slower, all the same."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import gymnasium
import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Num
from torch import Tensor

from pg_experiments.devices import from_numpy
from pg_experiments.envs.action_masks import mask_problem, mask_size_of
from pg_experiments.envs.action_spaces import KINDS, actions_of, converter, counts_from_zero
from pg_experiments.envs.checks import described, flag_of, number_of
from pg_experiments.envs.contract import check_spaces, try_out
from pg_experiments.envs.interface import EnvSpec, Transition, Twin
from pg_experiments.envs.making import make_copy
from pg_experiments.envs.seeds import seeds_of
from pg_experiments.envs.spaces import observations_of, order_of
from pg_experiments.envs.time_limit import TimeLimit, TookTooLong
from pg_experiments.envs.twins import frames_per_second, made
from pg_experiments.errors import ConfigError, EnvError, first_line

Copies = list[list[gymnasium.Env[Any, Any]]]  # [runs][envs]


class GymnasiumEnv:
    """Copies of a registered Gymnasium environment, stepped one after the other, each only while its episode runs.

    Every episode begins with a reset from a seed that comes from its run's own noise, so a run does not depend on its
    neighbours, nor on which copy it gets; copies that `select` leaves out are used again. How observations become
    vectors is written in `spaces.py`.

    A copy that raises, takes longer than the limit or returns what its spaces do not allow ends its run with an
    `EnvError`. Looked at are shapes, kinds of numbers, whether they are finite, and the range of discrete
    observations; not the bounds of a Box, which nothing here relies on.

    Args:
        id: registered id, or `module:id`, which imports the module first.
        kwargs: for `gymnasium.make`.
        max_episode_steps: limit of an episode; None takes the environment's own.
        action_mask: put `info["action_mask"]` of every reset and step behind the observation, see `EnvSpec`.

    Attributes:
        own_spaces: of a copy's observations and actions.

    Raises:
        ConfigError: for an unknown id, wrong kwargs, spaces that no policy here fits, or an episode without a limit.
    """

    def __init__(
        self, id: str, kwargs: Mapping[str, Any], max_episode_steps: int | None, action_mask: bool = False
    ) -> None:
        self.name = self._id = id
        self._kwargs, self._limit = dict(kwargs), max_episode_steps
        self._time_limit: TimeLimit | None = None
        self._dtype = torch.float32
        self._pool = [self._make()]
        env = self._pool[0]
        check_spaces(id, env)
        limit = max_episode_steps or (env.spec.max_episode_steps if env.spec else None)
        if limit is None:
            raise ConfigError("env.max_episode_steps", None, f"{id} has no limit of its own; give one")
        observations = self._observations = observations_of(id, env.observation_space)
        actions = actions_of(env.action_space)
        if actions is None:
            raise ConfigError("env.id", id, f"actions must be {KINDS}, but are {env.action_space}")
        self._own_action = converter(env.action_space)
        self.own_spaces = (env.observation_space, env.action_space)
        mask_size = mask_size_of(actions) if action_mask else 0
        self.spec = EnvSpec(
            observation_size=observations.size + mask_size,
            actions=actions,
            max_episode_steps=limit,
            reset_noise_size=2,
            num_states=observations.num_states,
            image_shape=observations.image_shape,
            mask_size=mask_size,
        )
        self.about = self._described(env)

    def _described(self, env: gymnasium.Env[Any, Any]) -> str:
        """What goes in and out, for people."""
        vector = "flattened to one row, image by image as channels, height, width, from 0 to 1"
        seen = "as a one-hot vector" if self.spec.num_states else vector if self.spec.image_shape else "as one row"
        if order := order_of(env.observation_space):
            seen = f"{seen} in this order: {order}, numbered states as one-hot vectors"
        mask = f", behind it the {self.spec.mask_size} numbers of its action_mask" if self.spec.mask_size else ""
        add = ", whose `start` is to be added: the policy counts its choices from 0"
        first = "" if counts_from_zero(env.action_space) else add
        return (
            f"Gymnasium's `{self._id}`: observations {env.observation_space}, {seen}{mask}; "
            f"actions {env.action_space}{first}. Order and units are those of its documentation."
        )

    def twin(self) -> Twin:
        """The same id with `render_mode="rgb_array"`: every copy draws itself."""
        return gymnasium_copies(self._id, self._kwargs, self._limit, bool(self.spec.mask_size))

    def limit_steps(self, limit: TimeLimit) -> None:
        """Interrupt every step and every reset of a copy that takes longer."""
        self._time_limit = limit

    def try_out(self) -> None:
        """Raise a `ConfigError` when a copy does not do what Gymnasium expects."""
        try_out(self._id, self._kwargs, self._pool[0], self._observations, self.spec.mask_size, self._time_limit)

    def reset(self, noise: Float[Tensor, "runs envs 2"]) -> tuple[Copies, Float[Tensor, "runs envs observation"]]:
        """Reset every copy with a seed below 2³¹ made of its two random numbers."""
        runs, envs = noise.shape[:2]
        copies = [[self._pool.pop() if self._pool else self._make() for _ in range(envs)] for _ in range(runs)]
        return self.restart(copies, torch.ones(runs, envs, dtype=torch.bool), noise)

    def restart(
        self, state: Copies, over: Bool[Tensor, "runs envs"], noise: Float[Tensor, "runs envs 2"]
    ) -> tuple[Copies, Float[Tensor, "runs envs observation"]]:
        """Reset the copies that are over, with seeds as in `reset`; the observations of the others are zero."""
        seeds = seeds_of(noise).tolist()
        observation = np.zeros((*over.shape, self.spec.observation_size))
        with self._time_limit.heard() if self._time_limit else nullcontext():
            for run, index in over.nonzero().tolist():
                try:
                    if self._time_limit:
                        self._time_limit.start()
                    seen, info = state[run][index].reset(seed=seeds[run][index])
                    if self._time_limit:
                        self._time_limit.stop()
                except (Exception, TookTooLong) as error:
                    raise self._raised("reset", error, run, index) from error
                self._put(observation, seen, info, "reset", run, index)
        self._check_finite("reset", observation)
        self._dtype = noise.dtype
        return state, from_numpy(observation).to(self._dtype)

    def step(
        self, state: Copies, action: Num[Tensor, "runs envs *action"], running: Bool[Tensor, "runs envs"]
    ) -> Transition:
        """Step the copies whose episode is not over; the others give zeros."""
        actions = action.cpu().numpy()
        shape = (len(state), len(state[0]))
        observation = np.zeros((*shape, self.spec.observation_size))
        reward, terminated, truncated = np.zeros(shape), np.zeros(shape, bool), np.zeros(shape, bool)
        limit = self._time_limit
        with limit.heard() if limit else nullcontext():
            for run, index in running.nonzero().tolist():
                env = state[run][index]
                own_action = self._own_action(actions[run, index])
                try:
                    if limit:
                        limit.start()
                    seen, gain, ended, cut, info = env.step(own_action)
                    if limit:
                        limit.stop()
                except (Exception, TookTooLong) as error:
                    raise self._raised("step", error, run, index) from error
                self._put(observation, seen, info, "step", run, index)
                if type(gain) is not float:
                    gain = self._checked(number_of(gain), f"a reward of {described(gain)}", "a number", run, index)
                if type(ended) is not bool:
                    ended = self._checked(flag_of(ended), f"terminated={described(ended)}", "a flag", run, index)
                if type(cut) is not bool:
                    cut = self._checked(flag_of(cut), f"truncated={described(cut)}", "a flag", run, index)
                reward[run, index], terminated[run, index], truncated[run, index] = gain, ended, cut
        self._check_finite("step", observation, reward)
        return Transition(
            state,
            from_numpy(observation).to(self._dtype),
            from_numpy(reward).to(self._dtype),
            from_numpy(terminated),
            from_numpy(truncated),
        )

    def select(self, state: Copies, rows: Int64[Tensor, " rows"]) -> Copies:
        kept = rows.tolist()
        self._pool += [env for row, copies in enumerate(state) if row not in kept for env in copies]
        return [state[row] for row in kept]

    def join(self, states: Sequence[Copies]) -> Copies:
        return [copies for state in states for copies in state]

    def _make(self) -> gymnasium.Env[Any, Any]:
        return make_copy(self._id, self._kwargs, self._limit)

    def _put(self, into: Any, observation: Any, info: Any, call: str, run: int, index: int) -> None:
        """Write one copy's observation into the array of all, as a vector, and its mask behind it."""
        size = self._observations.size
        problem = self._observations.put(into[run, index, :size], observation)
        if self.spec.mask_size:
            problem = problem or mask_problem(into[run, index, size:], info)
        if problem:
            raise EnvError(self._id, f"{call} returned {problem}", run, index, certain=True)

    def _checked(self, value: Any, given: str, expected: str, run: int, index: int) -> Any:
        """What a copy's step returned, unless it is nothing that can be used."""
        if value is None:
            raise EnvError(self._id, f"step returned {given}, expected {expected}", run, index, certain=True)
        return value

    def _check_finite(self, call: str, observation: Any, reward: Any = None) -> None:
        """Say which copy returned a number that is not finite."""
        if not np.isfinite(observation).all():
            run, index, place = np.argwhere(~np.isfinite(observation))[0].tolist()
            number = observation[run, index, place]
            problem = f"{call} returned an observation with {number} at place {place}, expected finite numbers"
            raise EnvError(self._id, problem, run, index, certain=True)
        if reward is not None and not np.isfinite(reward).all():
            run, index = np.argwhere(~np.isfinite(reward))[0].tolist()
            problem = f"{call} returned a reward of {reward[run, index]}, expected a finite number"
            raise EnvError(self._id, problem, run, index, certain=True)

    def _raised(self, call: str, error: BaseException, run: int, index: int) -> EnvError:
        """The error of a copy that raised or took too long."""
        if isinstance(error, TookTooLong):
            assert self._time_limit is not None
            return EnvError(self._id, self._time_limit.problem, run, index, certain=True)
        problem = f"{call} raised {type(error).__name__}: {first_line(error)}"
        return EnvError(self._id, problem, run, index)


def gymnasium_copies(
    id: str, kwargs: Mapping[str, Any], max_episode_steps: int | None, action_mask: bool = False
) -> Twin:
    """Copies of a Gymnasium environment that draw themselves, whatever backend steps those that are learned from."""
    probe = made(id, **{name: value for name, value in kwargs.items() if name != "render_mode"})
    copies = GymnasiumEnv(id, {**kwargs, "render_mode": "rgb_array"}, max_episode_steps, action_mask)
    opened = [probe, *copies._pool]  # one copy: a twin is for one episode

    def close() -> None:
        for env in opened:
            env.close()

    return Twin(copies, lambda state, run, copy: state[run][copy].render(), frames_per_second(probe), close)
