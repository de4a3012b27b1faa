"""Several distributions as one: each part of an action its own, the parts independent given the observation."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Num
from torch import Generator, Tensor

from pg_experiments.envs.interface import BoxActions, DiscreteActions, Part, action_width
from pg_experiments.policies.distributions import Distribution
from pg_experiments.policies.head import Head
from pg_experiments.policies.networks import Parameters


def parted(action: Float[Tensor, "*samples width"], actions: Sequence[Part]) -> list[Tensor]:
    """The columns of each part, of the type that its distribution has: whole numbers are stored as real ones."""
    columns = action.split([action_width(part) for part in actions], -1)
    return [
        own[..., 0].long() if isinstance(part, DiscreteActions) else own if isinstance(part, BoxActions) else own.long()
        for part, own in zip(actions, columns, strict=True)
    ]


def joined(pieces: Sequence[Num[Tensor, "..."]], actions: Sequence[Part], dtype: torch.dtype) -> Tensor:
    """Undo `parted`."""
    columns = [
        piece[..., None] if isinstance(part, DiscreteActions) else piece
        for part, piece in zip(actions, pieces, strict=True)
    ]
    return torch.cat([column.to(dtype) for column in columns], -1)


@dataclass(frozen=True)
class Joint:
    """π(a) = Πₖ πₖ(aₖ). An action is one row of real numbers, the parts side by side.

    Attributes:
        parts: πₖ.
        actions: what each part chooses from.
        noise_sizes: how much noise each part takes.
        dtype: of an action.
    """

    parts: tuple[Distribution, ...]
    actions: tuple[Part, ...]
    noise_sizes: tuple[int, ...]
    dtype: torch.dtype

    def sample(self, noise: Float[Tensor, "runs samples noise"]) -> Float[Tensor, "runs samples width"]:
        pieces = noise.split(self.noise_sizes, -1)
        drawn = [part.sample(piece) for part, piece in zip(self.parts, pieces, strict=True)]
        return joined(drawn, self.actions, self.dtype)

    def log_prob(self, action: Float[Tensor, "runs samples width"]) -> Float[Tensor, "runs samples"]:
        pieces = parted(action, self.actions)
        each = [part.log_prob(piece) for part, piece in zip(self.parts, pieces, strict=True)]
        return torch.stack(each, -1).sum(-1)

    def entropy(self) -> Float[Tensor, "runs samples"]:
        """The sum over the parts: nats of choices and of densities together."""
        return torch.stack([part.entropy() for part in self.parts], -1).sum(-1)

    def kl(self, other: "Joint") -> Float[Tensor, "runs samples"]:
        each = [part.kl(another) for part, another in zip(self.parts, other.parts, strict=True)]
        return torch.stack(each, -1).sum(-1)

    def mode(self) -> Float[Tensor, "runs samples width"]:
        modes = [part.mode() for part in self.parts]
        return joined(modes, self.actions, self.dtype)


@dataclass(frozen=True)
class JointHead:
    """The heads of the parts, with the outputs of one network dealt out to them in their order.

    Attributes:
        heads: of the parts.
        actions: what each part chooses from.
    """

    heads: tuple[Head, ...]
    actions: tuple[Part, ...]

    @property
    def output_size(self) -> int:
        return sum(head.output_size for head in self.heads)

    def first_output(self, runs: int, dtype: torch.dtype) -> Float[Tensor, "runs outputs"]:
        return torch.cat(
            [head.first_output(runs, dtype).cpu() for head in self.heads], 1
        )  # as `HeadPolicy.init` has it

    def init(self, runs: int, dtype: torch.dtype) -> Parameters:
        return {
            f"part{place}.{name}": parameter
            for place, head in enumerate(self.heads)
            for name, parameter in head.init(runs, dtype).items()
        }

    def distribution(self, parameters: Parameters, output: Float[Tensor, "runs samples outputs"]) -> Joint:
        pieces = output.split([head.output_size for head in self.heads], -1)
        parts = []
        for place, (head, piece) in enumerate(zip(self.heads, pieces, strict=True)):
            prefix = f"part{place}."
            own = {name.removeprefix(prefix): part for name, part in parameters.items() if name.startswith(prefix)}
            parts.append(head.distribution(own, piece))
        return Joint(tuple(parts), self.actions, tuple(head.noise_size for head in self.heads), output.dtype)

    @property
    def noise_size(self) -> int:
        return sum(head.noise_size for head in self.heads)

    def draw_noise(
        self, generator: Generator, shape: tuple[int, ...], dtype: torch.dtype
    ) -> Float[Tensor, "*shape noise"]:
        return torch.cat([head.draw_noise(generator, shape, dtype) for head in self.heads], -1)

    def env_action(self, action: Float[Tensor, "*samples width"]) -> Float[Tensor, "*samples width"]:
        pieces = parted(action, self.actions)
        moved = [head.env_action(piece) for head, piece in zip(self.heads, pieces, strict=True)]
        return joined(moved, self.actions, action.dtype)

    @property
    def sure(self) -> tuple[str, str]:
        parts = dict.fromkeys(" ".join(head.sure) for head in self.heads)
        return "how_sure", f"of the parts, side by side: {'; '.join(parts)}"

    def how_sure(self, distribution: Joint) -> Float[Tensor, "runs samples numbers"]:
        each = [head.how_sure(part) for head, part in zip(self.heads, distribution.parts, strict=True)]
        return torch.cat(each, -1)
