"""The bioreactor itself: its differential equations against SciPy, its start, its losses, its end, its picture."""

import importlib.util
import math
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from scipy.integrate import solve_ivp
from torch import Generator, Tensor
from type_checks import without_type_checks

from pg_experiments import ConfigError, compose, train
from pg_experiments.envs import bioreactor_model as model
from pg_experiments.envs.bioreactor import Bioreactor, after_half_an_hour

SEED = 23
NAME = "pg_experiments/Bioreactor-v0"
RUNNING = torch.ones(1, 1, dtype=torch.bool)


def exact(biomass: Tensor, substrate: Tensor, dilution: Tensor) -> tuple[Any, Any, Any]:
    """Both concentrations after half an hour, and the mean of the biomass, from the equations as they are printed."""
    count, rate = len(biomass), dilution.numpy()

    def slopes(_: float, y: Any) -> Any:
        x, s, _ = y.reshape(3, count)
        growth = 0.4 * s / (0.1 + s)
        return np.concatenate([(growth - rate - 0.01) * x, rate * (10 - s) - growth * x / 0.5, x])

    first = np.concatenate([biomass.numpy(), substrate.numpy(), np.zeros(count)])
    solution = solve_ivp(slopes, (0, 0.5), first, method="DOP853", rtol=1e-10, atol=1e-12)
    x, s, integral = solution.y[:, -1].reshape(3, count)
    return x, s, integral / 0.5


@pytest.mark.parametrize(
    ("dtype", "most", "tolerance"),
    [(torch.float64, 10.0, 2e-3), (torch.float32, 10.0, 2e-3), (torch.float64, 5.0, 5e-4), (torch.float32, 5.0, 5e-4)],
)
def test_a_step_is_the_solution_of_the_differential_equations(
    dtype: torch.dtype, most: float, tolerance: float
) -> None:
    """From 5,000 states, of the whole range or of that in which it works, half of them hungry: there it is stiff."""
    generator, count = Generator().manual_seed(SEED), 5000
    biomass, substrate, dilution = torch.rand(3, count, generator=generator, dtype=torch.float64)
    biomass, substrate = biomass * most, substrate * model.MAX_SUBSTRATE
    biomass[::3] *= 1e-3
    substrate[::2] *= 0.02
    dilution[::5], dilution[1::5] = 0.0, 1.0
    parts = (biomass.to(dtype)[None], substrate.to(dtype)[None], dilution.to(dtype)[None])
    x, s, mean = (part[0].double().numpy() for part in after_half_an_hour(*parts))
    exact_x, exact_s, exact_mean = exact(biomass, substrate, dilution)
    np.testing.assert_allclose(x, exact_x.clip(0, 10), rtol=0, atol=tolerance)
    np.testing.assert_allclose(s, exact_s.clip(0, 20), rtol=0, atol=tolerance)
    np.testing.assert_allclose(mean, exact_mean, rtol=0, atol=tolerance)


def test_fifty_hours_end_in_the_steady_state_of_the_textbook() -> None:
    """S = K_S (D + k_d) / (μ_max - D - k_d) and X = Y D (S_in - S) / (D + k_d), where growth equals what leaves."""
    dilution = 0.3
    substrate = 0.1 * 0.31 / (0.4 - 0.31)
    biomass = 0.5 * dilution * (10 - substrate) / 0.31
    state: Any = tuple(torch.full((1, 1), value, dtype=torch.float64) for value in (1.0, 2.0, 0.0, -1.0))
    for _ in range(200):
        transition = Bioreactor().step(state, torch.full((1, 1, 1), dilution, dtype=torch.float64), RUNNING)
        state = transition.state
    assert state[0].item() == pytest.approx(biomass, abs=1e-6)
    assert state[1].item() == pytest.approx(substrate, abs=1e-6)
    assert transition.reward.item() == pytest.approx(dilution * biomass, abs=1e-6)


def test_rewards_times_half_an_hour_are_what_flows_out() -> None:
    """Against D X integrated by SciPy over 20 hours with a dilution rate that changes at every step."""
    state: Any = tuple(torch.full((1, 1), value, dtype=torch.float64) for value in (1.0, 2.0, 0.0, -1.0))
    x, s = torch.tensor([1.0], dtype=torch.float64), torch.tensor([2.0], dtype=torch.float64)
    production = expected = 0.0
    for dilution in torch.rand(40, 1, generator=Generator().manual_seed(SEED), dtype=torch.float64) * 0.5:
        transition = Bioreactor().step(state, dilution[None, None], RUNNING)
        state = transition.state
        production += transition.reward.item() * model.STEP_HOURS
        after_x, after_s, mean = exact(x, s, dilution)
        expected += dilution.item() * mean.item() * 0.5
        x, s = torch.from_numpy(after_x), torch.from_numpy(after_s)
    assert production == pytest.approx(expected, abs=1e-3)


def test_starts_fill_their_ranges_and_losses_come_as_often_as_asked_for() -> None:
    """From even noise, so that there is no chance in it."""
    even = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    noise = torch.stack((even, even, even.flip(0), even), -1)[None]
    env = Bioreactor(start_biomass=(0.01, 1.0), start_substrate=(1.0, 3.0), loss_probability=0.3, loss_hours=(10, 20))
    (biomass, substrate, hours, loss_hour), observation = env.reset(noise)
    assert biomass.median(1).values.item() == pytest.approx(0.1, rel=0.01)
    assert (biomass[0, 0].item(), biomass[0, -1].item()) == pytest.approx((0.01, 1.0), rel=0.01)
    assert (substrate[0, 0].item(), substrate[0, -1].item()) == pytest.approx((1.0, 3.0), abs=0.01)
    assert torch.equal(hours, torch.zeros_like(hours))
    assert (loss_hour >= 0).sum(1).item() == 300
    assert ((loss_hour == -1) | ((loss_hour >= 10) & (loss_hour <= 20))).all()
    assert torch.equal(observation[0, :, 2:], torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64).expand(1000, 3))


@pytest.mark.parametrize(("before", "after"), [(4.5, 1.5), (3.05, 0.1), (2.0, 0.1), (0.05, 0.05)])
def test_a_loss_takes_three_grams_but_for_the_last_tenth_and_comes_once(before: float, after: float) -> None:
    """In the step of its hour, after that step's harvest."""
    state: Any = tuple(torch.full((1, 1), value, dtype=torch.float64) for value in (before, 0.0, 9.5, 10.2))
    still = torch.zeros(1, 1, 1, dtype=torch.float64)
    biomass = []
    for _ in range(3):
        transition = Bioreactor().step(state, still, RUNNING)
        state = transition.state
        biomass.append(state[0].item())
        assert not transition.terminated
    starving = math.exp(-model.DEATH * 0.5)
    assert biomass[0] == pytest.approx(before * starving, rel=1e-9)
    lost = min(before * starving**2, max(before * starving**2 - 3.0, 0.1))
    assert biomass[1] == pytest.approx(lost, rel=1e-9)
    assert biomass[1] == pytest.approx(after, rel=0.06)
    assert biomass[2] == pytest.approx(lost * starving, rel=1e-9)


def test_washout_costs_ten_and_terminates() -> None:
    state: Any = tuple(torch.full((1, 2), value, dtype=torch.float64) for value in (0.0012, 0.0, 0.0, -1.0))
    dilution = torch.tensor([0.1, 1.0], dtype=torch.float64)[None, :, None]
    transition = Bioreactor().step(state, dilution, torch.ones(1, 2, dtype=torch.bool))
    assert transition.terminated.tolist() == [[False, True]]
    assert transition.reward[0, 1] == -10
    assert transition.reward[0, 0] > 0


@pytest.mark.parametrize("name", ["start_biomass", "start_substrate", "loss_hours"])
def test_a_range_the_wrong_way_round_is_refused_with_the_right_one(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"env.{name}=\[2.0, 1.0\].*\[1.0, 2.0\]"):
        Bioreactor(**{name: (2.0, 1.0)})


def test_the_twin_passes_the_checker_of_gymnasium() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(gymnasium.make(NAME, render_mode="rgb_array").unwrapped)
    messages = [str(warning.message) for warning in caught]
    assert all("symmetric and normalized" in message for message in messages), messages  # 1/h: as it is for Pendulum


def test_the_twin_starts_where_it_is_told_and_counts_its_production() -> None:
    env = gymnasium.make(NAME, loss_probability=0.0)
    _, info = env.reset(seed=SEED, options={"start": (1.0, 2.0)})
    assert (info["biomass"], info["substrate"], info["production"]) == (1.0, 2.0, 0.0)
    rewards = []
    for _ in range(5):
        _, reward, _, _, info = env.step(np.array([0.3], np.float32))
        rewards.append(float(reward))
    assert info["production"] == pytest.approx(sum(rewards) * 0.5)
    with pytest.raises(ValueError, match=r"must be 0\.001 to 10 g/L of biomass"):
        env.reset(options={"start": (0.0, 2.0)})


def test_a_frame_shows_what_happens() -> None:
    env = gymnasium.make(NAME, render_mode="rgb_array")
    env.reset(seed=SEED)
    frames: list[Any] = [env.render()]
    for _ in range(2):
        env.step(np.array([0.3], np.float32))
        frames.append(env.render())
    assert all(frame.shape == (400, 640, 3) and frame.dtype == np.uint8 for frame in frames)
    assert (frames[0] != frames[1]).any()
    assert (frames[1] != frames[2]).any()
    env.reset(seed=SEED)
    assert np.array_equal(env.render(), frames[0])


@pytest.mark.slow
def test_the_experiment_beats_the_best_constant_rate_from_all_three_starts_with_every_seed() -> None:
    """As `docs/bioreactor.md` says: 4,000 episodes, seeds 0 to 9, the rates searched by `docs/draw_bioreactor.py`."""
    path = Path(__file__).parents[1] / "docs" / "draw_bioreactor.py"
    spec = importlib.util.spec_from_file_location("draw_bioreactor", path)
    assert spec is not None
    assert spec.loader is not None
    study = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(study)
    with without_type_checks():
        results = train(
            [compose("experiment=bioreactor_reinforce", f"seed={seed}", "logging.progress=none") for seed in range(10)]
        )
        cases = [study.cases_of(result.policy) for result in results]
    productions = [[case.productions for case in of_seed] for of_seed in cases]
    assert all(ours > theirs for of_seed in productions for ours, theirs in of_seed), productions
