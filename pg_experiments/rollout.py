"""Rollouts: policies and environments playing whole episodes, all copies of many runs at once, each at its own pace."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64, Num
from torch import Generator, Tensor

from pg_experiments.devices import drawn
from pg_experiments.envs.interface import Env
from pg_experiments.modes import in_mode, mode_of
from pg_experiments.policies.distributions import Distribution
from pg_experiments.policies.interface import Policy
from pg_experiments.policies.networks import Parameters
from pg_experiments.resting import Resting
from pg_experiments.stepping import checked_step

WINDOW = 16  # steps between two moments at which runs begin and leave; a divisor of CHUNK
CHUNK = 64  # steps whose noise a run draws at a time
LOOK_EVERY = 8  # steps between two looks whether any copy is still playing
ENOUGH = 0.5  # of the runs have played their episodes: time to learn, while the others stay where they are

Watch = Callable[[int], None]  # told that so many steps more have been played


class Trajectory(NamedTuple):
    """What the policies saw and did. `reward[:, t]` is the reward for `action[:, t]`.

    Of whole episodes, one per copy, `running` is True for the steps that were played. After a copy's last step, reward
    and flags are zero, observation and action mean nothing. `terminated` and `truncated` mark that last step: the task
    ended, or a time limit cut it off.

    In a fixed rollout every step is played, and the flags mark the last step of every episode. `next_observation` is
    the one after each step, before any reset; None for whole episodes, which need none.
    """

    observation: Float[Tensor, "runs steps envs observation"]
    action: Num[Tensor, "runs steps envs *action"]
    reward: Float[Tensor, "runs steps envs"]
    terminated: Bool[Tensor, "runs steps envs"]
    truncated: Bool[Tensor, "runs steps envs"]
    running: Bool[Tensor, "runs steps envs"]
    next_observation: Float[Tensor, "runs steps envs observation"] | None = None


class Episodes(NamedTuple):
    """The outcome of episodes: undiscounted and unscaled sum of rewards, and number of steps.

    `finished` is False at places that hold no episode: runs need not have finished equally many.
    """

    episode_return: Float[Tensor, "runs episodes"]
    length: Int64[Tensor, "runs episodes"]
    finished: Bool[Tensor, "runs episodes"]


class Rollout:
    """Episodes in progress: each run plays exactly one episode in every copy, and then waits to be taken.

    Taking each copy's one episode, rather than the first N that finish, favours no short ones. Runs begin and leave
    between windows of 16 steps, whenever they like: a run with long episodes holds up no other, and the steps of all
    are computed together. Each run's generator gives, in this order, the noise of its resets and then, chunk by chunk
    of 64 steps until all of its copies have finished, the noise of its actions: nothing depends on the other runs.
    Where copies are reset as they are, the noise of the first resets says what all later ones are, see `Resting`.

    Args:
        policy, env: of the batch of runs.
        runs: how many there can be; they are called by their numbers from 0.
        num_envs: copies per run.
        dtype: of all real numbers.
        deterministic: play the mode of the policy instead of a sample (the same noise is drawn).
        record: keep the trajectories.
    """

    def __init__(
        self,
        policy: Policy,
        env: Env,
        runs: int,
        num_envs: int,
        dtype: torch.dtype,
        *,
        deterministic: bool = False,
        record: bool = True,
    ) -> None:
        self._policy, self._env, self._num_envs, self._dtype = policy, env, num_envs, dtype
        self._deterministic, self._record = deterministic, record
        self.playing: list[int] = []
        self.finished: list[int] = []
        self._resting = Resting(env)
        self.mode = mode_of(policy, env)
        self._generators: dict[int, Generator] = {}
        self._noise: dict[int, Tensor] = {}
        self._steps = [0] * runs
        self._return = torch.zeros(runs, num_envs, dtype=dtype)
        self._length = torch.zeros(runs, num_envs, dtype=torch.long)
        self._grid: list[Tensor] = []  # the fields of `Trajectory`, `[runs, steps, envs, ...]`
        # of the runs that play, in the order of `playing`:
        self._parameters: Parameters = {}
        self._state: Any = None
        self._observation = self._running = torch.empty(0)
        self._act: Callable[[Tensor], Distribution]

    @in_mode
    def begin(self, runs: Sequence[int], parameters: Parameters, generators: Mapping[int, Generator]) -> None:
        """Reset all copies of some runs.

        Args:
            runs: that neither play nor wait.
            parameters: of the policies of these runs, which must not change until they have finished.
            generators: one per run.
        """
        if not runs:
            return
        size = self._env.spec.reset_noise_size
        own = [generators[run] for run in runs]
        noise = drawn(
            lambda: torch.stack([torch.rand(self._num_envs, size, generator=each, dtype=self._dtype) for each in own])
        )
        state, observation = self._resting.reset(runs, noise)
        running = torch.ones(len(runs), self._num_envs, dtype=torch.bool)
        if self.playing:
            parameters = {name: torch.cat([own, parameters[name]]) for name, own in self._parameters.items()}
            state = self._env.join([self._state, state])
            observation = torch.cat([self._observation, observation])
            running = torch.cat([self._running, running])
        self._parameters, self._state, self._observation, self._running = parameters, state, observation, running
        self._act = self._policy.actor(parameters)
        self.playing += runs
        index = torch.tensor(runs)
        self._return[index], self._length[index] = 0, 0
        for run in runs:
            self._generators[run], self._steps[run] = generators[run], 0

    @property
    def enough(self) -> bool:
        """Whether so many runs have finished that it pays to take them."""
        return len(self.finished) >= ENOUGH * (len(self.finished) + len(self.playing))

    @in_mode
    def play(self) -> None:
        """Play one window of steps with every run that plays."""
        policy, act = self._policy, self._act
        limit = self._env.spec.max_episode_steps
        left = [limit - self._steps[run] for run in self.playing]
        window = min(WINDOW, max(left))
        ends = torch.tensor(left)[:, None] == torch.arange(1, window + 1) if min(left) <= window else None
        noise = torch.stack([self._noise_of(run) for run in self.playing], 1)
        state, observation, running = self._state, self._observation, self._running
        played: list[tuple[Tensor, ...]] = []

        def number_of_step(run: int) -> int:
            return self._steps[run] + len(played) + 1

        for step, noise_now in enumerate(noise[:window].unbind(0)):
            distribution = act(observation)
            action = distribution.mode() if self._deterministic else distribution.sample(noise_now)
            after = checked_step(
                self._env, state, policy.env_action(action), running, self._dtype, self.playing, number_of_step
            )
            truncated = after.truncated if ends is None else after.truncated | ends[:, step, None]
            seen = observation if self._record else observation[..., :0]
            played.append((seen, action, after.reward, after.terminated, truncated, running))
            state, observation = after.state, after.observation
            running = running > (after.terminated | truncated)
            if (step + 1) % LOOK_EVERY == 0 and not running.any():
                break
        self._state, self._observation, self._running = state, observation, running
        self._keep([torch.stack(part, 1) for part in zip(*played, strict=True)])
        for run in self.playing:
            self._steps[run] += len(played)
        self._let_leave()

    def take(self) -> tuple[list[int], Episodes, Trajectory | None]:
        """The runs that have finished, in ascending order; their outcomes, and their trajectories."""
        # not in the mode of playing: what is made here may become part of a graph
        runs, self.finished = sorted(self.finished), []
        self._resting.complete(runs)
        index = torch.tensor(runs)
        all_of_them = torch.ones(len(runs), self._num_envs, dtype=torch.bool)
        episodes = Episodes(self._return[index], self._length[index], all_of_them)
        if not self._record:
            return runs, episodes, None
        own = torch.tensor([self._steps[run] for run in runs])
        steps = int(own.max())
        observation, action, reward, terminated, truncated, running = (part[index, :steps] for part in self._grid)
        running &= (torch.arange(steps) < own[:, None])[..., None]  # what is behind is left from longer episodes
        terminated &= running
        truncated = truncated & running & ~terminated
        reward = torch.where(running, reward, 0.0)
        return runs, episodes, Trajectory(observation, action, reward, terminated, truncated, running)

    @in_mode
    def drop(self, run: int) -> None:
        """Forget a run's episodes: it will not be taken."""
        self._resting.drop(run)
        if run in self.finished:
            self.finished.remove(run)
        elif run in self.playing:
            self._go_on_with([other for other in self.playing if other != run])

    def state(self, runs: Sequence[int]) -> dict[str, Tensor] | None:
        """What the next episodes of some runs depend on besides their generators, one row per run; None: nothing."""
        return self._resting.state(runs)

    @in_mode
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave of all runs, in their order."""
        self._resting.load(state)

    def _noise_of(self, run: int) -> Float[Tensor, "steps envs *noise"]:
        """For the next window of a run."""
        place = self._steps[run] % CHUNK
        if place == 0:
            shape = (CHUNK, self._num_envs)
            self._noise[run] = drawn(lambda: self._policy.draw_noise(self._generators[run], shape, self._dtype))
        return self._noise[run][place : place + WINDOW]

    def _keep(self, parts: Sequence[Tensor]) -> None:
        """Add a window's rewards and steps, and record it."""
        reward, running = parts[2], parts[-1]
        index = torch.tensor(self.playing)
        # a running sum adds the zeros after a run's last episode one by one, however many they are
        self._return[index] += torch.where(running, reward, 0.0).cumsum(1)[:, -1]
        self._length[index] += running.sum(1)
        if not self._record:
            return
        first = torch.tensor([self._steps[run] for run in self.playing])
        steps = parts[0].shape[1]
        self._make_room(parts, int(first.max()) + steps)
        place = (index[:, None], first[:, None] + torch.arange(steps))
        for grid, part in zip(self._grid, parts, strict=True):
            grid[place] = part

    def _make_room(self, parts: Sequence[Tensor], steps: int) -> None:
        """Let the grids hold so many steps."""
        before = self._grid[0].shape[1] if self._grid else 0
        if steps <= before:
            return
        runs, capacity = len(self._steps), max(steps, 2 * before)
        grids = [part.new_zeros(runs, capacity, *part.shape[2:]) for part in parts]
        for grid, old in zip(grids, self._grid, strict=False):
            grid[:, :before] = old
        self._grid = grids

    def _let_leave(self) -> None:
        """Runs none of whose copies plays any more have finished."""
        playing = [run for run, plays in zip(self.playing, self._running.any(1).tolist(), strict=True) if plays]
        if len(playing) < len(self.playing):
            for row, run in enumerate(self.playing):
                if run not in playing:
                    self.finished.append(run)
                    self._resting.keep(run, self._state, row)
            self._go_on_with(playing)

    def _go_on_with(self, runs: list[int]) -> None:
        """Keep these of the runs that play, in their order."""
        keep = torch.tensor([self.playing.index(run) for run in runs], dtype=torch.long)
        self.playing = runs
        self._state = self._env.select(self._state, keep)
        self._observation, self._running = self._observation[keep], self._running[keep]
        self._parameters = {name: parameter[keep] for name, parameter in self._parameters.items()}
        if self.playing:
            self._act = self._policy.actor(self._parameters)


def play_episodes(
    policy: Policy,
    parameters: Parameters,
    env: Env,
    generators: Sequence[Generator],
    num_envs: int,
    dtype: torch.dtype,
    *,
    deterministic: bool = False,
    record: bool = True,
    watch: Watch | None = None,
) -> tuple[Episodes, Trajectory | None]:
    """Play exactly one episode in every copy of every run, see `Rollout`.

    Args:
        generators: one per run.
        watch: is called after every window of steps, with its length.

    Returns:
        The outcomes, and, where it is recorded, the trajectory.
    """
    runs = list(range(len(generators)))
    rollout = Rollout(policy, env, len(runs), num_envs, dtype, deterministic=deterministic, record=record)
    rollout.begin(runs, parameters, dict(enumerate(generators)))
    while rollout.playing:
        rollout.play()
        if watch:
            watch(WINDOW)
    _, episodes, trajectory = rollout.take()
    return episodes, trajectory
