"""Networks of one run as plain modules of torch: what `pg_experiments.export` writes with a policy's head behind them.

They use standard operations only, without a branch that depends on a number, so that each can be traced, exported, and
read by other programs.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


class Elu(torch.nn.Module):
    """x where x > 0, else exp(x) - 1; torch's own becomes an ONNX operation that is not there for float64."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, torch.expm1(x))


ACTIVATION_MODULES: dict[str, type[torch.nn.Module]] = {
    "relu": torch.nn.ReLU,
    "tanh": torch.nn.Tanh,
    "elu": Elu,
    "sigmoid": torch.nn.Sigmoid,
}


def perceptron(layers: Sequence[tuple[Tensor, Tensor]], activation: str) -> torch.nn.Sequential:
    """A fully connected network.

    Args:
        layers: weight `[in, out]` and bias `[out]` of each.
        activation: name in `ACTIVATION_MODULES`, applied after every layer but the last.
    """
    modules: list[torch.nn.Module] = []
    for weight, bias in layers:
        linear = torch.nn.Linear(weight.shape[0], weight.shape[1], dtype=weight.dtype)
        linear.load_state_dict({"weight": weight.T, "bias": bias})
        modules += [linear, ACTIVATION_MODULES[activation]()]
    return torch.nn.Sequential(*modules[:-1])


class ConvolutionalNetwork(torch.nn.Module):
    """Convolutions of images that arrive as vectors `[channels, height, width]`, and a perceptron over all of it.

    Args:
        image_shape: channels, height and width of an observation.
        layers: weight `[kernel, kernel, channels, out]`, bias `[out]` and stride of each convolution.
        activation: name in `ACTIVATION_MODULES`, applied after every convolution.
        head: over the last images, pixel by pixel, as `[height, width, channels]`.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        layers: Sequence[tuple[Tensor, Tensor, int]],
        activation: str,
        head: torch.nn.Module,
    ) -> None:
        super().__init__()
        self.image_shape = image_shape
        modules: list[torch.nn.Module] = []
        for weight, bias, stride in layers:
            kernel, _, size_in, size_out = weight.shape
            convolution = torch.nn.Conv2d(size_in, size_out, kernel, stride, dtype=weight.dtype)
            convolution.load_state_dict({"weight": weight.permute(3, 2, 0, 1), "bias": bias})
            modules += [convolution, ACTIVATION_MODULES[activation]()]
        self.convolutions = torch.nn.Sequential(*modules)
        self.head = head

    def forward(self, observation: Float[Tensor, "batch observation"]) -> Float[Tensor, "batch out"]:
        images = self.convolutions(observation.reshape(-1, *self.image_shape))
        output: Tensor = self.head(images.permute(0, 2, 3, 1).flatten(1))
        return output


class Normalization(torch.nn.Module):
    """(observation - mean) · scale, cut off at ±`limit`; a mask of actions behind these numbers stays as it is."""

    def __init__(self, mean: Float[Tensor, " size"], scale: Float[Tensor, " size"], limit: float) -> None:
        super().__init__()
        self.limit, self.size = limit, len(mean)
        self.register_buffer("mean", mean.clone())
        self.register_buffer("scale", scale.clone())

    def forward(self, observation: Float[Tensor, "batch observation"]) -> Float[Tensor, "batch observation"]:
        centred = observation[:, : self.size] - self.get_buffer("mean")
        normalized = (centred * self.get_buffer("scale")).clamp(-self.limit, self.limit)
        return torch.cat([normalized, observation[:, self.size :]], 1)


class Masked(torch.nn.Module):
    """The logits of a network, and -inf for the actions whose number in the mask, with which an observation ends, is 0.

    Args:
        network: from what is before the mask, `[batch, seen]`, to the logits.
        size: numbers in a mask.
    """

    def __init__(self, network: torch.nn.Module, size: int) -> None:
        super().__init__()
        self.network, self.size = network, size

    def forward(self, observation: Float[Tensor, "batch observation"]) -> Float[Tensor, "batch size"]:
        logits: Tensor = self.network(observation[:, : -self.size])
        return logits.masked_fill(observation[:, -self.size :] <= 0, -torch.inf)
