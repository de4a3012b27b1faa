"""Networks whose weights carry the run in front, `[runs, in, out]`: what all offer, and multilayer perceptrons."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.autograd.function import once_differentiable

from pg_experiments.exact import (
    LANE,
    crop,
    has_fast_tanh,
    pad_to_lane,
    prepared_product,
    product,
    product_gradients,
    sigmoid,
    tanh_,
    tanh_of_half_,
)
from pg_experiments.policies.first_weights import orthogonal
from pg_experiments.policies.standalone import perceptron

Parameters = dict[str, Tensor]  # every tensor is [runs, ...]
FIXED = "fixed."  # in the name of a parameter: a number of its run that is never learned
Layers = list[tuple[Tensor, Tensor]]  # weight [runs, in, out] and bias [runs, out] of each, sizes multiples of 4


class Activation(NamedTuple):
    """A function, and its gradient from its value's gradient and its value. Both may change their first argument."""

    function: Callable[[Tensor], Tensor]
    gradient: Callable[[Tensor, Tensor], Tensor]


ACTIVATIONS = {
    "relu": Activation(
        torch.relu_,
        lambda gradient, value: torch.ops.aten.threshold_backward.grad_input(gradient, value, 0, grad_input=gradient),
    ),
    "tanh": Activation(
        tanh_, lambda gradient, value: torch.ops.aten.tanh_backward.grad_input(gradient, value, grad_input=gradient)
    ),
    "elu": Activation(
        lambda x: torch.where(x > 0, x, torch.expm1(x)),
        lambda gradient, value: torch.where(value > 0, gradient, gradient * (value + 1)),
    ),
    "sigmoid": Activation(sigmoid, lambda gradient, value: gradient * (value * (1 - value))),
}


@runtime_checkable
class Network(Protocol):
    """What training needs of a network: a row of layers, each a product with a weight and a bias, and its gradients."""

    @property
    def hidden_sizes(self) -> Sequence[int]:
        """Width of each fully connected hidden layer."""
        ...

    @property
    def output_size(self) -> int:
        """Numbers in one output."""
        ...

    @property
    def names(self) -> list[str]:
        """Of the parameters: weight and bias of every layer, in order."""
        ...

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """In and out of every layer's weight."""
        ...

    @property
    def numbers_per_sample(self) -> int:
        """The most numbers that one layer takes in for one sample: what memory and cache have to hold."""
        ...

    def init(self, generators: Sequence[Generator], dtype: torch.dtype) -> Parameters:
        """Draw first parameters, run by run, from each run's own generator."""
        ...

    def actor(self, parameters: Parameters) -> Callable[[Tensor], Tensor]:
        """The network with these parameters, for many calls without gradient."""
        ...

    def __call__(
        self, parameters: Parameters, x: Float[Tensor, "runs samples in"]
    ) -> Float[Tensor, "runs samples out"]:
        """Apply run k's network to row k of `x`."""
        ...

    def module(self, parameters: Parameters) -> torch.nn.Module:
        """The network of one run, whose parameters are `[1, ...]`, as a plain module of torch: see `standalone.py`."""
        ...

    def forward(self, layers: Layers, x: Float[Tensor, "runs samples in"]) -> list[Tensor]:
        """Everything that `backward` needs, the output last; every size a multiple of 4."""
        ...

    def tangent(
        self, layers: Layers, values: Sequence[Tensor], change: Layers, samples: int
    ) -> Float[Tensor, "runs samples out"]:
        """How the output changes with the weights and biases, to first order: the Jacobian times their change."""
        ...

    def backward(
        self, layers: Layers, values: Sequence[Tensor], gradient: Float[Tensor, "runs samples out"], for_x: bool = False
    ) -> tuple[Tensor | None, Layers]:
        """Gradients for the input (where asked for), and for every weight and bias."""
        ...


@dataclass(frozen=True)
class MLP:
    """A fully connected network, one per run.

    Attributes:
        input_size: numbers in one input.
        hidden_sizes: width of each hidden layer; an empty list makes a linear function.
        output_size: numbers in one output.
        activation: name in `ACTIVATIONS`, applied after every hidden layer.
        output_gain: scale of the orthogonal matrix that the last layer starts with.
    """

    input_size: int
    hidden_sizes: Sequence[int]
    output_size: int
    activation: str
    output_gain: float

    @property
    def sizes(self) -> tuple[int, ...]:
        """Widths from the input to the output."""
        return (self.input_size, *self.hidden_sizes, self.output_size)

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """In and out of every layer's weight."""
        return list(pairwise(self.sizes))

    @property
    def numbers_per_sample(self) -> int:
        """Width of the widest layer's input."""
        return max(self.sizes[:-1])

    @property
    def names(self) -> list[str]:
        """Of its parameters."""
        return [f"layer{layer}.{part}" for layer in range(len(self.sizes) - 1) for part in ("weight", "bias")]

    def init(self, generators: Sequence[Generator], dtype: torch.dtype) -> Parameters:
        """Draw orthogonal weights, run by run, from each run's own generator; biases are zero.

        Hidden layers have gain √2.

        Returns:
            `layer0.weight` `[runs, in, out]`, `layer0.bias` `[runs, out]`, and so on.
        """
        parameters = {}
        last = len(self.sizes) - 2
        for layer, (size_in, size_out) in enumerate(zip(self.sizes, self.sizes[1:], strict=False)):
            gain = self.output_gain if layer == last else 2**0.5
            parameters[f"layer{layer}.weight"] = orthogonal(generators, (size_in, size_out), gain, dtype)
            parameters[f"layer{layer}.bias"] = torch.zeros(len(generators), size_out, dtype=dtype)
        return parameters

    def actor(self, parameters: Parameters) -> Callable[[Tensor], Tensor]:
        """The network with these parameters, for many calls without gradient: what does not change is done once."""
        layers = layers_of(self, parameters)
        hidden = [(weight, bias[:, None]) for weight, bias in layers[:-1]]
        output = prepared_product(*layers[-1])
        activation = ACTIVATIONS[self.activation].function
        if activation is tanh_ and all(has_fast_tanh(weight) for weight, _ in hidden):
            hidden, activation = [(weight + weight, bias + bias) for weight, bias in hidden], tanh_of_half_

        def act(x: Float[Tensor, "runs samples in"]) -> Float[Tensor, "runs samples out"]:
            samples = x.shape[1]
            x = pad_to_lane(pad_to_lane(x, -1), -2)
            for weight, bias in hidden:
                x = activation(torch.baddbmm(bias, x, weight))
            return crop(crop(output(x), -2, samples), -1, self.output_size)

        return act

    def __call__(
        self, parameters: Parameters, x: Float[Tensor, "runs samples in"]
    ) -> Float[Tensor, "runs samples out"]:
        """Apply run k's network to row k of `x`."""
        return apply(self, parameters, x)

    def module(self, parameters: Parameters) -> torch.nn.Module:
        """The network of one run, whose parameters are `[1, ...]`, as a plain module of torch: see `standalone.py`."""
        own = [parameters[name][0] for name in self.names]
        return perceptron(list(zip(own[::2], own[1::2], strict=True)), self.activation)

    def forward(self, layers: Layers, x: Float[Tensor, "runs samples in"]) -> list[Tensor]:
        """Input, every hidden layer after its activation, and output; every size a multiple of 4."""
        values = [pad_to_lane(pad_to_lane(x, -1), -2)]
        for weight, bias in layers[:-1]:
            values.append(self._hidden(values[-1], weight, bias))
        values.append(product(values[-1], *layers[-1]))
        return values

    def _hidden(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """A hidden layer's value."""
        function = ACTIVATIONS[self.activation].function
        if function is tanh_ and has_fast_tanh(weight):  # of twice as large parameters the product is exactly twice it
            return tanh_of_half_(product(x, weight + weight, bias + bias))
        return function(product(x, weight, bias))

    def tangent(
        self, layers: Layers, values: Sequence[Tensor], change: Layers, samples: int, of_x: Tensor | None = None
    ) -> Float[Tensor, "runs samples out"]:
        """How the output changes with the weights and biases, to first order: the Jacobian times their change.

        Args:
            layers, values: given to and by `forward`.
            change: of every layer.
            samples: how many there are, without what fills up.
            of_x: change of the input, every size a multiple of 4; None: none.
        """
        for layer, ((weight, _), (weight_change, bias_change)) in enumerate(zip(layers, change, strict=True)):
            before = product(values[layer], weight_change, bias_change)
            if of_x is not None:
                before = before + product(of_x, weight, torch.zeros_like(bias_change))
            is_hidden = layer < len(layers) - 1
            of_x = ACTIVATIONS[self.activation].gradient(before, values[layer + 1]) if is_hidden else before
        assert of_x is not None
        return crop(crop(of_x, -2, samples), -1, self.output_size)

    def backward(
        self, layers: Layers, values: Sequence[Tensor], gradient: Float[Tensor, "runs samples out"], for_x: bool = False
    ) -> tuple[Tensor | None, Layers]:
        """Gradients for the input (where asked for), and for every weight and bias.

        Args:
            layers, values: given to and by `forward`.
            gradient: of the output.
        """
        of_x: Tensor | None = pad_to_lane(gradient, -2)
        of_layers: Layers = []
        for layer in reversed(range(len(layers))):
            assert of_x is not None
            if layer < len(layers) - 1:
                of_x = ACTIVATIONS[self.activation].gradient(of_x, values[layer + 1])
            of_x, weight, bias = product_gradients(of_x, values[layer], layers[layer][0], for_x=layer > 0 or for_x)
            of_layers.insert(0, (weight, bias))
        return of_x, of_layers


def layers_of(network: Network, parameters: Parameters) -> Layers:
    """Weight and bias of every layer, every size a multiple of 4."""
    return _padded([parameters[name] for name in network.names])


def parameters_of(network: Network, layers: Layers) -> Parameters:
    """Undo `layers_of`."""
    parts = []
    for (weight, bias), (size_in, size_out) in zip(layers, network.shapes, strict=True):
        parts += [crop(crop(weight, -1, size_out), -2, size_in), crop(bias, -1, size_out)]
    return dict(zip(network.names, parts, strict=True))


def flat_of(layers: Layers) -> Float[Tensor, "runs numbers"]:
    """All numbers of `layers` in one row per run, every weight from the beginning of a cache line."""
    parts = [weight.flatten(1) for weight, _ in layers] + [bias for _, bias in layers]
    missing = -sum(part.shape[1] for part in parts) % LANE**2
    return torch.cat([*parts, parts[0].new_zeros(len(parts[0]), missing)], 1)


def views_of(network: Network, flat: Float[Tensor, "runs numbers"]) -> Layers:
    """Undo `flat_of`."""
    shapes = [(size_in + -size_in % LANE, size_out + -size_out % LANE) for size_in, size_out in network.shapes]
    numbers = [size_in * size_out for size_in, size_out in shapes] + [size_out for _, size_out in shapes]
    *parts, _ = flat.split([*numbers, flat.shape[1] - sum(numbers)], 1)
    weights = [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=False)]
    return list(zip(weights, parts[len(shapes) :], strict=True))


def apply(
    network: Network, parameters: Parameters, x: Float[Tensor, "runs samples in"]
) -> Float[Tensor, "runs samples out"]:
    """The network's output for every sample, as one node of autograd's graph."""
    return _Applied.apply(network, x, *(parameters[name] for name in network.names))


def _padded(flat: Sequence[Tensor]) -> Layers:
    return [
        (pad_to_lane(pad_to_lane(weight, -1), -2), pad_to_lane(bias, -1))
        for weight, bias in zip(flat[::2], flat[1::2], strict=True)
    ]


class _Applied(torch.autograd.Function):
    """The whole network as one node of the graph: autograd's own walk through its layers costs as much as a block."""

    @staticmethod
    def forward(ctx: Any, network: Network, x: Tensor, *flat: Tensor) -> Tensor:
        layers = _padded(flat)
        values = network.forward(layers, x)
        ctx.network, ctx.size = network, x.shape[-2:]
        ctx.save_for_backward(*(part for layer in layers for part in layer), *values[:-1])
        return crop(crop(values[-1], -2, x.shape[1]), -1, network.output_size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        network, saved = ctx.network, ctx.saved_tensors
        flat = len(network.names)
        layers = list(zip(saved[:flat:2], saved[1:flat:2], strict=True))
        of_x, of_layers = network.backward(layers, saved[flat:], gradients[0], for_x=ctx.needs_input_grad[1])
        if of_x is not None:
            of_x = crop(crop(of_x, -1, ctx.size[-1]), -2, ctx.size[-2])
        return None, of_x, *parameters_of(network, of_layers).values()
