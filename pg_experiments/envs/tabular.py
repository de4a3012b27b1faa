"""Finite environments, given by the table of all that can happen in them: a frozen lake, a walk along a cliff."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pg_experiments.envs.interface import DiscreteActions, EnvSpec, Transition, Twin
from pg_experiments.envs.twins import gymnasium_twin
from pg_experiments.errors import ConfigError

Cell = tuple[int, int]  # row and column
Outcome = tuple[float, Cell, float, bool]  # probability, next cell, reward, terminated

LAKE = ("SFFF", "FHFH", "FFFH", "HFFG")
LAKE_MOVES = ((0, -1), (1, 0), (0, 1), (-1, 0))  # left, down, right, up
CLIFF_MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left
CLIFF_ROWS, CLIFF_COLUMNS = 4, 12


class Table(NamedTuple):
    """Everything that can follow each action in each state, as float64; states of a grid are counted row by row.

    Attributes:
        probability: of each outcome; they add up to 1.
        following: the state that it leads to.
        reward: that it gives.
        terminated: whether the task ends with it.
        start: probability of each state to start in.
    """

    probability: Float[Tensor, "states actions outcomes"]
    following: Int64[Tensor, "states actions outcomes"]
    reward: Float[Tensor, "states actions outcomes"]
    terminated: Bool[Tensor, "states actions outcomes"]
    start: Float[Tensor, " states"]


class _Tabular:
    """What finite environments share. The observation is the one-hot vector of the state.

    The state of a copy is its place in the table, the uniform numbers that decide the outcomes of its steps, and the
    number of steps: chance is drawn at the reset, like all noise of an environment.
    """

    table: Table
    max_episode_steps: int

    @cached_property
    def spec(self) -> EnvSpec:
        states, actions, outcomes = self.table.probability.shape
        noise = 1 + (self.max_episode_steps if outcomes > 1 else 0)
        return EnvSpec(states, DiscreteActions(actions), self.max_episode_steps, noise, states)

    def reset(self, noise: Float[Tensor, "runs envs noise"]) -> tuple[tuple[Tensor, ...], Tensor]:
        """Start in a state drawn by the first number; the others are for the steps."""
        lookup = self._lookup(noise.dtype, noise.device)
        place = (noise[..., :1] >= lookup.start).sum(-1)
        return (place, noise[..., 1:], torch.zeros_like(place)), lookup.one_hot[place]

    def step(
        self, state: tuple[Tensor, ...], action: Int64[Tensor, "runs envs"], running: Bool[Tensor, "runs envs"]
    ) -> Transition:
        place, noise, steps = state
        lookup = self._lookup(noise.dtype, noise.device)
        chosen = torch.add(action, place, alpha=self.table.probability.shape[1]).reshape(-1)
        if noise.shape[-1]:
            now = noise.gather(-1, steps.clamp(max=noise.shape[-1] - 1)[..., None]).view(-1, 1)
            outcome = (now >= lookup.bounds.index_select(0, chosen)).sum(-1)
            chosen = outcome.add_(chosen, alpha=self.table.probability.shape[2])
        following = lookup.following.index_select(0, chosen)
        observation = lookup.one_hot.index_select(0, following).view(*place.shape, -1)
        reward, terminated = (
            part.index_select(0, chosen).view_as(place) for part in (lookup.reward, lookup.terminated)
        )
        state = (following.view_as(place), noise, steps + 1)
        return Transition(state, observation, reward, terminated, torch.zeros_like(terminated))

    def select(self, state: tuple[Tensor, ...], rows: Int64[Tensor, " rows"]) -> tuple[Tensor, ...]:
        return tuple(part[rows] for part in state)

    def join(self, states: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        return tuple(torch.cat(parts) for parts in zip(*states, strict=True))

    def expected_return(self, policy: Float[Tensor, "states actions"], gamma: float) -> Float[Tensor, ""]:
        """J = E[Σ γᵗ rₜ] within the time limit, exactly; autograd through it gives the exact policy gradient.

        From the last step backwards, V(s) = Σₐ π(a | s) Σ over outcomes of P (r + γ V(s'), or r where it ends).

        Args:
            policy: π(a | s), float64.
            gamma: γ.
        """
        table = self.table
        value = torch.zeros(len(table.start), dtype=torch.float64)
        for _ in range(self.max_episode_steps):
            after = table.reward + gamma * torch.where(table.terminated, 0.0, value[table.following])
            value = (policy * (table.probability * after).sum(-1)).sum(-1)
        return (table.start * value).sum(-1)

    def _lookup(self, dtype: torch.dtype, device: torch.device) -> "_Lookup":
        """Made once for a type and device."""
        if (dtype, device) not in self._lookups:
            table = self.table
            self._lookups[dtype, device] = _Lookup(
                _bounds(table.start.to(dtype)).to(device),
                _bounds(table.probability.to(dtype)).flatten(0, 1).to(device),
                table.following.flatten().to(device),
                table.reward.flatten().to(dtype).to(device),
                table.terminated.flatten().to(device),
                torch.eye(len(table.start), dtype=dtype, device=device),
            )
        return self._lookups[dtype, device]

    @cached_property
    def _lookups(self) -> dict[tuple[torch.dtype, torch.device], "_Lookup"]:
        return {}


class _Lookup(NamedTuple):
    """A table as a step reads it, row by row.

    A uniform number stands for the first outcome whose cumulative probability is above it, so its place is the number
    of cumulative probabilities, but for the last one, that it reaches.

    Attributes:
        start: cumulative probabilities of the states to start in, without the last.
        bounds: the same of the outcomes of each action in each state.
        following, reward, terminated: of each outcome of each action in each state.
        one_hot: what is observed in each state.
    """

    start: Float[Tensor, " states-1"]
    bounds: Float[Tensor, "states*actions outcomes-1"]
    following: Int64[Tensor, " states*actions*outcomes"]
    reward: Float[Tensor, " states*actions*outcomes"]
    terminated: Bool[Tensor, " states*actions*outcomes"]
    one_hot: Float[Tensor, "states states"]


def _bounds(probability: Float[Tensor, "*rest outcomes"]) -> Float[Tensor, "*rest outcomes-1"]:
    return probability.cumsum(-1)[..., :-1].contiguous()


@dataclass(frozen=True)
class FrozenLake(_Tabular):
    """Gymnasium's FrozenLake-v1, every copy of every run at once: walk from S to G over ice, past the holes.

    Actions 0 to 3 go left, down, right and up; on slippery ice only one time in three, and else to one of the two
    sides. Reward 1 for reaching G, else 0. The episode terminates there and in a hole.

    Attributes:
        map: rows of S (start), F (frozen), H (hole) and G (goal), all of the same length.
        is_slippery: see above.
        table: made of them.
    """

    map: Sequence[str] = LAKE
    is_slippery: bool = True
    max_episode_steps: int = 100
    table: Table = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        text = "".join(self.map)
        if len({len(row) for row in self.map}) != 1 or not set(text) <= set("SFHG") or not set("SG") <= set(text):
            wanted = "must be rows of equal length, of the letters S, F, H and G, with a start S and a goal G"
            raise ConfigError("env.map", list(self.map), wanted)
        object.__setattr__(self, "table", self._table())

    def twin(self) -> Twin:
        return gymnasium_twin(self, "FrozenLake-v1", _put, 1, desc=list(self.map), is_slippery=self.is_slippery)

    def _table(self) -> Table:
        size = (len(self.map), len(self.map[0]))

        def outcomes(cell: Cell, action: int) -> list[Outcome]:
            if self.map[cell[0]][cell[1]] in "HG":
                return [(1.0, cell, 0.0, True)]
            reached = [_moved(cell, move, size) for move in _directions(LAKE_MOVES, action, self.is_slippery)]
            letters = [self.map[row][column] for row, column in reached]
            return [
                (1 / len(reached), after, float(letter == "G"), letter in "HG")
                for after, letter in zip(reached, letters, strict=True)
            ]

        return _table(size, outcomes, [float(letter == "S") for letter in "".join(self.map)])


@dataclass(frozen=True)
class CliffWalking(_Tabular):
    """Gymnasium's CliffWalking-v1, every copy of every run at once: from corner to corner along a cliff.

    Four rows of twelve cells; the start is the lower left one, the goal the lower right one, and between them is the
    cliff. Actions 0 to 3 go up, right, down and left, on slippery ground as on a `FrozenLake`. Reward -1 a step; a
    step into the cliff gives -100 and leads back to the start. The episode terminates at the goal. Gymnasium's own has
    no time limit.

    Source: Sutton and Barto (2018), example 6.6.

    Attributes:
        is_slippery: see above.
        table: made of it.
    """

    is_slippery: bool = False
    max_episode_steps: int = 200
    table: Table = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "table", self._table())

    def twin(self) -> Twin:
        return gymnasium_twin(self, "CliffWalking-v1", _put, 1, is_slippery=self.is_slippery)

    def _table(self) -> Table:
        size = (CLIFF_ROWS, CLIFF_COLUMNS)
        start, goal = (CLIFF_ROWS - 1, 0), (CLIFF_ROWS - 1, CLIFF_COLUMNS - 1)

        def outcomes(cell: Cell, action: int) -> list[Outcome]:
            reached = [_moved(cell, move, size) for move in _directions(CLIFF_MOVES, action, self.is_slippery)]
            falls = [row == CLIFF_ROWS - 1 and 0 < column < CLIFF_COLUMNS - 1 for row, column in reached]
            return [
                (1 / len(reached), start if fall else after, -100.0 if fall else -1.0, after == goal)
                for after, fall in zip(reached, falls, strict=True)
            ]

        first = [0.0] * (CLIFF_ROWS * CLIFF_COLUMNS)
        first[start[0] * CLIFF_COLUMNS + start[1]] = 1.0
        return _table(size, outcomes, first)


def _directions(moves: Sequence[Cell], action: int, is_slippery: bool) -> list[Cell]:
    """Where an action may lead: on slippery ground also to both sides."""
    return [moves[(action + turn) % 4] for turn in ((-1, 0, 1) if is_slippery else (0,))]


def _moved(cell: Cell, move: Cell, size: Cell) -> Cell:
    """The cell beside this one, or this one where the grid ends."""
    row, column = (min(max(at + by, 0), most - 1) for at, by, most in zip(cell, move, size, strict=True))
    return row, column


def _table(size: Cell, outcomes: Callable[[Cell, int], list[Outcome]], start: Sequence[float]) -> Table:
    """The table of a grid, from the outcomes of each action in each cell; those of probability 0 fill it up."""
    cells = [(row, column) for row in range(size[0]) for column in range(size[1])]
    lists = [[outcomes(cell, action) for action in range(4)] for cell in cells]
    most = max(len(own) for of_cell in lists for own in of_cell)
    filled = [[own + [(0.0, *own[0][1:])] * (most - len(own)) for own in of_cell] for of_cell in lists]
    probability, reward = (
        torch.tensor([[[one[part] for one in own] for own in of_cell] for of_cell in filled], dtype=torch.float64)
        for part in (0, 2)
    )
    following = torch.tensor([[[one[1][0] * size[1] + one[1][1] for one in own] for own in row] for row in filled])
    terminated = torch.tensor([[[one[3] for one in own] for own in of_cell] for of_cell in filled])
    weights = torch.tensor(start, dtype=torch.float64)
    return Table(probability, following, reward, terminated, weights / weights.sum(-1))


def _put(env: Any, place: list[float]) -> None:
    """Into Gymnasium's environment of toy text."""
    env.s = int(place[0])
