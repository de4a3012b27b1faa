"""What an environment is to this package: plain functions over tensors that hold every copy of every run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int64, Num
from torch import Tensor

EnvState = Any  # the simulator's own state; only the environment that made it looks inside


@dataclass(frozen=True)
class DiscreteActions:
    """Actions 0 to `count` - 1."""

    count: int


@dataclass(frozen=True)
class BoxActions:
    """Real-valued actions, one number per dimension, each between its `low` and `high` (may be infinite)."""

    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class MultiDiscreteActions:
    """Several choices at once: choice k is a number from 0 to `counts[k]` - 1."""

    counts: tuple[int, ...]


@dataclass(frozen=True)
class MultiBinaryActions:
    """`count` switches, each 0 or 1."""

    count: int


Part = DiscreteActions | BoxActions | MultiDiscreteActions | MultiBinaryActions


@dataclass(frozen=True)
class MixedActions:
    """Several of the above at once: one row of real numbers, the parts side by side."""

    parts: tuple[Part, ...]


Actions = Part | MixedActions


def action_width(actions: Actions) -> int:
    """How many numbers one action has."""
    if isinstance(actions, MixedActions):
        return sum(action_width(part) for part in actions.parts)
    if isinstance(actions, BoxActions):
        return len(actions.low)
    if isinstance(actions, MultiDiscreteActions):
        return len(actions.counts)
    return actions.count if isinstance(actions, MultiBinaryActions) else 1


@dataclass(frozen=True)
class EnvSpec:
    """The sizes that a policy and a rollout need to know of an environment.

    Attributes:
        observation_size: numbers in one observation.
        actions: what a policy chooses from: `DiscreteActions`, `BoxActions`, ...
        max_episode_steps: steps after which an episode that has not terminated is truncated.
        reset_noise_size: uniform numbers in [0, 1) that one reset uses.
        num_states: for a finite environment, whose observation is the one-hot vector of its state; otherwise None.
        image_shape: for images, their channels, height and width; the observation is the flattened image, from 0 to 1.
        mask_size: how many numbers at the end of an observation are a mask of actions, 1 for legal, 0 for illegal: one
            per action of `DiscreteActions`, one per option of every choice of `MultiDiscreteActions`; 0: there is no
            mask. The two attributes above are about what is before the mask.
    """

    observation_size: int
    actions: Actions
    max_episode_steps: int
    reset_noise_size: int
    num_states: int | None = None
    image_shape: tuple[int, int, int] | None = None
    mask_size: int = 0


class Transition(NamedTuple):
    """What one step gave.

    `terminated` says that the task ended, so nothing follows; `truncated` that the environment itself stopped
    watching, so something would follow. The limit `EnvSpec.max_episode_steps` is counted by the rollout, not here.
    `observation` is the one after the step and before any reset.
    """

    state: EnvState
    observation: Float[Tensor, "runs envs observation"]
    reward: Float[Tensor, "runs envs"]
    terminated: Bool[Tensor, "runs envs"]
    truncated: Bool[Tensor, "runs envs"]


@runtime_checkable
class Env(Protocol):
    """The copies of one environment for a batch of runs.

    An environment draws no random numbers: `reset` takes its noise as an argument. A copy whose episode is over may be
    stepped on; what it then returns is not used, and it must not disturb any other copy.

    Algorithms with fixed rollouts begin new episodes in some copies while others play on. Where the state consists of
    tensors `[runs, envs, ...]` (alone, or in tuples, lists and dictionaries), nothing is needed for that. Any other
    environment offers one more method, `restart(state, over, noise) -> (state, observation)`: it begins a new episode,
    from `noise` as in `reset`, in the copies where `over` `[runs, envs]` is True, and leaves the others alone, whose
    observations are not used. Such a state cannot be saved, and is made again by `replaying.py`.

    A method `following_noise(noise) -> noise` may choose the noise of each copy's next episode, from that of its
    episode: one that is cheaper to begin. With `resets_in_place = True` whole episodes begin with it too, see
    `resting.py`.
    """

    @property
    def spec(self) -> EnvSpec:
        """Sizes and limits."""
        ...

    def reset(self, noise: Float[Tensor, "runs envs noise"]) -> tuple[EnvState, Float[Tensor, "runs envs observation"]]:
        """Start one episode in every copy.

        Args:
            noise: uniform in [0, 1), `spec.reset_noise_size` numbers per copy.

        Returns:
            The state and the first observation.
        """
        ...

    def step(
        self,
        state: EnvState,
        action: Num[Tensor, "runs envs *action"],
        running: Bool[Tensor, "runs envs"],
    ) -> Transition:
        """Advance every copy by one step.

        Args:
            state: from `reset` or the last `step`; it may be reused, so only the newest one is valid.
            action: index (int64) for `DiscreteActions`; numbers within the bounds for `BoxActions`; rows of whole
                numbers (int64) for `MultiDiscreteActions` and `MultiBinaryActions`; real rows for `MixedActions`.
            running: the copies whose episode is not over; the others may be left alone.
        """
        ...

    def select(self, state: EnvState, rows: Int64[Tensor, " rows"]) -> EnvState:
        """Keep only the given runs of a state, in the given order; nothing asks for the others again."""
        ...

    def join(self, states: Sequence[EnvState]) -> EnvState:
        """The runs of several states, one after the other: some have just begun while others were playing."""
        ...


class Twin(NamedTuple):
    """How an environment is looked at.

    Attributes:
        env: that plays the same task, and, but for EnvPool's, the same episodes from the same noise; where the states
            of the environment itself can be drawn, that is itself.
        picture: of one copy in a state of that `env`, uint8 `[height, width, 3]`, from (state, run, copy).
        frames_per_second: at which it looks as it is meant to.
        close: gives back what drawing took.
    """

    env: Env
    picture: Callable[[EnvState, int, int], Any]
    frames_per_second: float
    close: Callable[[], None]


@runtime_checkable
class HasTwin(Protocol):
    """What an environment offers besides `Env` if it can be looked at: in videos, nowhere else."""

    def twin(self) -> Twin:
        """A new one, for one episode.

        Raises:
            ConfigError: when this environment cannot be drawn after all.
        """
        ...
