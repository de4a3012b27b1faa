"""Gradients of sums over a run's samples, for each run its own, one pass over its blocks after the other.

Where torch is in inference mode, see `modes.py`, what needs autograd leaves it.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Num
from torch import Tensor

from pg_experiments.exact import crop
from pg_experiments.modes import recordable, recorded
from pg_experiments.packing import Pass, Samples
from pg_experiments.policies.distributions import Categorical, Distribution
from pg_experiments.policies.interface import NetworkPolicy, Policy
from pg_experiments.policies.networks import Network, Parameters, flat_of, layers_of, parameters_of, views_of
from pg_experiments.policies.softmax import Softmax


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
        with recorded():
            leaves = {name: part.index_select(0, blocks.rows).requires_grad_() for name, part in parameters.items()}
            parts = torch.autograd.grad(loss(leaves, blocks).sum(), list(leaves.values()), materialize_grads=True)
        for name, part in zip(leaves, parts, strict=True):
            total[name].index_add_(0, blocks.rows, part)
    return total


@torch.no_grad()
def network_gradients(
    network: Network,
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
    passes = samples.passes_of(network.numbers_per_sample)
    if len(passes) == 1 and samples.whole_runs:  # nothing to select, nothing to add up
        (blocks,) = passes
        layers, own = layers_of(network, parameters), blocks.of(x)
        values = network.forward(layers, own)
        gradient = loss_gradient(crop(crop(values[-1], -2, own.shape[1]), -1, network.output_size), blocks)
        return parameters_of(network, network.backward(layers, values, gradient)[1])
    flat = flat_of(layers_of(network, parameters))
    total = torch.zeros_like(flat)
    for blocks in passes:
        layers = views_of(network, flat.index_select(0, blocks.rows))
        own = blocks.of(x)
        values = network.forward(layers, own)
        gradient = loss_gradient(crop(crop(values[-1], -2, own.shape[1]), -1, network.output_size), blocks)
        _, parts = network.backward(layers, values, gradient)
        total.index_add_(0, blocks.rows, flat_of(parts))
    return parameters_of(network, views_of(network, total))


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
        seen = recordable(observation)
        return gradients(parameters, samples, lambda leaves, blocks: loss(policy(leaves, blocks.of(seen)), blocks))
    of_network = policy.network.names
    others = {name: parameter for name, parameter in parameters.items() if name not in of_network}
    of_others = {name: torch.zeros_like(parameter) for name, parameter in others.items()}

    def loss_gradient(output: Tensor, blocks: Pass) -> Tensor:
        with recorded():
            leaves = {name: part.index_select(0, blocks.rows).requires_grad_() for name, part in others.items()}
            output = recordable(output).detach().requires_grad_()
            value = loss(policy.distribution(leaves, output), blocks).sum()
            of_output, *parts = torch.autograd.grad(value, [output, *leaves.values()], materialize_grads=True)
        for name, part in zip(leaves, parts, strict=True):
            of_others[name].index_add_(0, blocks.rows, part)
        return of_output

    return network_gradients(policy.network, parameters, samples, observation, loss_gradient) | of_others


def score_gradients(
    policy: Policy,
    parameters: Parameters,
    samples: Samples,
    observation: Float[Tensor, "samples observation"],
    action: Num[Tensor, "samples *action"],
    weigh: Callable[[Tensor, Tensor, Pass], Tensor],
    coefficient: Float[Tensor, " runs"] | None = None,
) -> Parameters:
    """Gradient of Σ over a run's samples of w log π(a | s) + c H(π(· | s)), with the weights w held fixed.

    Of a categorical policy with a network it is computed in closed form, of any other one by autograd.

    Args:
        policy, parameters: of all runs.
        samples: gives the blocks.
        observation, action: of every sample.
        weigh: from log π and H for the blocks of a pass, `[blocks, size]`, without gradient, to w; called in
            inference mode where this is.
        coefficient: c of each run; None: 0 of all.
    """

    def output_gradient(output: Tensor, blocks: Pass) -> Tensor:
        distribution, own = Categorical(output), blocks.of(action)
        weight = weigh(distribution.log_prob(own), distribution.entropy(), blocks)
        return distribution.objective_gradient(
            own, weight, None if coefficient is None else coefficient[blocks.rows, None]
        )

    if isinstance(policy, Softmax):
        return network_gradients(policy.network, parameters, samples, observation, output_gradient)
    inference, kept_action = torch.is_inference_mode_enabled(), recordable(action)

    def objective(distribution: Distribution, blocks: Pass) -> Tensor:
        log_prob = distribution.log_prob(blocks.of(kept_action))
        with torch.set_grad_enabled(coefficient is not None):
            entropy = distribution.entropy()
        with torch.inference_mode(inference):
            weight = weigh(log_prob.detach(), entropy.detach(), blocks)
        value = log_prob * recordable(weight)
        return (value if coefficient is None else value + entropy * coefficient[blocks.rows, None]).sum(1)

    return policy_gradients(policy, parameters, samples, observation, objective)


def passes_for(policy: Policy, samples: Samples) -> Sequence[Pass]:
    """The passes of a size that the policy's network can compute at once."""
    return samples.passes_of(policy.network.numbers_per_sample if isinstance(policy, NetworkPolicy) else 1)


@torch.no_grad()
def outputs(
    network: Network, parameters: Parameters, samples: Samples, x: Float[Tensor, "samples in"]
) -> Float[Tensor, "samples out"]:
    """The network's output for every sample."""
    found = x.new_empty(len(x), network.output_size)
    for blocks in samples.passes_of(network.numbers_per_sample):
        own = {name: parameters[name].index_select(0, blocks.rows) for name in network.names}
        blocks.of(found).copy_(network(own, blocks.of(x)))
    return found


@torch.no_grad()
def log_probs(
    policy: Policy,
    parameters: Parameters,
    samples: Samples,
    observation: Float[Tensor, "samples observation"],
    action: Num[Tensor, "samples *action"],
) -> Float[Tensor, " samples"]:
    """log π(action | observation) of every sample."""
    found = observation.new_empty(len(observation))
    for blocks in passes_for(policy, samples):
        own = {name: part.index_select(0, blocks.rows) for name, part in parameters.items()}
        blocks.of(found).copy_(policy(own, blocks.of(observation)).log_prob(blocks.of(action)))
    return found
