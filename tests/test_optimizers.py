"""`Learner` against separate instances of torch's own optimizers, one per run."""

import math
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from type_checks import without_type_checks

from pg_experiments import ConfigError, compose, train
from pg_experiments.batch import Batch
from pg_experiments.config import OptimizerConfig
from pg_experiments.envs.interface import BoxActions, DiscreteActions, EnvSpec
from pg_experiments.metrics import mean_kl
from pg_experiments.optimizer_settings import OptimizerSettings
from pg_experiments.optimizers import Learner
from pg_experiments.rollout import Trajectory
from pg_experiments.runs import make, stack
from pg_experiments.schedules import KL_ADAPTIVE, schedule_factor
from pg_experiments.together import Together

SEED = 53
RATES = [0.03, 0.003, 0.01, 0.0005]
RUNS = len(RATES)
SHAPES = {"layer0.weight": (3, 5), "layer0.bias": (5,), "log_std": (2,)}
FITTING: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "Adam": (torch.optim.Adam, {"betas": (0.8, 0.99), "eps": 1e-6}),
    "Adam with weight decay": (torch.optim.Adam, {"weight_decay": 0.1}),
    "Adam amsgrad": (torch.optim.Adam, {"amsgrad": True}),
    "AdamW": (torch.optim.AdamW, {"weight_decay": 0.05}),
    "RMSprop": (torch.optim.RMSprop, {}),
    "RMSprop with momentum": (torch.optim.RMSprop, {"momentum": 0.9}),
    "RMSprop centered": (torch.optim.RMSprop, {"alpha": 0.95, "centered": True, "momentum": 0.5}),
    "SGD": (torch.optim.SGD, {}),
    "SGD with momentum": (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.1, "weight_decay": 0.01}),
    "SGD with Nesterov momentum": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "Adagrad": (torch.optim.Adagrad, {"lr_decay": 0.01, "initial_accumulator_value": 0.1}),
    "NAdam": (torch.optim.NAdam, {}),
    "RAdam": (torch.optim.RAdam, {}),
    "Adamax": (torch.optim.Adamax, {}),
    "Adadelta": (torch.optim.Adadelta, {"rho": 0.95}),
}
REFUSED = [name for name in ("LBFGS", "ASGD", "Rprop", "Adafactor", "Muon", "SparseAdam") if hasattr(torch.optim, name)]
every_optimizer = pytest.mark.parametrize("name", FITTING)


def settings(
    torch_class: type[torch.optim.Optimizer] = torch.optim.SGD,
    arguments: dict[str, Any] | None = None,
    lr: list[float] = RATES,
    schedule: str = "constant",
    limits: list[float] | None = None,
) -> OptimizerSettings:
    return OptimizerSettings(
        torch_class,
        arguments or {},
        torch.tensor(lr, dtype=torch.float64),
        schedule,
        torch.tensor(limits or [math.inf] * len(lr), dtype=torch.float64),
    )


def random_parameters(dtype: torch.dtype = torch.float64, seed: int = SEED, runs: int = RUNS) -> dict[str, Tensor]:
    generator = Generator().manual_seed(seed)
    return {name: torch.randn(runs, *shape, generator=generator, dtype=dtype) for name, shape in SHAPES.items()}


def slope(parameters: dict[str, Tensor], iteration: int) -> dict[str, Tensor]:
    """A gradient that depends on the parameters and on the iteration, element by element."""
    return {name: torch.sin(3 * part + 0.3 * iteration) + 0.2 * part for name, part in parameters.items()}


def alone(
    name: str, run: int, start: dict[str, Tensor], steps: int, factor: Callable[[int], float]
) -> dict[str, Tensor]:
    """The same by torch, for one run."""
    torch_class, arguments = FITTING[name]
    own = {key: part[run].clone() for key, part in start.items()}
    optimizer = torch_class(list(own.values()), lr=RATES[run], **arguments)
    for iteration in range(steps):
        optimizer.param_groups[0]["lr"] = RATES[run] * factor(iteration)
        for key, gradient in slope(own, iteration).items():
            own[key].grad = gradient
        optimizer.step()
    return own


def no_progress(runs: int = RUNS) -> Tensor:
    return torch.zeros(runs, dtype=torch.float64)


@every_optimizer
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-12)], ids=["float32", "float64"]
)
def test_every_run_is_a_torch_optimizer_of_its_own(name: str, dtype: torch.dtype, tolerance: float) -> None:
    start, steps = random_parameters(dtype), 50
    learner = Learner(settings(*FITTING[name]), {key: part.clone() for key, part in start.items()})
    for iteration in range(steps):
        learner.step(slope(learner.parameters, iteration), no_progress())
    for run in range(RUNS):
        for key, expected in alone(name, run, start, steps, lambda iteration: 1.0).items():
            assert (expected - start[key][run]).abs().max() > 1e-6, "nothing was learned"
            torch.testing.assert_close(learner.parameters[key][run], expected, rtol=tolerance, atol=10 * tolerance)


@every_optimizer
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_schedule_changes_the_rate_as_setting_it_in_torch_would(name: str, schedule: str) -> None:
    start, steps = random_parameters(), 20
    learner = Learner(settings(*FITTING[name], schedule=schedule), {key: part.clone() for key, part in start.items()})
    for iteration in range(steps):
        _, rate = learner.step(slope(learner.parameters, iteration), no_progress() + iteration / steps)
        factor = schedule_factor(schedule, iteration / steps)
        torch.testing.assert_close(rate, torch.tensor(RATES, dtype=torch.float64) * factor)
    for run in range(RUNS):
        expected = alone(name, run, start, steps, lambda iteration: schedule_factor(schedule, iteration / steps))
        for key, part in expected.items():
            torch.testing.assert_close(learner.parameters[key][run], part, rtol=1e-12, atol=1e-11)


def test_every_run_has_its_own_progress() -> None:
    learner = Learner(settings(schedule="linear"), random_parameters())
    progress = torch.tensor([0.0, 0.25, 1.0, 7.0], dtype=torch.float64)
    before = {key: part.clone() for key, part in learner.parameters.items()}
    _, rate = learner.step(slope(learner.parameters, 0), progress)
    torch.testing.assert_close(rate, torch.tensor([0.03, 0.003 * 0.75, 0.0, 0.0], dtype=torch.float64))
    for key, part in learner.parameters.items():
        assert torch.equal(part[2:], before[key][2:]), "past the end of the schedule nothing moves"
        assert not torch.equal(part[1], before[key][1])


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        ("constant", [1, 1, 1, 1, 1]),
        ("linear", [1, 0.75, 0.5, 0.25, 0]),
        ("cosine", [1, 0.5 + 0.5 * math.sqrt(0.5), 0.5, 0.5 - 0.5 * math.sqrt(0.5), 0]),
    ],
)
def test_schedule_has_the_values_of_its_formula(schedule: str, values: list[float]) -> None:
    assert [schedule_factor(schedule, quarter / 4) for quarter in range(5)] == pytest.approx(values, abs=1e-15)
    assert schedule_factor(schedule, 1.3) == schedule_factor(schedule, 1.0)  # an iteration may end beyond the budget


def test_every_schedule_of_the_schema_is_tested() -> None:
    allowed = OptimizerConfig.__dataclass_fields__["schedule"].metadata["one_of"]
    assert set(allowed) == {"constant", "linear", "cosine", KL_ADAPTIVE}


# --- the schedule that looks at what a step did -----------------------------------------------------------------------

TARGETS = [0.01, 0.02, 0.01, 1.0]


def adaptive() -> Learner:
    own = replace(settings(schedule=KL_ADAPTIVE), target_kl=torch.tensor(TARGETS, dtype=torch.float64))
    return Learner(own, random_parameters())


def rates_of(learner: Learner) -> list[float]:
    """The learning rates of one more step."""
    return learner.step(slope(learner.parameters, 0), torch.rand(len(learner.steps), dtype=torch.float64))[1].tolist()


def test_kl_adaptive_follows_what_the_last_step_did_run_by_run() -> None:
    """More than twice the target: divided by 1.5. Less than half: multiplied. Else, and when broken: as it was."""
    learner = adaptive()
    assert rates_of(learner) == pytest.approx(RATES, rel=1e-15)
    learner.adapt(torch.tensor([0.0201, 0.0201, 0.0049, math.nan]), torch.ones(RUNS, dtype=torch.bool))
    assert rates_of(learner) == pytest.approx([0.03 / 1.5, 0.003, 0.01 * 1.5, 0.0005], rel=1e-15)
    learner.adapt(torch.tensor([0.0199, 0.0, 0.5, 1.0]), torch.ones(RUNS, dtype=torch.bool))
    assert rates_of(learner) == pytest.approx([0.03 / 1.5, 0.003 * 1.5, 0.01, 0.0005], rel=1e-15)


def test_kl_adaptive_stays_within_a_hundredth_and_a_hundred_times_the_rate() -> None:
    learner = adaptive()
    for _ in range(50):
        learner.adapt(torch.tensor([0.0, 1.0, math.inf, 1.0]), torch.ones(RUNS, dtype=torch.bool))
    assert rates_of(learner) == pytest.approx([3.0, 0.003 / 100, 0.01 / 100, 0.0005])


def test_what_kl_adaptive_has_made_of_the_rate_is_selected_saved_and_loaded() -> None:
    learner = adaptive()
    learner.adapt(torch.tensor([1.0, 0.0, 0.01, 0.0]), torch.ones(RUNS, dtype=torch.bool))
    rates = rates_of(learner)
    assert rates_of(learner.select(torch.tensor([3, 0]))) == [rates[3], rates[0]]
    fresh = adaptive()
    fresh.load(torch.tensor([1, 0]), learner.select(torch.tensor([1, 0])).state())
    assert rates_of(fresh) == [*rates[:2], *RATES[2:]]


@pytest.mark.parametrize("policy", ["softmax", "gaussian", "tabular_softmax"])
def test_the_measured_kl_is_torchs_over_the_samples_of_each_run(policy: str) -> None:
    """Against `torch.distributions`, for runs with different numbers of samples."""
    discrete = policy != "gaussian"
    spec = EnvSpec(3, DiscreteActions(4) if discrete else BoxActions((-1.0,) * 2, (1.0,) * 2), 90, 1, 3)
    config = compose(f"policy={policy}", "env=cartpole")
    made = make("policy", config.policy, stack([config] * 2).numbers, spec=spec)
    generator = Generator().manual_seed(SEED)
    shapes = {name: part.shape for name, part in made.init([Generator(), Generator()], torch.float64).items()}
    before, after = (
        {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
        for _ in range(2)
    )
    length = torch.tensor([[90, 41], [3, 2]])
    running = torch.arange(90)[None, :, None] < length[:, None]
    state = torch.randint(3, running.shape, generator=generator)
    observation = torch.eye(3, dtype=torch.float64)[state]
    none = torch.zeros_like(running)
    reward = torch.zeros(running.shape, dtype=torch.float64)
    found = mean_kl(made, before, after, Trajectory(observation, state, reward, none, none, running))
    for run in range(2):
        seen = observation[run][running[run]][None]
        old, new = (made({name: part[run : run + 1] for name, part in own.items()}, seen) for own in (before, after))
        if discrete:
            pair = [torch.distributions.Categorical(logits=one.logits) for one in (old, new)]
        else:
            pair = [torch.distributions.Normal(one.mean, one.log_std.exp()) for one in (old, new)]
        each = torch.distributions.kl_divergence(*pair)
        expected = (each if discrete else each.sum(-1)).mean()
        torch.testing.assert_close(found[run], expected, rtol=1e-10, atol=1e-12)


def test_a_run_with_kl_adaptive_comes_to_steps_of_the_size_that_is_wanted() -> None:
    """From a rate that is far too small: behind the tenth iteration the median step is within the factor of two."""
    overrides = ("policy=softmax", "env=cartpole", "optimizer.schedule=kl_adaptive", "logging.progress=none")
    batch = Batch([compose(*overrides, "optimizer.lr=5e-4", f"optimizer.target_kl={kl}") for kl in (0.003, 0.02)])
    found: dict[int, list[float]] = {0: [], 1: []}
    with without_type_checks():
        while min(batch.iterations) < 40:
            runs, iteration = batch.iterate()
            for run, kl in zip(runs, iteration.metrics["policy/kl"].tolist(), strict=True):
                found[run].append(kl)
    for run, target in enumerate((0.003, 0.02)):
        assert found[run][0] < target / 2
        assert target / 2 <= statistics.median(found[run][10:]) <= 2 * target


def test_only_the_optimizer_of_the_policy_can_be_kl_adaptive() -> None:
    config = compose("baseline.optimizer.schedule=kl_adaptive", "logging.progress=none")
    with pytest.raises(
        ConfigError, match=r"baseline\.optimizer\.schedule=kl_adaptive: must be constant, linear or cosine"
    ):
        train([config])


# --- the limit of the gradient norm -----------------------------------------------------------------------------------


def step_of(gradients: dict[str, Tensor], limits: list[float]) -> tuple[Tensor, Tensor]:
    """What one SGD step with rate 1 subtracts, as vectors [runs, numbers], and the norms that it reports."""
    runs = len(limits)
    learner = Learner(
        settings(lr=[1.0] * runs, limits=limits), {key: torch.zeros_like(part) for key, part in gradients.items()}
    )
    norm, _ = learner.step(gradients, no_progress(runs))
    return -torch.cat([part.flatten(1) for part in learner.parameters.values()], 1), norm


def test_gradient_norm_is_limited_for_each_run_alone() -> None:
    """Long gradients get the length of the limit and keep their direction; short ones and unlimited ones stay."""
    gradients = random_parameters(runs=5)
    limits = [0.5, 1e9, math.inf, 1e-3, 2.0]
    applied, norm = step_of(gradients, limits)
    flat = torch.cat([part.flatten(1) for part in gradients.values()], 1)
    torch.testing.assert_close(norm, flat.norm(dim=1), rtol=1e-14, atol=0)
    for run, limit in enumerate(limits):
        if norm[run] > limit:
            assert applied[run].norm().item() == pytest.approx(limit, rel=1e-12)
            torch.testing.assert_close(applied[run] / limit, flat[run] / norm[run], rtol=1e-12, atol=0)
        else:
            assert torch.equal(applied[run], flat[run])


def test_gradient_norm_limit_equals_that_of_torch() -> None:
    gradients = random_parameters()
    applied, _ = step_of(gradients, [0.7] * RUNS)
    for run in range(RUNS):
        own = [torch.zeros_like(part[run]).requires_grad_() for part in gradients.values()]
        for leaf, part in zip(own, gradients.values(), strict=True):
            leaf.grad = part[run].clone()
        torch.nn.utils.clip_grad_norm_(own, 0.7)
        expected = torch.cat([leaf.grad.flatten() for leaf in own if leaf.grad is not None])
        torch.testing.assert_close(applied[run], expected, rtol=1e-5, atol=1e-6)  # torch adds 1e-6 to the norm


@pytest.mark.parametrize("spoiled", [0.0, 1e30, math.inf, math.nan])
def test_a_quiet_run_does_not_notice_the_gradient_of_a_loud_one(spoiled: float) -> None:
    gradients = random_parameters(torch.float32)
    limits = [0.5, 0.5, math.inf, 3.0]
    expected, expected_norm = step_of({key: part.clone() for key, part in gradients.items()}, limits)
    for part in gradients.values():
        part[1] = spoiled
    applied, norm = step_of(gradients, limits)
    others = [0, 2, 3]
    assert torch.equal(applied[others], expected[others])
    assert torch.equal(norm[others], expected_norm[others])
    if spoiled == 0:
        assert not applied[1].any()


def test_no_limit_in_the_config_is_an_infinite_one() -> None:
    overrides = ("policy=softmax", "env=cartpole", "baseline=none", "total_env_steps=9", "env.num_envs=2")
    base = (*overrides, "evaluation.episodes=1", "logging.progress=none")
    unlimited, wide, narrow = train(
        [compose(*base, f"optimizer.max_gradient_norm={limit}") for limit in ("null", "1e30", "1e-9")]
    )
    assert unlimited.parameters_sha256 == wide.parameters_sha256 != narrow.parameters_sha256


# --- runs that leave --------------------------------------------------------------------------------------------------


@every_optimizer
@pytest.mark.parametrize("steps_before", [0, 1, 9])
def test_runs_that_stay_keep_their_state(name: str, steps_before: int) -> None:
    """Also when one run, whose number of rows is 1 like that of many a counter, is left."""
    start = random_parameters(torch.float32)
    kept, whole = (
        Learner(
            settings(*FITTING[name], schedule="linear", limits=[0.9, math.inf, 5.0, 2.0]),
            {key: part.clone() for key, part in start.items()},
        )
        for _ in range(2)
    )
    rows, progress = torch.arange(RUNS), torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    for stage, leaving in enumerate(([], [1, 2, 3], [0, 2], [0])):
        if leaving:
            kept = kept.select(torch.tensor(leaving))
            rows = rows[leaving]
        for iteration in range(steps_before if stage == 0 else 4):
            kept.step(slope(kept.parameters, 5 * stage + iteration), progress[rows])
            whole.step(slope(whole.parameters, 5 * stage + iteration), progress)
        for key, part in whole.parameters.items():
            assert torch.equal(kept.parameters[key], part[rows]), (stage, key)
    assert rows.tolist() == [1]


@pytest.mark.parametrize(
    "take", [lambda learner: learner.select(torch.tensor([2, 0])), Learner.copy], ids=["select", "copy"]
)
def test_selecting_and_copying_leave_the_old_learner_as_it_was(take: Callable[[Learner], Learner]) -> None:
    learner = Learner(settings(torch.optim.Adam), random_parameters())
    learner.step(slope(learner.parameters, 0), no_progress())
    before = learner.state(torch.arange(len(learner.steps)))
    chosen = take(learner)
    chosen.step(slope(chosen.parameters, 1), no_progress(len(chosen.steps)))
    after = learner.state()
    for key, part in before["parameters"].items():
        assert torch.equal(after["parameters"][key], part)
    for kind in ("elements", "numbers"):
        assert before[kind]
        for key, value in before[kind].items():
            assert torch.equal(after[kind][key], value), key
    assert torch.equal(after["steps"], before["steps"])


@every_optimizer
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_copy_is_the_selection_of_all_runs(name: str, accumulate: int) -> None:
    """With all that it has gathered and keeps, before a step and when both have gone on."""
    learner = Learner(replace(settings(*FITTING[name]), accumulate=accumulate), random_parameters())
    for iteration in range(3):
        learner.step(slope(learner.parameters, iteration), no_progress())
    both = [learner.copy(), learner.select(torch.arange(RUNS))]
    for iteration in range(3):
        torch.testing.assert_close(both[0].state(), both[1].state(), rtol=0, atol=0)
        for each in both:
            each.step(slope(each.parameters, iteration), no_progress())


def test_the_state_of_rows_is_a_copy() -> None:
    learner = Learner(settings(torch.optim.Adam), random_parameters())
    before = learner.state(torch.arange(len(learner.steps)))
    first = {key: part.clone() for key, part in before["parameters"].items()}
    learner.step(slope(learner.parameters, 0), no_progress())
    assert all(torch.equal(before["parameters"][key], part) for key, part in first.items())


# --- two learners together --------------------------------------------------------------------------------------------


@every_optimizer
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_learners_together_take_the_steps_of_each_alone(name: str, dtype: torch.dtype) -> None:
    """Of other sizes, rates, schedules and limits; in two iterations, and with steps alone between them."""
    wide = {"weight": torch.randn(RUNS, 30, 7, generator=Generator().manual_seed(3), dtype=dtype)}
    kinds = (settings(*FITTING[name], schedule="linear"), settings(*FITTING[name], lr=RATES[::-1], limits=[0.5] * RUNS))

    def learners() -> list[Learner]:
        starts = (random_parameters(dtype), wide)
        return [
            Learner(kind, {key: part.clone() for key, part in start.items()})
            for kind, start in zip(kinds, starts, strict=True)
        ]

    alone, both = learners(), learners()
    everyone = torch.arange(RUNS)
    for iteration in range(3):
        progress = no_progress() + iteration / 4
        alone, both = ([each.select(everyone) for each in own] for own in (alone, both))
        together = Together(*both, masked=iteration == 1)
        assert together.as_one == (iteration != 1)
        for step in range(4):
            expected = [each.step(slope(each.parameters, step), progress) for each in alone]
            gradients = [slope(each.parameters, step) for each in both]
            found = together.step(gradients, progress)
            for mine, its in zip(found, expected, strict=True):
                assert torch.equal(mine[0], its[0])
                assert torch.equal(mine[1], its[1])
        together.end()
        for mine, its in zip(both, alone, strict=True):
            torch.testing.assert_close(mine.state(), its.state(), rtol=0, atol=0)


def test_two_learners_do_not_fit_together_when_their_optimizers_or_steps_differ() -> None:
    def learner(**changes: Any) -> Learner:
        return Learner(replace(settings(torch.optim.Adam, {"eps": 1e-6}), **changes), random_parameters())

    class Own(Learner):
        pass

    first = learner()
    assert Together.fit(first, learner(lr=torch.ones(RUNS, dtype=torch.float64), schedule="cosine"))
    assert not Together.fit(first, learner(torch_class=torch.optim.AdamW))
    assert not Together.fit(first, learner(arguments={"eps": 1e-8}))
    assert not Together.fit(first, learner(accumulate=2))
    assert not Together.fit(first, Own(first.settings, random_parameters()))
    later = learner()
    later.step(slope(later.parameters, 0), no_progress())
    assert not Together.fit(first, later)


# --- optimizers that cannot be shared ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REFUSED)
def test_an_optimizer_that_would_mix_runs_is_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^optimizer\._target_=torch\.optim\.\S*{name}: ") as caught:
        settings(getattr(torch.optim, name)).check("optimizer")
    assert caught.value.key == "optimizer._target_"


class CountsByItself(torch.optim.SGD):
    """Takes smaller steps from the fourth on, and counts them in a number that is no tensor."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for parameter in self.param_groups[0]["params"]:
            count = self.state[parameter].get("count", 0) + 1
            self.state[parameter]["count"] = count
            parameter.sub_(parameter.grad, alpha=self.param_groups[0]["lr"] * (1 if count < 4 else 0.5))


def test_an_optimizer_is_refused_whose_memory_would_be_lost_between_iterations() -> None:
    with pytest.raises(ConfigError, match="keeps count as int, and only tensors are kept"):
        settings(CountsByItself).check("optimizer")


def test_training_refuses_an_optimizer_that_would_mix_runs() -> None:
    config = compose("optimizer=torch", "optimizer._target_=torch.optim.LBFGS", "logging.progress=none")
    with pytest.raises(ConfigError, match="LBFGS"):
        train([config])


@every_optimizer
def test_an_optimizer_that_fits_is_accepted(name: str) -> None:
    settings(*FITTING[name]).check("optimizer")


def test_an_optimizer_is_tried_once_and_again_with_other_arguments() -> None:
    tries: list[float] = []

    class Watched(torch.optim.SGD):
        def __init__(self, parameters: Any, lr: float, weight_decay: float = 0.0) -> None:
            tries.append(weight_decay)
            super().__init__(parameters, lr=lr, weight_decay=weight_decay)

    for weight_decay in (0.0, 0.0, 0.1, 0.0):
        settings(Watched, {"weight_decay": weight_decay}).check("optimizer")
    assert tries == [0.0] * 3 + [0.1] * 3


def test_every_optimizer_of_torch_is_either_shared_or_refused() -> None:
    known = {torch_class.__name__ for torch_class, _ in FITTING.values()} | set(REFUSED)
    ours = {
        name
        for name, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer
    }
    assert ours == known


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_a_fixed_std_stays_as_it_is_under_any_weight_decay(optimizer: str) -> None:
    decay = () if optimizer == "adam" else ("optimizer.weight_decay=0.5",)
    sizes = ("env.num_envs=4", "total_env_steps=3000", "evaluation.episodes=2", "logging.progress=none")
    config = compose(
        "policy=gaussian", "policy.fixed_std=true", "policy.initial_std=0.3", f"optimizer={optimizer}", *decay, *sizes
    )
    (result,) = train([config])
    (log_std,) = (value for name, value in result.policy.named_buffers() if name == "fixed_log_std")
    assert log_std.item() == pytest.approx(math.log(0.3), abs=1e-7)


# --- several gradients for one step -----------------------------------------------------------------------------------


@every_optimizer
def test_a_step_with_accumulated_gradients_is_that_along_their_mean(name: str) -> None:
    """Runs that have begun at different times, and one that takes no part for a while, each with its own count."""
    start, gathering = random_parameters(), 3
    learner = Learner(replace(settings(*FITTING[name]), accumulate=gathering), {k: p.clone() for k, p in start.items()})
    plain = Learner(settings(*FITTING[name]), {key: part.clone() for key, part in start.items()})
    waiting: list[list[dict[str, Tensor]]] = [[] for _ in range(RUNS)]
    for iteration in range(11):
        going = torch.tensor([iteration >= run or iteration % 2 == 0 for run in range(RUNS)])
        gradients = slope(random_parameters(seed=iteration), iteration)
        before = {key: part.clone() for key, part in learner.parameters.items()}
        learner.step(gradients, no_progress(), going)
        for run in going.nonzero()[:, 0].tolist():
            waiting[run].append({key: part[run] for key, part in gradients.items()})
        due = torch.tensor([len(own) == gathering for own in waiting])
        means = {
            key: torch.stack([torch.stack([one[key] for one in own]).mean(0) if own else part[0] for own in waiting])
            for key, part in gradients.items()
        }
        plain.step(means, no_progress(), due)
        for run in range(RUNS):
            for key, part in learner.parameters.items():
                torch.testing.assert_close(part[run], plain.parameters[key][run], rtol=1e-12, atol=1e-14)
                assert due[run] or torch.equal(part[run], before[key][run])
            if due[run]:
                waiting[run].clear()
        assert learner.steps == plain.steps
        again = Learner(learner.settings, {key: torch.zeros_like(part) for key, part in start.items()})
        again.load(torch.arange(RUNS), learner.state())
        learner = again  # as after an interruption in the middle of a step


def test_the_rate_is_adapted_only_after_a_step() -> None:
    own = replace(settings(schedule=KL_ADAPTIVE), target_kl=torch.tensor([0.01] * RUNS, dtype=torch.float64))
    learner = Learner(own, random_parameters())
    learner.adapt(torch.zeros(RUNS), torch.tensor([True] + [False] * (RUNS - 1)))
    assert learner.factor.tolist() == [1.5] + [1.0] * (RUNS - 1)
