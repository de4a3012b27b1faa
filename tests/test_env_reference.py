"""Every native environment against a Gymnasium environment of the same task, and against itself alone."""

import importlib
import math
import pkgutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from torch import Generator, Tensor

import pg_experiments.envs
from pg_experiments.envs import navigation_field as field
from pg_experiments.envs.acrobot import Acrobot
from pg_experiments.envs.bioreactor import Bioreactor
from pg_experiments.envs.cartpole import CartPole
from pg_experiments.envs.interface import DiscreteActions, Transition
from pg_experiments.envs.mountain_car import MountainCar, MountainCarContinuous
from pg_experiments.envs.navigation import Navigation, NavigationDiscrete
from pg_experiments.envs.pendulum import Pendulum
from pg_experiments.envs.registration import register
from pg_experiments.envs.tabular import CliffWalking, FrozenLake

register()

SEED = 20
NAVIGATION_IDS = ("pg_experiments/Navigation-v0", "pg_experiments/NavigationDiscrete-v0")


def uniform(generator: Generator, shape: tuple[int, ...], low: list[float], high: list[float]) -> Tensor:
    """Uniform numbers [*shape, len(low)] between low and high, float64."""
    noise = torch.rand((*shape, len(low)), generator=generator, dtype=torch.float64)
    return torch.tensor(low, dtype=torch.float64).lerp(torch.tensor(high, dtype=torch.float64), noise)


def positions(generator: Generator, shape: tuple[int, ...]) -> Tensor:
    """Positions over the whole rectangle, a third of them near the target."""
    anywhere = uniform(generator, shape, [0, 0], [field.WIDTH, field.HEIGHT])
    corner = [field.WIDTH - 0.1, field.HEIGHT - 0.1]
    near_target = uniform(generator, shape, corner, [field.WIDTH, field.HEIGHT])
    return torch.where(torch.rand((*shape, 1), generator=generator) < 1 / 3, near_target, anywhere)


def cultures(generator: Generator, shape: tuple[int, ...]) -> Tensor:
    """Bioreactors of any biomass on a logarithmic scale, a third of them hungry, a third about to lose biomass."""
    logarithm, fed, hungry, hours, loss_hour = uniform(
        generator, shape, [math.log(1.2e-3), 0, 0, 0, -1], [math.log(10), 20, 0.3, 50, 1.5]
    ).unbind(-1)
    substrate = torch.where(torch.rand(shape, generator=generator) < 1 / 3, hungry, fed)
    return torch.stack((logarithm.exp(), substrate, hours, hours + loss_hour), -1)


def held(generator: Generator, shape: tuple[int, ...]) -> Tensor:
    """Actions 0 and 2 at random, each for five steps: enough for some to swing an acrobot up."""
    steps, *copies = shape
    kept = torch.randint(0, 2, (steps // 5 + 1, *copies), generator=generator).repeat_interleave(5, 0)
    return kept[:steps] * 2


def swinging(generator: Generator, shape: tuple[int, ...]) -> Tensor:
    """Actions 0 and 2, each for 42 steps: they drive a mountain car out of its valley."""
    steps, *copies = shape
    begin = torch.randint(0, 20, (1, *copies), generator=generator)
    return (torch.arange(steps).reshape(-1, *[1] * len(copies)) + begin) // 42 % 2 * 2


@dataclass(frozen=True)
class Reference:
    """A native environment and the Gymnasium environment that it must equal.

    Attributes:
        states: draws states [*shape, state] that also lie beyond the thresholds where an episode ends.
        actions: draws actions [*shape] or [*shape, action], for continuous ones also out of bounds.
        episode_actions: the same for whole episodes, so that some come to their end.
        terminates: whether episodes can.
        rounds_state: whether the Gymnasium environment keeps its state as float32 from step to step.
        tolerances: absolute, of the state after a step in float64 and in float32; an acrobot at full speed makes
            errors some hundred times as large in one step.
    """

    native: Any
    gymnasium_id: str
    states: Callable[[Generator, tuple[int, ...]], Tensor]
    actions: Callable[[Generator, tuple[int, ...]], Tensor]
    episode_actions: Callable[[Generator, tuple[int, ...]], Tensor]
    terminates: bool = True
    rounds_state: bool = False
    tolerances: tuple[float, float] = (1e-12, 1e-6)


REFERENCES = [
    Reference(
        CartPole(),
        "CartPole-v1",
        lambda g, shape: uniform(g, shape, [-3, -4, -0.3, -4], [3, 4, 0.3, 4]),
        lambda g, shape: torch.randint(0, 2, shape, generator=g),
        lambda g, shape: torch.randint(0, 2, shape, generator=g),
    ),
    Reference(
        Pendulum(),
        "Pendulum-v1",
        lambda g, shape: uniform(g, shape, [-20, -8], [20, 8]),
        lambda g, shape: uniform(g, shape, [-5], [5]),
        lambda g, shape: uniform(g, shape, [-3], [3]),
        terminates=False,
    ),
    Reference(
        Acrobot(),
        "Acrobot-v1",
        lambda g, shape: uniform(g, shape, [-3.1, -3.1, -12.5, -28], [3.1, 3.1, 12.5, 28]),
        lambda g, shape: torch.randint(0, 3, shape, generator=g),
        held,
        tolerances=(1e-11, 5e-4),
    ),
    Reference(
        MountainCar(),
        "MountainCar-v0",
        lambda g, shape: uniform(g, shape, [-1.2, -0.07], [0.6, 0.07]),
        lambda g, shape: torch.randint(0, 3, shape, generator=g),
        swinging,
    ),
    Reference(
        MountainCarContinuous(),
        "MountainCarContinuous-v0",
        lambda g, shape: uniform(g, shape, [-1.2, -0.07], [0.6, 0.07]),
        lambda g, shape: uniform(g, shape, [-2], [2]),
        lambda g, shape: (swinging(g, shape)[..., None] - 1) * 1.2,
        rounds_state=True,
    ),
    Reference(
        Bioreactor(),
        "pg_experiments/Bioreactor-v0",
        cultures,
        lambda g, shape: uniform(g, shape, [-0.3], [1.3]),
        lambda g, shape: uniform(g, shape, [0.2], [1.2]),
        tolerances=(1e-11, 1e-4),
    ),
    Reference(
        Navigation(),
        NAVIGATION_IDS[0],
        positions,
        lambda g, shape: uniform(g, shape, [-4, -0.1], [4, 0.3]),
        lambda g, shape: uniform(g, shape, [-0.5, 0.0], [2.0, 0.2]),
    ),
    Reference(
        NavigationDiscrete(),
        NAVIGATION_IDS[1],
        positions,
        lambda g, shape: torch.randint(0, 5, shape, generator=g),
        lambda g, shape: torch.randint(0, 5, shape, generator=g) % 4 % 3,  # half up, a quarter down, a quarter right
    ),
]
every_env = pytest.mark.parametrize("reference", REFERENCES, ids=lambda r: type(r.native).__name__)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


class PreparedNoise:
    """Stands in for an environment's random generator: its uniform numbers are handed in."""

    def __init__(self, noise: Tensor) -> None:
        self.noise = noise.numpy()

    def uniform(self, low: Any, high: Any, size: Any = None) -> Any:
        noise = self.noise if size is not None or np.ndim(low) else self.noise.item()
        return low + (high - low) * noise


def gymnasium_step(env: Any, state: Tensor, action: Tensor) -> tuple[Any, Any, float, bool]:
    """One step of a Gymnasium environment from a given state: next state, observation, reward, terminated."""
    env.unwrapped.state = state.to(torch.float64).numpy().copy()
    env.unwrapped.steps_beyond_terminated = None  # CartPole's memory of an earlier end
    env_action = action.item() if action.dtype == torch.int64 else action.to(torch.float64).numpy()
    observation, reward, terminated, truncated, _ = env.unwrapped.step(env_action)
    assert not truncated
    return env.unwrapped.state, observation, float(reward), terminated


def native_step(reference: Reference, state: Tensor, action: Tensor) -> Transition:
    """One step of all copies from states [runs, envs, state]."""
    running = torch.ones(state.shape[:2], dtype=torch.bool)
    transition: Transition = reference.native.step(state.unbind(-1), action, running)
    return transition


def reference_steps(reference: Reference, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The Gymnasium environment's answer for every copy, in the shapes of the native one; float64."""
    env = gymnasium.make(reference.gymnasium_id)
    env.reset(seed=0)
    answers = [
        [gymnasium_step(env, *one) for one in zip(run_state, run_action, strict=True)]
        for run_state, run_action in zip(state, action, strict=True)
    ]
    return tuple(  # type: ignore[return-value]
        torch.tensor(np.array([[answer[part] for answer in run] for run in answers])) for part in range(4)
    )


@every_env
def test_step_equals_gymnasium_in_float64(reference: Reference) -> None:
    generator = torch.Generator().manual_seed(SEED)
    state, action = reference.states(generator, (3, 1001)), reference.actions(generator, (3, 1001))
    transition = native_step(reference, state, action)
    next_state, observation, reward, terminated = reference_steps(reference, state, action)

    own_state = torch.stack(transition.state, -1)
    own_state = own_state.float() if reference.rounds_state else own_state
    torch.testing.assert_close(own_state, next_state, rtol=0, atol=reference.tolerances[0])
    torch.testing.assert_close(transition.reward, reward, rtol=0, atol=1e-12)
    assert torch.equal(transition.terminated, terminated)
    assert not transition.truncated.any()
    assert terminated.any() == reference.terminates
    assert not terminated.all()
    # Gymnasium rounds its observation to float32, and so do we here.
    torch.testing.assert_close(transition.observation.float(), observation.float(), rtol=2e-7, atol=1e-9)


@every_env
def test_step_equals_gymnasium_in_float32_up_to_rounding(reference: Reference) -> None:
    generator = torch.Generator().manual_seed(SEED)
    state, action = reference.states(generator, (2, 1003)).float(), reference.actions(generator, (2, 1003))
    action = action.float() if action.is_floating_point() else action
    transition = native_step(reference, state, action)
    next_state, observation, reward, terminated = reference_steps(reference, state, action)

    assert transition.reward.dtype == transition.observation.dtype == torch.float32
    tolerance = reference.tolerances[1]
    torch.testing.assert_close(torch.stack(transition.state, -1), next_state.float(), rtol=1e-5, atol=tolerance)
    torch.testing.assert_close(transition.observation, observation.float(), rtol=1e-5, atol=max(3e-6, tolerance))
    torch.testing.assert_close(transition.reward, reward.float(), rtol=1e-5, atol=3e-6)
    assert torch.equal(transition.terminated, terminated)


@every_env
def test_whole_episodes_equal_gymnasium(reference: Reference) -> None:
    """The same start and the same actions until the end, which the time limit brings at the same step."""
    episodes, limit = 4, reference.native.max_episode_steps
    generator = torch.Generator().manual_seed(SEED)
    noise = torch.rand(1, episodes, reference.native.spec.reset_noise_size, generator=generator, dtype=torch.float64)
    actions = reference.episode_actions(generator, (limit, 1, episodes))
    state, observation = reference.native.reset(noise)
    running = torch.ones(1, episodes, dtype=torch.bool)
    twins = [gymnasium.make(reference.gymnasium_id) for _ in range(episodes)]
    for twin, one, twin_noise in zip(twins, observation[0], noise[0], strict=True):
        twin.reset(seed=0)
        twin.unwrapped.np_random = PreparedNoise(twin_noise)  # type: ignore[assignment]
        np.testing.assert_allclose(twin.reset()[0], one, rtol=2e-7, atol=1e-8)

    for step, action in enumerate(actions, start=1):
        transition = reference.native.step(state, action, running)
        state = transition.state
        for copy in running[0].nonzero()[:, 0].tolist():
            twin_action = action[0, copy].numpy() if action.is_floating_point() else action[0, copy].item()
            observed, reward, terminated, truncated, _ = twins[copy].step(twin_action)
            np.testing.assert_allclose(observed, transition.observation[0, copy], rtol=1e-5, atol=1e-7)
            assert reward == pytest.approx(transition.reward[0, copy].item(), rel=1e-6, abs=1e-9)
            assert terminated == transition.terminated[0, copy].item()
            assert truncated == (step == limit)
        running = running & ~transition.terminated
        if not running.any():
            break
    assert not reference.terminates or not running.all()


@every_env
def test_time_limit_is_the_registered_one(reference: Reference) -> None:
    limit = gymnasium.spec(reference.gymnasium_id).max_episode_steps
    assert reference.native.max_episode_steps == reference.native.spec.max_episode_steps == limit
    assert type(reference.native)(max_episode_steps=17).spec.max_episode_steps == 17


@every_env
def test_spaces_are_those_of_gymnasium(reference: Reference) -> None:
    env, spec = gymnasium.make(reference.gymnasium_id), reference.native.spec
    assert env.observation_space.shape == (spec.observation_size,)
    if isinstance(spec.actions, DiscreteActions):
        assert isinstance(env.action_space, gymnasium.spaces.Discrete)
        assert env.action_space.n == spec.actions.count
    else:
        assert isinstance(env.action_space, gymnasium.spaces.Box)
        np.testing.assert_allclose(env.action_space.low, spec.actions.low, rtol=1e-7)
        np.testing.assert_allclose(env.action_space.high, spec.actions.high, rtol=1e-7)


@every_env
def test_reset_from_the_same_noise_equals_gymnasium(reference: Reference) -> None:
    """Noise 0 and noise 1 are the bounds of the start, so both draw from the same distribution."""
    size = reference.native.spec.reset_noise_size
    noise = torch.rand(3, 11, size, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)
    noise[0, 0], noise[1, 1] = 0.0, 1.0
    state, observation = reference.native.reset(noise)
    env = gymnasium.make(reference.gymnasium_id)
    env.reset(seed=0)
    for run in range(3):
        for copy in range(11):
            env.unwrapped.np_random = PreparedNoise(noise[run, copy])  # type: ignore[assignment]
            twin_observation, _ = env.reset()
            np.testing.assert_allclose(twin_observation, observation[run, copy], rtol=2e-7, atol=1e-8)
            own = torch.stack(state, -1)[run, copy]
            np.testing.assert_allclose(env.unwrapped.state, own, rtol=0, atol=1e-12)  # type: ignore[attr-defined]


def play(native: Any, noise: Tensor, actions: Tensor) -> list[Tensor]:
    """Reset and act through all steps, also where an episode is over: everything that came out.

    Args:
        noise: [runs, envs, noise].
        actions: [steps, runs, envs] or [steps, runs, envs, action].
    """
    state, observation = native.reset(noise)
    running = torch.ones(noise.shape[:2], dtype=torch.bool)
    outcome = [*state, observation]
    for action in actions:
        transition = native.step(state, action, running)
        state = transition.state
        running = running & ~transition.terminated
        outcome += [
            *state,
            transition.observation,
            transition.reward,
            transition.terminated,
            transition.truncated,
        ]
    return outcome


def prepared_game(reference: Reference, runs: int, envs: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(SEED)
    noise = torch.rand(runs, envs, reference.native.spec.reset_noise_size, generator=generator, dtype=dtype)
    actions = reference.episode_actions(generator, (41, runs, envs))
    return noise, actions.to(dtype) if actions.is_floating_point() else actions


@every_env
@every_dtype
@pytest.mark.parametrize(("runs", "envs"), [(2, 7), (3, 5)])
def test_copy_is_not_changed_by_its_neighbours(reference: Reference, dtype: torch.dtype, runs: int, envs: int) -> None:
    noise, actions = prepared_game(reference, runs, envs, dtype)
    together = play(reference.native, noise, actions)
    for run in range(runs):
        alone = play(reference.native, noise[[run]], actions[:, [run]])
        assert all(torch.equal(one[0], all_runs[run]) for one, all_runs in zip(alone, together, strict=True))
        for copy in range(envs):
            single = play(reference.native, noise[[run]][:, [copy]], actions[:, [run]][:, :, [copy]])
            assert all(torch.equal(one[0, 0], every[run, copy]) for one, every in zip(single, together, strict=True))


@every_env
@every_dtype
def test_finished_copy_disturbs_nobody(reference: Reference, dtype: torch.dtype) -> None:
    """Whatever becomes of the state of a copy whose episode is over, the others step as before."""
    generator = torch.Generator().manual_seed(SEED)
    state, action = reference.states(generator, (3, 7)).to(dtype), reference.actions(generator, (3, 7))
    action = action.to(dtype) if action.is_floating_point() else action
    running = torch.rand(3, 7, generator=generator) < 0.6
    expected = native_step(reference, state, action)
    for nonsense in (math.nan, math.inf, -1e30):
        spoiled = torch.where(running[..., None], state, nonsense)
        transition = reference.native.step(spoiled.unbind(-1), action, running)
        for part, expected_part in zip(
            (*transition.state, *transition[1:]), (*expected.state, *expected[1:]), strict=True
        ):
            assert torch.equal(part[running], expected_part[running])


@every_env
def test_select_keeps_the_rows_in_the_given_order(reference: Reference) -> None:
    state = reference.states(torch.Generator().manual_seed(SEED), (5, 3)).unbind(-1)
    kept = reference.native.select(state, torch.tensor([3, 0]))
    assert len(kept) == len(state)
    assert all(torch.equal(part[[3, 0]], kept_part) for part, kept_part in zip(state, kept, strict=True))


@every_dtype
@pytest.mark.parametrize(("variable", "limit"), [(0, 2.4), (2, 12 * 2 * math.pi / 360)])
def test_cartpole_terminates_beyond_its_limits_and_not_at_them(dtype: torch.dtype, variable: int, limit: float) -> None:
    """To the last bit, on both sides; nothing moves, so the state after the step is the one before it."""
    at = torch.tensor(limit, dtype=dtype)
    beyond, within = torch.nextafter(at, at + 1), torch.nextafter(at, at - 1)
    places = torch.stack((at, beyond, within, -at, -beyond, -within))[None]
    state = [torch.zeros_like(places) for _ in range(4)]
    state[variable] = places
    after = CartPole().step(tuple(state), torch.zeros(1, 6, dtype=torch.long), torch.ones(1, 6, dtype=torch.bool))
    assert torch.equal(after.state[variable], places)
    assert after.terminated.tolist() == [[False, True, False, False, True, False]]


def test_every_native_environment_has_a_reference() -> None:
    """A new environment in `pg_experiments/envs` must join `REFERENCES`; adapters and what is drawn need not.

    Finite ones, whose state is another, have `test_tabular_envs.py`.
    """
    adapters = ("gymnasium", "envpool")
    native = set()
    for module_info in pkgutil.iter_modules(pg_experiments.envs.__path__):
        if module_info.name.startswith(adapters) or module_info.name.endswith("_twin"):
            continue
        module = importlib.import_module(f"pg_experiments.envs.{module_info.name}")
        for value in vars(module).values():
            is_own_class = isinstance(value, type) and value.__module__ == module.__name__
            if is_own_class and is_dataclass(value) and all(hasattr(value, name) for name in ("reset", "step", "spec")):
                native.add(value)
    assert native >= {CartPole, Pendulum, Acrobot, MountainCar, MountainCarContinuous, Navigation, NavigationDiscrete}
    assert Bioreactor in native
    assert native == {type(reference.native) for reference in REFERENCES} | {FrozenLake, CliffWalking}


# --- the navigation task itself -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "advice"),
    # Radians and metres are not scaled to [-1, 1]: Gymnasium's own Pendulum gets this advice, too.
    [(NAVIGATION_IDS[0], ["symmetric and normalized"]), (NAVIGATION_IDS[1], [])],
    ids=["continuous", "discrete"],
)
def test_navigation_passes_the_checker_of_gymnasium(name: str, advice: list[str]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(gymnasium.make(name, render_mode="rgb_array").unwrapped)
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == len(advice), messages
    assert all(part in message for part, message in zip(advice, messages, strict=True))


def test_registering_twice_is_quiet_and_changes_nothing() -> None:
    before = {name: gymnasium.spec(name) for name in NAVIGATION_IDS}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register()
    assert {name: gymnasium.spec(name) for name in NAVIGATION_IDS} == before


def test_registration_loads_neither_torch_nor_matplotlib() -> None:
    program = """if True:
        import sys, gymnasium, pg_experiments
        before = set(sys.modules)
        from pg_experiments.envs.registration import register
        register()
        gymnasium.make("pg_experiments/Navigation-v0").reset(seed=0)
        print(sorted({"torch", "matplotlib"} & (set(sys.modules) - before)))
    """
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"


@pytest.mark.parametrize("name", NAVIGATION_IDS)
def test_navigation_frame_shows_the_agent_move(name: str) -> None:
    env = gymnasium.make(name, render_mode="rgb_array")
    env.reset(seed=5)
    frames: list[Any] = [env.render()]
    env.action_space.seed(5)
    for _ in range(3):
        env.step(env.action_space.sample())
        frames.append(env.render())
    assert all(frame.shape == (400, 640, 3) and frame.dtype == np.uint8 for frame in frames)
    assert all((before != after).any() for before, after in pairwise(frames))
    env.reset(seed=5)
    frames.append(env.render())
    assert np.array_equal(frames[-1], frames[0]), "a frame left its marks on the background"


@pytest.mark.parametrize("name", NAVIGATION_IDS)
def test_navigation_starts_where_it_is_told(name: str) -> None:
    env = gymnasium.make(name, start_noise=0.0)
    env.reset(seed=5)
    assert tuple(env.unwrapped.state) == field.START  # type: ignore[attr-defined]
    observation, _ = env.reset(options={"start": (0.8, 0.5)})
    np.testing.assert_array_equal(observation, [0, 0])
    with pytest.raises(ValueError, match="must lie within"):
        env.reset(options={"start": (1.7, 0.5)})


def test_field_grows_from_zero_to_one_in_both_directions() -> None:
    x, y = np.meshgrid(np.linspace(0, field.WIDTH, 33), np.linspace(0, field.HEIGHT, 21))
    value = field.field_value(x, y)
    assert field.field_value(0.0, 0.0) == 0
    assert field.field_value(*field.TARGET) == pytest.approx(1, abs=1e-15)
    assert (np.diff(value, axis=0) > 0).all()
    assert (np.diff(value, axis=1) > 0).all()


@pytest.mark.parametrize("native", [Navigation(start_noise=0.0), NavigationDiscrete(start_noise=0.0)])
def test_shortest_path_gives_the_promised_return(native: Any) -> None:
    """From the exact start: the counted number of actions, and 10 (1 - h) - 0.05 for each of them."""
    if isinstance(native, Navigation):
        fewest = field.fewest_continuous_actions()
        angle = math.atan2(field.TARGET[1] - field.START[1], field.TARGET[0] - field.START[0])
        actions = [torch.tensor([[[angle, field.MAX_STEP]]], dtype=torch.float64)] * fewest
    else:
        fewest = field.fewest_discrete_actions()
        actions = [torch.tensor([[name]]) for name in [field.RIGHT] * 50 + [field.UP] * 31]
    state, _ = native.reset(torch.rand(1, 1, 2, dtype=torch.float64))
    rewards, ends = [], []
    for action in actions:
        transition = native.step(state, action, torch.ones(1, 1, dtype=torch.bool))
        state = transition.state
        rewards.append(transition.reward.item())
        ends.append(transition.terminated.item())
    assert ends == [False] * (fewest - 1) + [True]
    assert sum(rewards) == pytest.approx(10 * (1 - field.field_value(*field.START)) - 0.05 * fewest, abs=1e-12)


def test_fewest_actions_are_fewest() -> None:
    """Against a search over all numbers of moves to the right and up, and against the straight line."""
    assert (field.fewest_discrete_actions(), field.fewest_continuous_actions()) == (81, 10)
    for x, y in positions(torch.Generator().manual_seed(SEED), (29,)).tolist():
        counts = [
            rights + ups
            for rights in range(60)
            for ups in range(40)
            if field.within_target(
                min(x + rights * field.DISCRETE_STEP, field.WIDTH),
                min(y + ups * field.DISCRETE_STEP, field.HEIGHT),
            )
        ]
        assert field.fewest_discrete_actions(x, y) == min(counts)
        fewest = field.fewest_continuous_actions(x, y)
        to_go = math.dist((x, y), field.TARGET) - field.TARGET_RADIUS
        assert (fewest - 1) * field.MAX_STEP < max(to_go, 0.0) <= fewest * field.MAX_STEP or fewest == 0 >= to_go
