"""Policies of one run as plain modules of torch: what `pg_experiments.export` writes. Nothing here knows this package.

Every such module maps a batch of observations `[batch, observation]` to two tensors: the action to send, and how sure
the policy is of it. They use standard operations only, without a branch that depends on a number, so that each can be
traced, exported, and read by other programs.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
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


class Normalization(torch.nn.Module):
    """(observation - mean) · scale, cut off at ±`limit`."""

    def __init__(self, mean: Float[Tensor, " size"], scale: Float[Tensor, " size"], limit: float) -> None:
        super().__init__()
        self.limit = limit
        self.register_buffer("mean", mean.clone())
        self.register_buffer("scale", scale.clone())

    def forward(self, observation: Float[Tensor, "batch size"]) -> Float[Tensor, "batch size"]:
        centred = observation - self.get_buffer("mean")
        return (centred * self.get_buffer("scale")).clamp(-self.limit, self.limit)


class SoftmaxAction(torch.nn.Module):
    """The most probable action, and the probabilities of all.

    Args:
        logits: from observations `[batch, observation]` to logits `[batch, actions]`.
    """

    def __init__(self, logits: torch.nn.Module) -> None:
        super().__init__()
        self.logits = logits

    def forward(
        self, observation: Float[Tensor, "batch observation"]
    ) -> tuple[Int64[Tensor, " batch"], Float[Tensor, "batch actions"]]:
        logits = self.logits(observation)
        return logits.argmax(-1), torch.softmax(logits, -1)


class GaussianAction(torch.nn.Module):
    """The mean, moved to the environment's scale and clipped at its bounds, and the standard deviation on that scale.

        action = min(max(offset + mean · scale, low), high),  std = exp(log_std) · scale

    Args:
        output: from observations to the means `[batch, action]`; without `log_std` followed by as many log std.
        log_std: of all observations; None: the network gives it.
        offset, scale, low, high: of each dimension of the action.
    """

    def __init__(
        self,
        output: torch.nn.Module,
        log_std: Float[Tensor, " action"] | None,
        offset: Float[Tensor, " action"],
        scale: Float[Tensor, " action"],
        low: Float[Tensor, " action"],
        high: Float[Tensor, " action"],
    ) -> None:
        super().__init__()
        self.output = output
        self.size = len(offset)
        self.register_buffer("log_std", None if log_std is None else log_std.clone())
        for name, tensor in (("offset", offset), ("scale", scale), ("low", low), ("high", high)):
            self.register_buffer(name, tensor.clone())

    def forward(
        self, observation: Float[Tensor, "batch observation"]
    ) -> tuple[Float[Tensor, "batch action"], Float[Tensor, "batch action"]]:
        output = self.output(observation)
        mean = output[:, : self.size]
        log_std = output[:, self.size :] if self.log_std is None else self.get_buffer("log_std").expand_as(mean)
        scale = self.get_buffer("scale")
        action = self.get_buffer("offset") + mean * scale
        action = torch.minimum(torch.maximum(action, self.get_buffer("low")), self.get_buffer("high"))
        return action, torch.exp(log_std) * scale
