"""What holds for every distribution over actions: torch's own, numerical integration and derivatives agree with it."""

import inspect
import itertools
import math
import pkgutil
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

import pg_experiments.policies
from pg_experiments.policies.distributions import Categorical, DiagonalGaussian, Distribution

SEED = 73
RUNS = 5
D = torch.distributions


class Example(NamedTuple):
    """How a distribution is tested.

    Attributes:
        make: from its parameters.
        parameters: random ones, `[runs, 1, ...]`.
        torch: the same distribution of torch, over what `log_prob` takes; None: it has none.
        support: all actions, or the nodes of a quadrature over them, `[nodes, *action]`, and their weights.
        has_entropy: whether torch knows its entropy and divergence.
    """

    make: Callable[..., Any]
    parameters: Callable[[int], tuple[Tensor, ...]]
    torch: Callable[..., Any] | None
    support: Callable[[], tuple[Tensor, Tensor]]
    has_entropy: bool = True


def numbers(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    generator = Generator().manual_seed(SEED + seed)
    return scale * torch.randn(RUNS, 1, *shape, generator=generator, dtype=torch.float64)


def line(low: float, high: float, panels: int) -> tuple[Tensor, Tensor]:
    """Gauss and Legendre's rule with 20 nodes in each of the panels of an interval."""
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(20))
    edges = torch.linspace(low, high, panels + 1, dtype=torch.float64)
    half = (edges[1:] - edges[:-1])[:, None] / 2
    return (edges[:-1, None] + half * (1 + nodes)).flatten(), (half * weights).flatten()


def plane(low: float, high: float, panels: int) -> tuple[Tensor, Tensor]:
    """The product of two such rules: actions of two dimensions."""
    nodes, weights = line(low, high, panels)
    return torch.cartesian_prod(nodes, nodes), torch.cartesian_prod(weights, weights).prod(-1)


EXAMPLES = {
    "categorical": Example(
        Categorical,
        lambda seed: (numbers(seed, 4, scale=2.0),),
        lambda logits: D.Categorical(logits=logits),
        lambda: (torch.arange(4), torch.ones(4, dtype=torch.float64)),
    ),
    "categorical_of_two": Example(
        Categorical,
        lambda seed: (numbers(seed, 2, scale=2.0),),
        lambda logits: D.Categorical(logits=logits),
        lambda: (torch.arange(2), torch.ones(2, dtype=torch.float64)),
    ),
    "gaussian": Example(
        DiagonalGaussian,
        lambda seed: (numbers(seed, 2), numbers(seed + 100, 2, scale=0.3)),
        lambda mean, log_std: D.Independent(D.Normal(mean, log_std.exp()), 1),
        lambda: plane(-15.0, 15.0, 10),
    ),
}
every_distribution = pytest.mark.parametrize("name", EXAMPLES)


def made(name: str, seed: int = 0) -> Any:
    return EXAMPLES[name].make(*EXAMPLES[name].parameters(seed))


def of_size(parameters: Sequence[Tensor], samples: int) -> list[Tensor]:
    """The same parameters for each of so many samples."""
    return [part.expand(RUNS, samples, *part.shape[2:]) for part in parameters]


def expanded(nodes: Tensor) -> Tensor:
    """Every action as a sample of every run."""
    return nodes.expand(RUNS, *nodes.shape)


def log_probs(name: str, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Of every action, `[runs, nodes]`; and the weights `[nodes]`."""
    nodes, weights = EXAMPLES[name].support()
    return EXAMPLES[name].make(*of_size(parameters, len(nodes))).log_prob(expanded(nodes)), weights


def assert_close(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_the_list_of_distributions_is_complete() -> None:
    """A new class with the methods of a distribution must join `EXAMPLES`."""
    found = set()
    for module in pkgutil.iter_modules(pg_experiments.policies.__path__):
        content = vars(import_module(f"pg_experiments.policies.{module.name}"))
        found |= {
            part
            for part in content.values()
            if inspect.isclass(part) and part is not Distribution and hasattr(part, "log_prob")
        }
    assert found == {type(made(name)) for name in EXAMPLES}
    assert all(issubclass(part, Distribution) for part in found)


@every_distribution
def test_probabilities_add_up_to_one(name: str) -> None:
    found, weights = log_probs(name, EXAMPLES[name].parameters(0))
    assert_close((found.exp() * weights).sum(1), torch.ones(RUNS, dtype=torch.float64))


@every_distribution
def test_entropy_is_the_mean_of_minus_the_log_probability(name: str) -> None:
    found, weights = log_probs(name, EXAMPLES[name].parameters(0))
    assert_close(made(name).entropy()[:, 0], -(found.exp() * found * weights).sum(1))


@every_distribution
def test_kl_is_the_mean_difference_of_the_log_probabilities(name: str) -> None:
    found, weights = log_probs(name, EXAMPLES[name].parameters(0))
    others, _ = log_probs(name, EXAMPLES[name].parameters(7))
    expected = (found.exp() * (found - others) * weights).sum(1)
    assert (expected > 1e-3).all()
    assert_close(made(name).kl(made(name, seed=7))[:, 0], expected)


@every_distribution
def test_kl_to_itself_is_zero_and_so_is_its_gradient(name: str) -> None:
    leaves = [part.requires_grad_() for part in EXAMPLES[name].parameters(0)]
    own = EXAMPLES[name].make(*leaves)
    itself = EXAMPLES[name].make(*(leaf.detach() for leaf in leaves))
    found = own.kl(itself)
    assert_close(found, torch.zeros_like(found))
    for gradient in torch.autograd.grad(found.sum((0, 1)), leaves):
        assert_close(gradient, torch.zeros_like(gradient))


@every_distribution
def test_the_score_has_mean_zero(name: str) -> None:
    """E[∇log π] = 0, for every parameter."""
    leaves = [part.requires_grad_() for part in EXAMPLES[name].parameters(0)]
    found, weights = log_probs(name, leaves)
    for gradient in torch.autograd.grad((found.exp().detach() * weights * found).sum((0, 1)), leaves):
        assert_close(gradient, torch.zeros_like(gradient))


@every_distribution
def test_every_gradient_is_numerically_right(name: str) -> None:
    leaves = [part.requires_grad_() for part in EXAMPLES[name].parameters(0)]
    make, other = EXAMPLES[name].make, made(name, seed=7)
    nodes, _ = EXAMPLES[name].support()
    action = expanded(nodes[len(nodes) // 3][None])
    functions: Sequence[Callable[[Any], Tensor]] = (
        lambda own: own.log_prob(action),
        lambda own: own.entropy(),
        lambda own: own.kl(other),
        lambda own: other.kl(own),
    )
    for function in functions:
        assert torch.autograd.gradcheck(lambda *parts, of=function: of(make(*parts)), leaves)


@every_distribution
def test_it_equals_the_distribution_of_torch(name: str) -> None:
    reference = EXAMPLES[name].torch
    if reference is None:
        pytest.skip("torch has none")
    nodes, _ = EXAMPLES[name].support()
    nodes = nodes[:: max(1, len(nodes) // 999)]
    parameters, other = (of_size(EXAMPLES[name].parameters(seed), len(nodes)) for seed in (0, 7))
    own, expected = EXAMPLES[name].make(*parameters), reference(*parameters)
    assert_close(own.log_prob(expanded(nodes)), expected.log_prob(expanded(nodes)))
    if EXAMPLES[name].has_entropy:
        assert_close(own.entropy(), expected.entropy())
        assert_close(own.kl(EXAMPLES[name].make(*other)), D.kl_divergence(expected, reference(*other)))


@every_distribution
def test_no_action_is_more_probable_than_the_mode(name: str) -> None:
    own = made(name)
    found, _ = log_probs(name, EXAMPLES[name].parameters(0))
    assert (own.log_prob(own.mode())[:, 0] >= found.max(1).values - 1e-12).all()


@every_distribution
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_what_it_says_of_a_sample_does_not_depend_on_its_neighbours(name: str, dtype: torch.dtype) -> None:
    """Log-probability, entropy, divergence, mode, draw and gradient, bit for bit, wherever the sample stands."""
    samples = 131
    parameters, others = (
        [
            part.to(dtype) * torch.linspace(0.7, 1.3, samples, dtype=dtype).reshape(-1, *(1,) * (part.ndim - 2))
            for part in EXAMPLES[name].parameters(seed)
        ]
        for seed in (0, 7)
    )
    make = EXAMPLES[name].make
    whole = make(*parameters)
    drawn = type(whole).draw_noise(Generator().manual_seed(SEED), (RUNS, samples), noise_size(whole), dtype)

    def everything(runs: slice, chosen: slice) -> list[Tensor]:
        leaves = [part[runs, chosen].clone().requires_grad_() for part in parameters]
        own, other = make(*leaves), make(*(part[runs, chosen].clone() for part in others))
        action = own.sample(drawn[runs, chosen]).detach()
        values = [own.log_prob(action), own.entropy(), own.kl(other)]
        gradients = torch.autograd.grad(torch.stack(values).sum((0, 1, 2)), leaves)
        return [action, own.mode(), *values, *gradients]

    together = everything(slice(None), slice(None))
    for run, (start, size) in itertools.product(range(RUNS), [(0, 1), (3, 2), (17, 3), (50, 7), (90, 16), (98, 33)]):
        alone = everything(slice(run, run + 1), slice(start, start + size))
        for part, of_all in zip(alone, together, strict=True):
            assert torch.equal(part, of_all[run : run + 1, start : start + size])


def noise_size(own: Any) -> Any:
    """What `draw_noise` is told of the actions."""
    return own.logits.shape[-1] if isinstance(own, Categorical) else own.mode().shape[-1]


# --- what only some of them have --------------------------------------------------------------------------------------


def test_kl_of_categoricals_counts_impossible_actions() -> None:
    """One that both exclude adds nothing; one that only the other excludes makes it infinite."""
    impossible = -math.inf
    one = Categorical(torch.tensor([[[0.0, 1.0, impossible]]], dtype=torch.float64))
    uniform = Categorical(torch.zeros(1, 1, 3, dtype=torch.float64))
    assert one.kl(one).item() == 0
    assert one.kl(uniform).item() == pytest.approx(math.log(3) - one.entropy().item())
    assert uniform.kl(one).item() == math.inf
    leaf = one.logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(Categorical(leaf).kl(uniform).sum((0, 1)), leaf)
    assert gradient.isfinite().all()


def test_kl_of_gaussians_with_one_spread_for_all_samples_is_that_of_each() -> None:
    mean, other_mean, log_std, other_log_std = (numbers(seed, 3) for seed in range(4))
    mean = mean * torch.linspace(0.5, 2.0, 7, dtype=torch.float64)[:, None]
    each = DiagonalGaussian(mean, log_std.expand_as(mean))
    other = DiagonalGaussian(other_mean.expand_as(mean), other_log_std.expand_as(mean))
    assert_close(DiagonalGaussian(mean, log_std).kl(DiagonalGaussian(other_mean, other_log_std)), each.kl(other))
