"""Gradients of sums over a run's samples, for each run its own, one pass over its blocks after the other."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Num
from torch import Tensor

from pg_experiments.exact import crop
from pg_experiments.packing import Pass, Samples
from pg_experiments.policies.distributions import Distribution
from pg_experiments.policies.interface import NetworkPolicy, Policy
from pg_experiments.policies.networks import MLP, Parameters


def gradients(
    parameters: Parameters, samples: Samples, loss: Callable[[Parameters, Pass], Float[Tensor, " blocks"]]
) -> Parameters:
    """Gradient of Σ over blocks of `loss`, for each run its own.

    Args:
        parameters: of all runs.
        samples: gives the blocks.
        loss: from the parameters of every block's run, and the blocks of a pass, to one number per block: the sum over
            its samples.
    """
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for blocks in samples.passes:
        leaves = {name: part.index_select(0, blocks.rows).requires_grad_() for name, part in parameters.items()}
        parts = torch.autograd.grad(loss(leaves, blocks).sum(), list(leaves.values()), materialize_grads=True)
        for name, part in zip(leaves, parts, strict=True):
            total[name].index_add_(0, blocks.rows, part)
    return total


@torch.no_grad()
def network_gradients(
    network: MLP,
    parameters: Parameters,
    samples: Samples,
    x: Float[Tensor, "samples in"],
    loss_gradient: Callable[[Tensor, Pass], Tensor],
) -> Parameters:
    """`gradients` of a loss that depends on the parameters through the network's output alone, without a graph.

    Args:
        network, parameters: of all runs.
        samples: gives the blocks.
        x: the network's input.
        loss_gradient: from the output for the blocks of a pass, `[blocks, size, out]`, to the gradient of the loss for
            it.
    """
    flat = network.flat(network.layers(parameters))
    total = torch.zeros_like(flat)
    for blocks in samples.passes:
        layers = network.views(flat.index_select(0, blocks.rows))
        own = blocks.of(x)
        values = network.forward(layers, own)
        gradient = loss_gradient(crop(crop(values[-1], -2, own.shape[1]), -1, network.output_size), blocks)
        _, parts = network.backward(layers, values, gradient)
        total.index_add_(0, blocks.rows, network.flat(parts))
    return network.parameters(network.views(total))


def policy_gradients(
    policy: Policy,
    parameters: Parameters,
    samples: Samples,
    observation: Float[Tensor, "samples observation"],
    loss: Callable[[Distribution, Pass], Float[Tensor, " blocks"]],
) -> Parameters:
    """`gradients` of a loss that depends on the parameters through the policy's distribution.

    Of a policy with a network, only what the distribution makes of the network's output goes through a graph.

    Args:
        policy, parameters: of all runs.
        samples: gives the blocks.
        observation: of every sample.
        loss: from the distribution for the blocks of a pass to one number per block: the sum over its samples.
    """
    if not isinstance(policy, NetworkPolicy):
        return gradients(
            parameters, samples, lambda leaves, blocks: loss(policy(leaves, blocks.of(observation)), blocks)
        )
    of_network = policy.network.names
    others = {name: parameter for name, parameter in parameters.items() if name not in of_network}
    of_others = {name: torch.zeros_like(parameter) for name, parameter in others.items()}

    def loss_gradient(output: Tensor, blocks: Pass) -> Tensor:
        leaves = {name: part.index_select(0, blocks.rows).requires_grad_() for name, part in others.items()}
        output = output.detach().requires_grad_()
        with torch.enable_grad():
            value = loss(policy.distribution(leaves, output), blocks).sum()
        of_output, *parts = torch.autograd.grad(value, [output, *leaves.values()], materialize_grads=True)
        for name, part in zip(leaves, parts, strict=True):
            of_others[name].index_add_(0, blocks.rows, part)
        return of_output

    return network_gradients(policy.network, parameters, samples, observation, loss_gradient) | of_others


@torch.no_grad()
def log_probs(
    policy: Policy,
    parameters: Parameters,
    samples: Samples,
    observation: Float[Tensor, "samples observation"],
    action: Num[Tensor, "samples *action"],
) -> Float[Tensor, " samples"]:
    """log π(action | observation) of every sample."""
    found = torch.empty(len(observation), dtype=observation.dtype)
    for blocks in samples.passes:
        own = {name: part.index_select(0, blocks.rows) for name, part in parameters.items()}
        blocks.of(found).copy_(policy(own, blocks.of(observation)).log_prob(blocks.of(action)))
    return found
