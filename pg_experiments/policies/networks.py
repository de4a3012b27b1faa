"""Multilayer perceptrons whose weights carry the run in front: `[runs, in, out]`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from pg_experiments.exact import crop, pad_to_lane, prepared_product, product, product_gradients, sigmoid

Parameters = dict[str, Tensor]  # every tensor is [runs, ...]


class Activation(NamedTuple):
    """A function, and its gradient from its value's gradient and its value. Both may change their first argument."""

    function: Callable[[Tensor], Tensor]
    gradient: Callable[[Tensor, Tensor], Tensor]


ACTIVATIONS = {
    "relu": Activation(
        torch.relu_,
        lambda gradient, value: torch.ops.aten.threshold_backward.grad_input(gradient, value, 0, grad_input=gradient),
    ),
    "tanh": Activation(torch.tanh_, torch.ops.aten.tanh_backward),
    "elu": Activation(
        lambda x: torch.where(x > 0, x, torch.expm1(x)),
        lambda gradient, value: torch.where(value > 0, gradient, gradient * (value + 1)),
    ),
    "sigmoid": Activation(sigmoid, lambda gradient, value: gradient * (value * (1 - value))),
}


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

    def init(self, generators: Sequence[Generator], dtype: torch.dtype) -> Parameters:
        """Draw orthogonal weights, run by run, from each run's own generator; biases are zero.

        Hidden layers have gain √2. Source: Saxe, McClelland and Ganguli (2014), arXiv:1312.6120.

        Returns:
            `layer0.weight` `[runs, in, out]`, `layer0.bias` `[runs, out]`, and so on.
        """
        parameters = {}
        last = len(self.sizes) - 2
        for layer, (size_in, size_out) in enumerate(zip(self.sizes, self.sizes[1:], strict=False)):
            gain = self.output_gain if layer == last else 2**0.5
            weight = torch.empty(len(generators), size_in, size_out, dtype=dtype)
            for run, generator in enumerate(generators):
                torch.nn.init.orthogonal_(weight[run], gain, generator=generator)
            parameters[f"layer{layer}.weight"] = weight
            parameters[f"layer{layer}.bias"] = torch.zeros(len(generators), size_out, dtype=dtype)
        return parameters

    def actor(self, parameters: Parameters) -> Callable[[Tensor], Tensor]:
        """The network with these parameters, for many calls without gradient: what does not change is done once."""
        flat = self._flat(parameters)
        _, weights, biases = _padded(flat[0], flat)
        hidden = [(weight, bias[:, None]) for weight, bias in zip(weights[:-1], biases[:-1], strict=True)]
        output = prepared_product(weights[-1], biases[-1])
        activation = ACTIVATIONS[self.activation].function

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
        return _Perceptron.apply(self.activation, x, *self._flat(parameters))

    def _flat(self, parameters: Parameters) -> list[Tensor]:
        """Weight and bias of every layer, in order."""
        layers = range(len(self.sizes) - 1)
        return [parameters[f"layer{layer}.{part}"] for layer in layers for part in ("weight", "bias")]


def _padded(x: Tensor, flat: Sequence[Tensor]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Inputs, weights and biases with every size a multiple of 4."""
    weights = [pad_to_lane(pad_to_lane(weight, -1), -2) for weight in flat[::2]]
    return pad_to_lane(pad_to_lane(x, -1), -2), weights, [pad_to_lane(bias, -1) for bias in flat[1::2]]


def _forward(activation: str, x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> list[Tensor]:
    """Input, every hidden layer after its activation, and output."""
    values = [x]
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        values.append(ACTIVATIONS[activation].function(product(values[-1], weight, bias)))
    values.append(product(values[-1], weights[-1], biases[-1]))
    return values


class _Perceptron(torch.autograd.Function):
    """The whole network as one node of the graph: autograd's own walk through its layers costs as much as a block."""

    @staticmethod
    def forward(ctx: Any, activation: str, x: Tensor, *flat: Tensor) -> Tensor:
        padded, weights, biases = _padded(x, flat)
        values = _forward(activation, padded, weights, biases)
        ctx.activation = activation
        ctx.sizes = [(tensor.shape[-2], tensor.shape[-1]) for tensor in (x, *flat)]
        ctx.save_for_backward(*weights, *values[:-1])
        return crop(crop(values[-1], -2, x.shape[1]), -1, flat[-1].shape[-1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        layers = len(ctx.saved_tensors) // 2
        weights, values = ctx.saved_tensors[:layers], ctx.saved_tensors[layers:]
        gradient: Tensor | None = pad_to_lane(pad_to_lane(gradients[0], -1), -2)
        flat: list[Tensor] = []
        for layer in reversed(range(layers)):
            assert gradient is not None
            if layer < layers - 1:
                gradient = ACTIVATIONS[ctx.activation].gradient(gradient, values[layer + 1])
            gradient, weight, bias = product_gradients(
                gradient, values[layer], weights[layer], for_x=layer > 0 or ctx.needs_input_grad[1]
            )
            flat = [weight, bias, *flat]
        sizes = ctx.sizes
        return None, *(
            None
            if part is None
            else crop(crop(part, -1, columns), -2, rows)
            if part.ndim == 3
            else crop(part, -1, columns)
            for part, (rows, columns) in zip([gradient, *flat], sizes, strict=True)
        )
