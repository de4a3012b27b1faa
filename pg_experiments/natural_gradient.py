"""Fisher-vector products and conjugate gradients, for each run its own: what a natural gradient takes."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from pg_experiments.exact import crop
from pg_experiments.packing import Samples
from pg_experiments.policies.interface import NetworkPolicy
from pg_experiments.policies.networks import Parameters, flat_of, layers_of, parameters_of, views_of

Vector = Tensor  # [runs, numbers]: of every parameter, in the order of their names in the dictionary
ENOUGH = 1e-10  # of the first squared residual: a run's equation is solved


def as_vector(parameters: Parameters) -> Float[Vector, "runs numbers"]:
    """All parameters of each run in one row."""
    return torch.cat([part.flatten(1) for part in parameters.values()], 1)


def as_parameters(vector: Float[Vector, "runs numbers"], like: Parameters) -> Parameters:
    """Undo `as_vector`."""
    parts = vector.split([part[0].numel() for part in like.values()], 1)
    return {name: part.reshape(like[name].shape) for name, part in zip(like, parts, strict=True)}


def fisher_product(
    policy: NetworkPolicy,
    parameters: Parameters,
    samples: Samples,
    observation: Float[Tensor, "samples observation"],
    size: int,
    vector: Float[Vector, "runs numbers"],
) -> Float[Vector, "runs numbers"]:
    """F v, with F the mean over a run's samples of E[∇log π(a | s) ∇log π(a | s)ᵀ], a ~ π(· | s), exactly.

    F = mean of Jᵀ M J: J takes a change of the parameters to that of what the distribution is made of (a forward pass
    of tangents), M is the Hessian of KL(π_old, π) for that, Jᵀ the backward pass. F itself is never there.

    Source: Pascanu and Bengio (2014), Revisiting natural gradient for deep networks, arXiv:1301.3584, section 3;
    Schulman et al. (2015), Trust region policy optimization, arXiv:1502.05477, appendix C.1.

    Args:
        policy, parameters: of all runs.
        samples: gives the blocks.
        observation: of every sample.
        size: samples of each run.
        vector: v.
    """
    network = policy.network
    change = as_parameters(vector, parameters)
    flat, tangent = (flat_of(layers_of(network, each)) for each in (parameters, change))
    others = [name for name in parameters if name not in network.names]
    of_network = torch.zeros_like(flat)
    of_others = {name: torch.zeros_like(parameters[name]) for name in others}
    for blocks in samples.passes_of(network.numbers_per_sample):
        layers, tangents = (views_of(network, each.index_select(0, blocks.rows)) for each in (flat, tangent))
        own = blocks.of(observation)
        with torch.no_grad():
            values = network.forward(layers, own)
            output_change = network.tangent(layers, values, tangents, own.shape[1])
        output = crop(crop(values[-1], -2, own.shape[1]), -1, network.output_size)
        points = [output.detach(), *(parameters[name][blocks.rows] for name in others)]
        changes = [output_change, *(change[name][blocks.rows] for name in others)]
        of_output, *rest = _hessian_product(policy, others, points, changes)
        with torch.no_grad():
            _, parts = network.backward(layers, values, of_output / size)
            of_network.index_add_(0, blocks.rows, flat_of(parts))
            for name, part in zip(others, rest, strict=True):
                of_others[name].index_add_(0, blocks.rows, part / size)
    found = parameters_of(network, views_of(network, of_network)) | of_others
    return as_vector({name: found[name] for name in parameters})


def _hessian_product(
    policy: NetworkPolicy, others: list[str], points: list[Tensor], changes: list[Tensor]
) -> tuple[Tensor, ...]:
    """M v: the Hessian of Σ KL(π_old, π) for the network's output and the other parameters, times their changes."""
    leaves = [point.requires_grad_() for point in points]
    new = policy.distribution(dict(zip(others, leaves[1:], strict=True)), leaves[0])
    old = policy.distribution(
        dict(zip(others, (leaf.detach() for leaf in leaves[1:]), strict=True)), leaves[0].detach()
    )
    divergence = old.kl(new).sum((0, 1))
    first = torch.autograd.grad(divergence, leaves, create_graph=True, materialize_grads=True)  # of a fixed std: zero
    along = torch.stack([(one * change).flatten().sum(0) for one, change in zip(first, changes, strict=True)]).sum(0)
    return torch.autograd.grad(along, leaves, materialize_grads=True)


@torch.no_grad()
def conjugate_gradients(
    product: Callable[[Tensor], Tensor], target: Float[Vector, "runs numbers"], iterations: int
) -> Float[Vector, "runs numbers"]:
    """x with A x = target, for each run its own A, symmetric and positive definite; from x = 0.

    A run whose squared residual has fallen by 10 orders of magnitude changes no more.

    Source: Hestenes and Stiefel (1952); Nocedal and Wright (2006), Numerical optimization, algorithm 5.2.

    Args:
        product: v -> A v.
        target: right-hand side.
        iterations: at most.
    """
    x, residual, direction = torch.zeros_like(target), target.clone(), target.clone()
    square = residual.square().sum(1, keepdim=True)
    enough = square * ENOUGH
    for _ in range(iterations):
        going = square > enough
        image = product(direction)
        curvature = (direction * image).sum(1, keepdim=True)
        length = torch.where(going, square / curvature, 0.0)
        x = x + length * direction
        residual = torch.where(going, residual - length * image, residual)
        following = residual.square().sum(1, keepdim=True)
        direction = torch.where(going, residual + following / square * direction, direction)
        square = following
    return x
