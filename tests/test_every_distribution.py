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
from scipy import stats
from torch import Generator, Tensor

import pg_experiments.policies
from pg_experiments.envs.interface import BoxActions, DiscreteActions
from pg_experiments.policies.bernoulli import Bernoulli
from pg_experiments.policies.beta import Beta
from pg_experiments.policies.distributions import Categorical, DiagonalGaussian, Distribution
from pg_experiments.policies.joint import Joint
from pg_experiments.policies.multi_categorical import MultiCategorical
from pg_experiments.policies.squashed_gaussian import TanhGaussian, log_slope
from pg_experiments.policies.von_mises import VonMises, quantile

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
        whole_numbers: whether torch wants them as real ones.
        tolerance: of the comparison with torch, whose Bessel functions are polynomials.
    """

    make: Callable[..., Any]
    parameters: Callable[[int], tuple[Tensor, ...]]
    torch: Callable[..., Any] | None
    support: Callable[[], tuple[Tensor, Tensor]]
    has_entropy: bool = True
    tolerance: float = 1e-9
    whole_numbers: bool = False


def numbers(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    generator = Generator().manual_seed(SEED + seed)
    return scale * torch.randn(RUNS, 1, *shape, generator=generator, dtype=torch.float64)


def line(low: float, high: float, panels: int) -> tuple[Tensor, Tensor]:
    """Gauss and Legendre's rule with 20 nodes in each of the panels of an interval."""
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(20))
    edges = torch.linspace(low, high, panels + 1, dtype=torch.float64)
    half = (edges[1:] - edges[:-1])[:, None] / 2
    return (edges[:-1, None] + half * (1 + nodes)).flatten(), (half * weights).flatten()


def plane(low: float, high: float, panels: int, graded: bool = False) -> tuple[Tensor, Tensor]:
    """The product of two such rules: actions of two dimensions. `graded`: with finer panels near both ends."""
    nodes, weights = line(-math.pi / 2 if graded else low, math.pi / 2 if graded else high, panels)
    if graded:  # x = (1 + sin t) / 2, twice
        weights = weights * nodes.cos() * math.pi / 4
        nodes = math.pi / 2 * nodes.sin()
        nodes, weights = low + (high - low) * (1 + nodes.sin()) / 2, weights * (high - low) * nodes.cos()
    return torch.cartesian_prod(nodes, nodes), torch.cartesian_prod(weights, weights).prod(-1)


def squashed_plane() -> tuple[Tensor, Tensor]:
    """Over tanh(x), by x."""
    nodes, weights = plane(-6.0, 6.0, 8)
    return nodes, weights * (1 - nodes.tanh().square()).prod(-1)


def choice_and_angle() -> tuple[Tensor, Tensor]:
    """One of three, and an angle."""
    nodes, weights = line(-math.pi, math.pi, 4)
    choices = torch.arange(3, dtype=torch.float64)
    return torch.cartesian_prod(choices, nodes), weights.repeat(3)


class BeforeTanh:
    """torch's distribution of tanh(x), asked by x."""

    def __init__(self, normal: torch.distributions.Normal) -> None:
        self.squashed = D.Independent(D.TransformedDistribution(normal, D.TanhTransform()), 1)

    def log_prob(self, action: Tensor) -> Tensor:
        return self.squashed.log_prob(action.tanh())


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
    "squashed_gaussian": Example(
        lambda mean, log_std: TanhGaussian(DiagonalGaussian(mean, log_std)),
        lambda seed: (numbers(seed, 2, scale=0.5), numbers(seed + 100, 2, scale=0.3) - 0.7),
        lambda mean, log_std: BeforeTanh(D.Normal(mean, log_std.exp())),
        squashed_plane,
        has_entropy=False,
    ),
    "beta": Example(
        lambda x, y: Beta(x.exp(), y.exp()),
        lambda seed: (numbers(seed, 2), numbers(seed + 100, 2)),
        lambda x, y: D.Independent(D.Beta(1 + x.exp(), 1 + y.exp()), 1),
        lambda: plane(0.0, 1.0, 8, graded=True),
    ),
    "von_mises": Example(
        VonMises,
        lambda seed: (numbers(seed, 2, scale=2.0), numbers(seed + 100, 2, scale=2.0)),
        lambda x, y: D.Independent(D.VonMises(torch.atan2(y, x), torch.hypot(x, y)), 1),
        lambda: plane(-math.pi, math.pi, 4),
        has_entropy=False,
        tolerance=1e-6,
    ),
    "multi_categorical": Example(
        lambda logits: MultiCategorical(logits, (3, 2)),
        lambda seed: (numbers(seed, 5, scale=2.0),),
        None,
        lambda: (torch.cartesian_prod(torch.arange(3), torch.arange(2)), torch.ones(6, dtype=torch.float64)),
    ),
    "bernoulli": Example(
        Bernoulli,
        lambda seed: (numbers(seed, 3, scale=2.0),),
        lambda logits: D.Independent(D.Bernoulli(logits=logits), 1, validate_args=False),
        lambda: (torch.cartesian_prod(*[torch.arange(2)] * 3), torch.ones(8, dtype=torch.float64)),
        whole_numbers=True,
    ),
    "joint": Example(
        lambda logits, x, y: Joint(
            (Categorical(logits), VonMises(x, y)), (DiscreteActions(3), BoxActions((-1,), (1,))), (3, 1), logits.dtype
        ),
        lambda seed: (numbers(seed, 3), numbers(seed + 100, 1), numbers(seed + 200, 1)),
        None,
        choice_and_angle,
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


@pytest.mark.parametrize("name", [name for name, example in EXAMPLES.items() if example.torch])
def test_it_equals_the_distribution_of_torch(name: str) -> None:
    reference = EXAMPLES[name].torch
    assert reference is not None
    nodes, _ = EXAMPLES[name].support()
    nodes = nodes[:: max(1, len(nodes) // 999)]
    parameters, other = (of_size(EXAMPLES[name].parameters(seed), len(nodes)) for seed in (0, 7))
    own, expected = EXAMPLES[name].make(*parameters), reference(*parameters)
    asked = expanded(nodes).double() if EXAMPLES[name].whole_numbers else expanded(nodes)
    assert_close(own.log_prob(expanded(nodes)), expected.log_prob(asked), EXAMPLES[name].tolerance)
    if EXAMPLES[name].has_entropy:
        assert_close(own.entropy(), expected.entropy())
        assert_close(own.kl(EXAMPLES[name].make(*other)), D.kl_divergence(expected, reference(*other)))


@pytest.mark.parametrize("name", sorted(EXAMPLES.keys() - {"squashed_gaussian"}))  # which plays the median, see below
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
    drawn = noise_for(whole, (RUNS, samples), dtype)

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


def noise_for(own: Any, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """What `sample` takes."""
    generator = Generator().manual_seed(SEED)
    if isinstance(own, Joint):
        parts = zip(own.parts, own.noise_sizes, strict=True)
        return torch.cat([type(part).draw_noise(generator, shape, size, dtype) for part, size in parts], -1)
    size = own.logits.shape[-1] if hasattr(own, "logits") else own.mode().shape[-1]
    return type(own).draw_noise(generator, shape, size, dtype)


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


def test_the_squashed_gaussian_plays_its_median() -> None:
    own = made("squashed_gaussian")
    assert_close(own.mode(), own.sample(torch.zeros(RUNS, 1, 2, dtype=torch.float64)))


@pytest.mark.parametrize(("std", "error"), [(0.1, 1e-9), (1.0, 1e-9), (2.0, 1e-5), (3.0, 1e-3)])
def test_the_entropy_of_the_squashed_gaussian_is_as_precise_as_it_says(std: float, error: float) -> None:
    means = torch.tensor([0.0, 0.3, 1.0, 2.0, 4.0], dtype=torch.float64)[None, :, None]
    own = TanhGaussian(DiagonalGaussian(means, torch.full_like(means, math.log(std))))
    nodes, weights = line(-40.0, 40.0, 400)
    normal = D.Normal(means[0], std)
    expected = (normal.log_prob(nodes).exp() * weights * log_slope(nodes)).sum(1) + normal.entropy()[:, 0]
    assert (own.entropy()[0] - expected).abs().max() < error


def test_the_squashed_log_probability_stays_finite_far_out() -> None:
    """Where torch's own, which inverts the hyperbolic tangent, is infinite."""
    x = torch.tensor([[[-200.0], [-30.0], [30.0], [200.0]]])
    own = TanhGaussian(DiagonalGaussian(x, torch.zeros_like(x)))
    expected = 2 * x.abs()[..., 0] - 2 * math.log(2) - 0.5 * math.log(2 * math.pi)
    assert_close(own.log_prob(x), expected, 1e-6)


CONTINUOUS_ONES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "beta": (lambda: Beta(one(0.2), one(2.4)), lambda x: stats.beta(1.2, 3.4).cdf(x)),
    "beta, flat": (lambda: Beta(one(0.0), one(0.0)), lambda x: stats.uniform().cdf(x)),
    "beta, narrow": (lambda: Beta(one(299.0), one(49.0)), lambda x: stats.beta(300.0, 50.0).cdf(x)),
    "von_mises": (lambda: VonMises(one(1.2), one(0.9)), lambda x: around(x, 1.5, math.atan2(0.9, 1.2))),
    "von_mises, nearly uniform": (
        lambda: VonMises(one(-0.03), one(0.04)),
        lambda x: around(x, 0.05, 2.214297),
    ),
    "von_mises, narrow": (lambda: VonMises(one(-30.0), one(-40.0)), lambda x: around(x, 50.0, math.atan2(-4, -3))),
    "squashed_gaussian": (
        lambda: TanhGaussian(DiagonalGaussian(one(0.3), one(-0.5))),
        lambda x: stats.norm(0.3, math.exp(-0.5)).cdf(x),
    ),
}


def one(number: float) -> Tensor:
    return torch.full((1, 40_000, 1), number)


def around(angle: Any, kappa: float, mean: float) -> Any:
    """The distribution function of a von Mises angle from -π, by the periodic one of SciPy."""
    function = stats.vonmises(kappa, loc=mean)
    return function.cdf(angle) - function.cdf(-math.pi)


@pytest.mark.parametrize("name", CONTINUOUS_ONES)
def test_draws_have_the_distribution_function_that_scipy_gives(name: str) -> None:
    """Kolmogorov and Smirnov's test of 40,000 draws in float32; fails once in a million seeds."""
    make, function = CONTINUOUS_ONES[name]
    own = make()
    noise = type(own).draw_noise(Generator().manual_seed(SEED), (1, 40_000), 1, torch.float32)
    drawn = own.sample(noise).flatten().double().numpy()
    assert stats.kstest(drawn, function).pvalue > 1e-6


@pytest.mark.parametrize("kappa", [0.0, 1e-3, 0.5, 3.0, 40.0, 1e4, 1e8])
def test_the_quantile_of_a_von_mises_angle_is_exact(kappa: float) -> None:
    """The distribution function, integrated with 50 panels, gives back what was drawn."""
    noise = torch.tensor([-7.0, -3.0, -1.0, -1e-6, 0.0, 0.3, 2.0, 4.0, 6.0], dtype=torch.float64)
    angle = quantile(torch.full_like(noise, kappa), noise)
    nodes, weights = line(0.0, 1.0, 50)
    kernel = torch.exp(-2 * kappa * torch.sin(0.5 * angle[:, None] * nodes).square())
    inside = (
        (kernel * weights).sum(1) * angle / (2 * math.pi * torch.special.i0e(torch.tensor(kappa, dtype=torch.float64)))
    )
    torch.testing.assert_close(inside + 0.5, torch.special.ndtr(noise), rtol=0, atol=1e-6 if kappa == 0 else 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_the_direction_of_a_von_mises_angle_is_that_of_its_vector(dtype: torch.dtype) -> None:
    x = torch.tensor([1.0, -1.0, 0.0, 0.0, -1.0, -1.0, 1e-15, -3e9, 0.0], dtype=dtype)[None, :, None]
    y = torch.tensor([0.0, 0.0, 1.0, -1.0, 1e-7, -1e-7, 1e-15, 2e9, 0.0], dtype=dtype)[None, :, None]
    found, expected = VonMises(x, y).mode(), torch.atan2(y, x)
    torch.testing.assert_close(found.cos(), expected.cos(), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.sin(), expected.sin(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_a_beta_draw_is_inside_of_its_bounds_and_has_a_finite_score(dtype: torch.dtype) -> None:
    shapes = torch.tensor([0.0, 0.0001, 1e6, 2.0], dtype=dtype)[None, :, None]
    alpha, beta = shapes.clone().requires_grad_(), shapes.flip(1).clone().requires_grad_()
    own = Beta(alpha, beta)
    for noise in (-50.0, -6.0, 0.0, 6.0, 50.0):
        action = own.sample(torch.full_like(shapes, noise))
        assert ((action > 0) & (action < 1)).all()
        scores = torch.autograd.grad(own.log_prob(action).sum((0, 1)), (alpha, beta), retain_graph=True)
        assert all(score.isfinite().all() for score in scores)


def test_the_mode_of_a_nearly_uniform_beta_has_all_digits() -> None:
    """The mode of α = 1 + 3e-9 and β = 1 + 1e-9, which are 1 in float32."""
    own = Beta(torch.tensor([[[3e-9]]]), torch.tensor([[[1e-9]]]))
    assert own.mode().item() == pytest.approx(0.75, rel=1e-6)


def test_a_von_mises_angle_without_direction_is_uniform_with_a_finite_gradient() -> None:
    x, y = (torch.zeros(1, 1, 1, dtype=torch.float64).requires_grad_() for _ in range(2))
    own = VonMises(x, y)
    angle = torch.full((1, 1, 1), 0.7, dtype=torch.float64)
    assert_close(own.log_prob(angle), torch.full((1, 1), -math.log(2 * math.pi), dtype=torch.float64))
    assert_close(own.entropy(), torch.full((1, 1), math.log(2 * math.pi), dtype=torch.float64))
    of_x, of_y = torch.autograd.grad(own.log_prob(angle).sum((0, 1)), (x, y))
    assert_close(torch.stack([of_x, of_y]).flatten(), torch.tensor([math.cos(0.7), math.sin(0.7)], dtype=torch.float64))


def test_switches_are_on_as_often_as_they_should_be() -> None:
    """Binomial tests of 100,000 draws of each; one fails once in a million seeds."""
    logits = torch.tensor([-3.0, 0.0, 0.7, 9.0])
    noise = Bernoulli.draw_noise(Generator().manual_seed(SEED), (1, 100_000), 4, torch.float32)
    counts = Bernoulli(logits.expand(1, 100_000, 4)).sample(noise).sum((0, 1))
    for count, logit in zip(counts.tolist(), logits.tolist(), strict=True):
        assert stats.binomtest(count, 100_000, 1 / (1 + math.exp(-logit))).pvalue > 1e-6


def test_choices_are_drawn_as_often_as_they_should_be_and_independently() -> None:
    """Pearson's χ² over all pairs of choices, 100,000 draws; fails once in a million seeds."""
    logits = torch.tensor([0.3, -1.0, 0.9, 0.0, 1.5])
    noise = MultiCategorical.draw_noise(Generator().manual_seed(SEED), (1, 100_000), 5, torch.float32)
    drawn = MultiCategorical(logits.expand(1, 100_000, 5), (3, 2)).sample(noise)[0]
    counts = torch.bincount(drawn[:, 0] * 2 + drawn[:, 1], minlength=6).double()
    expected = 100_000 * torch.outer(logits[:3].double().softmax(0), logits[3:].double().softmax(0)).flatten()
    assert ((counts - expected).square() / expected).sum().item() < stats.chi2.isf(1e-6, 5)


@pytest.mark.parametrize("logit", [-1e4, -90.0, 0.0, 90.0, 1e4])
def test_switches_with_extreme_logits_stay_finite(logit: float) -> None:
    leaf = torch.full((1, 1, 1), logit).requires_grad_()
    own = Bernoulli(leaf)
    for value in (own.entropy(), own.log_prob(own.mode()), own.kl(Bernoulli(leaf.detach() + 1))):
        assert value.isfinite().all()
        (gradient,) = torch.autograd.grad(value.sum((0, 1)), leaf, retain_graph=True)
        assert gradient.isfinite().all()
    assert own.mode().item() == (logit > 0)
