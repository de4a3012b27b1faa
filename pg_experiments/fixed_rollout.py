"""Fixed rollouts: so many steps in every copy of every run, with episodes that go on from one rollout to the next."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from pg_experiments.devices import drawn, here, moved
from pg_experiments.envs.checks import innermost
from pg_experiments.envs.interface import Env
from pg_experiments.envs.restarting import consists_of_tensors, restarted, tensors_of, with_tensors
from pg_experiments.episodes import InProgress, finished_episodes
from pg_experiments.modes import in_mode, mode_of
from pg_experiments.policies.distributions import Distribution
from pg_experiments.policies.interface import Policy
from pg_experiments.policies.networks import Parameters
from pg_experiments.replaying import Replay
from pg_experiments.rollout import Episodes, Trajectory
from pg_experiments.stepping import checked_reset, checked_step

CHUNK = 32  # steps whose noise a run draws at a time


class FixedRollout:
    """All runs that train play `steps` steps in every copy; a copy whose episode is over begins the next one at once.

    Each run's generator gives, in this order, the noise of its first resets, and chunk by chunk of at most 32 steps the
    noise of the actions and that of a reset after every step, most of which is not needed: nothing depends on what
    happens, or on the other runs.

    Args:
        policy, env: of the batch of runs.
        num_envs: copies per run.
        steps: of a rollout.
        dtype: of all real numbers.

    Raises:
        ConfigError: when the environment cannot begin episodes in single copies.
    """

    def __init__(self, policy: Policy, env: Env, num_envs: int, steps: int, dtype: torch.dtype) -> None:
        self._policy, self._env, self._num_envs, self._steps, self._dtype = policy, env, num_envs, steps, dtype
        self.mode = mode_of(policy, env)
        self._saves_state = consists_of_tensors(env, dtype)
        self.playing: list[int] = []
        self._played: list[tuple[Tensor, ...]] | None = None  # of each step of a complete rollout
        self._generators: Mapping[int, Generator] = {}
        # of the runs that have begun, in ascending order:
        self._runs: list[int] = []
        self._state: Any = None
        self._observation = torch.empty(0)
        self._progress = InProgress.none_yet(0, num_envs)
        self._replay: Replay | None = None
        self._act: Callable[[Tensor], Distribution]

    @in_mode
    def begin(self, runs: Sequence[int], parameters: Parameters, generators: Mapping[int, Generator]) -> None:
        """Let all runs that train begin a rollout; copies that have not begun are reset.

        Args:
            runs: in ascending order.
            parameters: of the policies of these runs.
            generators: one per run.
        """
        self.playing, self._generators = list(runs), generators
        if new := [run for run in runs if run not in self._runs]:
            self._reset(new)
        self._act = self._policy.actor(parameters)

    @property
    def enough(self) -> bool:
        """Whether the rollout is complete."""
        return self._played is not None

    @in_mode
    def play(self) -> None:
        """Play the rollout."""
        env, policy, act, limit = self._env, self._policy, self._act, self._env.spec.max_episode_steps
        state, observation = self._state, self._observation
        left = limit - self._progress.length  # steps from the beginning of the rollout to the limit of each episode
        first_limit = int(left.min())
        follow = getattr(innermost(env), "following_noise", None)
        running = torch.ones(len(self._runs), self._num_envs, dtype=torch.bool)
        played: list[tuple[Tensor, ...]] = []
        env_actions: list[Tensor] = []  # to be played again, where an environment's state cannot be saved
        begun = torch.zeros_like(left)  # of each copy's episode, its first step in this rollout
        # noise of each copy's next episode, and whose is not known: it is found for all of them as seldom as possible
        following, unknown = torch.empty(0), running
        for step in range(self._steps):
            if step % CHUNK == 0:
                action_noise, reset_noise = self._draw(min(CHUNK, self._steps - step))
            action = act(observation).sample(action_noise[step % CHUNK])
            env_action = policy.env_action(action)
            if self._replay:
                env_actions.append(env_action)
            after = checked_step(env, state, env_action, running, self._dtype, self._runs, lambda run: len(played) + 1)
            truncated = after.truncated | (left == step + 1) if step + 1 == first_limit else after.truncated
            over = after.terminated | truncated
            played.append((observation, action, after.reward, after.terminated, truncated, after.observation))
            state, observation = after.state, after.observation
            if over.any():
                fresh = reset_noise[step % CHUNK]
                if self._replay and follow:
                    if (over & unknown).any():
                        following, unknown = follow(self._replay.noise), ~running
                    fresh, unknown = torch.where(over[..., None], following, self._replay.noise), unknown | over
                state, first = restarted(env, state, over, fresh)
                observation = torch.where(over[..., None], first, observation)
                left = torch.where(over, limit + step + 1, left)
                first_limit = int(left.min())
                if self._replay:
                    begun[over] = step + 1
                    self._replay.begin(over, fresh)
        if self._replay:
            self._replay.note(torch.stack(env_actions, 2), begun, self._progress.length)
        self._state, self._observation, self.playing, self._played = state, observation, [], played

    def take(self) -> tuple[list[int], Episodes, Trajectory]:
        """The runs; the episodes that they finished, and what they did."""
        # not in the mode of playing: what is made here may become part of a graph
        assert self._played is not None
        grids = [torch.stack(part, 1) for part in zip(*self._played, strict=True)]
        self._played = None
        return self._runs, *self._outcome(*grids)

    @in_mode
    def drop(self, run: int) -> None:
        """Forget a run: it will not go on."""
        if run in self._runs:
            self._go_on_with([other for other in self._runs if other != run])

    def state(self, runs: Sequence[int]) -> dict[str, Tensor] | None:
        """What the next rollouts of some runs depend on, one row per run; None before any has begun."""
        if not self._runs:
            return None
        rows = torch.tensor([self._runs.index(run) if run in self._runs else 0 for run in runs])
        parts = tensors_of(self._state) if self._replay is None else self._replay.tensors()
        return {
            "begun": torch.tensor([run in self._runs for run in runs]),
            "observation": self._observation[rows],
            "episode_return": self._progress.episode_return[rows],
            "length": self._progress.length[rows],
            **{f"part{place}": part[rows] for place, part in enumerate(parts)},
        }

    @in_mode
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave of all runs, in their order."""
        state = moved(dict(state), here())
        rows = state["begun"].nonzero()[:, 0]
        self._runs = rows.tolist()
        if not self._runs:
            return
        self._observation = state["observation"][rows]
        self._progress = InProgress(state["episode_return"][rows], state["length"][rows])
        saved = [state[f"part{place}"][rows] for place in range(sum(name.startswith("part") for name in state))]
        if self._saves_state:
            noise = torch.zeros(len(rows), self._num_envs, self._env.spec.reset_noise_size, dtype=self._dtype)
            self._state = with_tensors(self._env.reset(noise)[0], saved)
            return
        self._replay = Replay(self._env, saved[0])
        self._replay.load(saved)
        self._state, self._observation = self._replay.play(self._env, self._progress.length)

    def _reset(self, new: list[int]) -> None:
        """Let the copies of some runs begin their first episodes."""
        size = self._env.spec.reset_noise_size
        own = [self._generators[run] for run in new]
        noise = drawn(
            lambda: torch.stack([torch.rand(self._num_envs, size, generator=each, dtype=self._dtype) for each in own])
        )
        state, observation = checked_reset(self._env, noise, new)
        progress = InProgress.none_yet(len(new), self._num_envs)
        replay = None if self._saves_state else Replay(self._env, noise)
        if self._runs:
            state = self._env.join([self._state, state])
            observation = torch.cat([self._observation, observation])
            progress = InProgress(*(torch.cat(parts) for parts in zip(self._progress, progress, strict=True)))
            if self._replay and replay:
                self._replay.join(replay)
                replay = self._replay
        self._runs, self._state, self._observation = self._runs + new, state, observation
        self._progress, self._replay = progress, replay
        self._go_on_with(sorted(self._runs))

    def _draw(self, steps: int) -> tuple[Sequence[Tensor], Sequence[Float[Tensor, "runs envs noise"]]]:
        """For each of the next steps, the noise of the actions and of resets after it."""

        def draw() -> dict[str, Tensor]:
            actions, resets = [], []
            for run in self._runs:
                generator, shape = self._generators[run], (steps, self._num_envs)
                actions.append(self._policy.draw_noise(generator, shape, self._dtype))
                size = self._env.spec.reset_noise_size
                resets.append(torch.rand(*shape, size, generator=generator, dtype=self._dtype))
            return {"actions": torch.stack(actions, 1), "resets": torch.stack(resets, 1)}

        noise = drawn(draw)
        return noise["actions"].unbind(0), noise["resets"].unbind(0)

    def _outcome(
        self,
        observation: Tensor,
        action: Tensor,
        reward: Tensor,
        terminated: Tensor,
        truncated: Tensor,
        next_observation: Tensor,
    ) -> tuple[Episodes, Trajectory]:
        """From the grids `[runs, steps, envs, ...]` to what is learned from; termination wins over truncation."""
        truncated &= ~terminated
        episodes, self._progress = finished_episodes(reward, terminated | truncated, self._progress)
        running = torch.ones_like(terminated)
        trajectory = Trajectory(observation, action, reward, terminated, truncated, running, next_observation)
        return episodes, trajectory

    def _go_on_with(self, runs: list[int]) -> None:
        """Keep these runs, in this order."""
        if runs == self._runs:
            return
        keep = torch.tensor([self._runs.index(run) for run in runs], dtype=torch.long)
        self._runs = runs
        self._state = self._env.select(self._state, keep)
        self._observation = self._observation[keep]
        self._progress = InProgress(*(part[keep] for part in self._progress))
        if self._replay:
            self._replay.select(keep)
