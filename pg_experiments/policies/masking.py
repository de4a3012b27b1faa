"""Networks whose outputs are -inf where the observation says that an action is illegal."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from pg_experiments.exact import crop, pad_to_lane
from pg_experiments.policies.networks import Layers, Network, Parameters, apply
from pg_experiments.policies.standalone import Masked


@dataclass(frozen=True)
class MaskedNetwork:
    """The logits of another network, and -inf for every illegal action: log π(a) = zₐ - log Σ over legal b of exp(z_b).

    So a softmax of them is 0 there, exactly: an illegal action is never drawn, adds nothing to entropy and divergence,
    and its logit has no gradient. The observation ends with the mask, one number for each logit, see `EnvSpec`; the
    other network sees what is before it. The mask is a part of the observation, and this a network like all others, so
    that whatever keeps observations keeps masks, and whatever learns from logits learns from masked ones.

    Source: Huang and Ontañón (2022), A closer look at invalid action masking in policy gradient algorithms,
    arXiv:2006.14171, section 3.

    Attributes:
        inner: gives the logits.
        mask_size: numbers in one mask, at the end of the observation.
        masks: False: the mask is only left out of what the other network sees, whose outputs are no logits.
    """

    inner: Network
    mask_size: int
    masks: bool = True

    @property
    def hidden_sizes(self) -> Sequence[int]:
        """Width of each fully connected hidden layer."""
        return self.inner.hidden_sizes

    @property
    def output_size(self) -> int:
        """Numbers in one output."""
        return self.inner.output_size

    @property
    def names(self) -> list[str]:
        """Of the parameters, which are the other network's."""
        return self.inner.names

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """In and out of every layer's weight."""
        return self.inner.shapes

    @property
    def numbers_per_sample(self) -> int:
        """The most numbers that one layer takes in for one sample."""
        return self.inner.numbers_per_sample

    def init(self, generators: Sequence[Generator], dtype: torch.dtype) -> Parameters:
        """As the other network."""
        return self.inner.init(generators, dtype)

    def actor(self, parameters: Parameters) -> Callable[[Tensor], Tensor]:
        """The network with these parameters, for many calls without gradient."""
        act = self.inner.actor(parameters)

        def masked(x: Float[Tensor, "runs samples in"]) -> Float[Tensor, "runs samples out"]:
            seen, illegal = self._split(x)
            return act(seen).masked_fill(illegal, -math.inf)

        return masked

    def __call__(
        self, parameters: Parameters, x: Float[Tensor, "runs samples in"]
    ) -> Float[Tensor, "runs samples out"]:
        """Apply run k's network to row k of `x`."""
        return apply(self, parameters, x)

    def module(self, parameters: Parameters) -> torch.nn.Module:
        """The network of one run as a plain module of torch: see `standalone.py`."""
        return Masked(self.inner.module(parameters), self.output_size)

    def forward(self, layers: Layers, x: Float[Tensor, "runs samples in"]) -> list[Tensor]:
        """The mask, and what the other network gives, its output masked."""
        seen, illegal = self._split(x)
        illegal = pad_to_lane(pad_to_lane(illegal, -1), -2)
        *values, output = self.inner.forward(layers, seen)
        return [illegal, *values, output.masked_fill(illegal, -math.inf)]

    def tangent(
        self, layers: Layers, values: Sequence[Tensor], change: Layers, samples: int
    ) -> Float[Tensor, "runs samples out"]:
        """How the output changes with the weights and biases, to first order: illegal logits do not."""
        output = self.inner.tangent(layers, values[1:], change, samples)
        return output.masked_fill(crop(crop(values[0], -2, output.shape[-2]), -1, output.shape[-1]), 0.0)

    def backward(
        self, layers: Layers, values: Sequence[Tensor], gradient: Float[Tensor, "runs samples out"], for_x: bool = False
    ) -> tuple[Tensor | None, Layers]:
        """Gradients for the input (where asked for; 0 for the mask), and for every weight and bias."""
        illegal = crop(crop(values[0], -2, gradient.shape[-2]), -1, gradient.shape[-1])
        of_seen, of_layers = self.inner.backward(layers, values[1:], gradient.masked_fill(illegal, 0.0), for_x)
        return (None if of_seen is None else torch.nn.functional.pad(of_seen, (0, self.mask_size))), of_layers

    def _split(
        self, x: Float[Tensor, "runs samples in"]
    ) -> tuple[Float[Tensor, "runs samples seen"], Bool[Tensor, "runs samples out"]]:
        """What the other network sees, and which actions are illegal."""
        seen, mask = x[..., : -self.mask_size].contiguous(), x[..., -self.mask_size :]
        return seen, mask <= 0 if self.masks else x.new_zeros((*x.shape[:-1], self.output_size), dtype=torch.bool)


def masked(network: Network, mask_size: int) -> Network:
    """The network, masked where the observation has a mask."""
    return MaskedNetwork(network, mask_size) if mask_size else network
