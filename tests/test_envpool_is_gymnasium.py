"""EnvPool's environments are the tasks of Gymnasium: those of `backend_config.SAME`, and no other.

Where an observation tells the whole state, Gymnasium's environment is put into EnvPool's, and both play the same
actions.
Box2D's state cannot be put in; its episodes with random actions are compared as samples.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from pg_experiments.backend_config import DIFFERENT, NATIVE, SAME
from pg_experiments.env_config import GYMNASIUM_TASKS
from pg_experiments.envs.envpool_env import EnvPoolEnv
from pg_experiments.envs.gymnasium_adapter import GymnasiumEnv
from pg_experiments.envs.interface import BoxActions, DiscreteActions

SEED = 30
STEPS = 40
BOX2D = ("LunarLander-v3", "LunarLanderContinuous-v3", "BipedalWalker-v3")
Numbers = Any  # arrays of float64


@dataclass(frozen=True)
class Body:
    """How a MuJoCo task shows its state.

    Attributes:
        hidden: how many of the first positions are not in its observation.
        tolerance: of observations, over all steps; small errors grow.
    """

    hidden: int
    tolerance: float = 1e-7

    def put(self, env: Any, observation: Numbers) -> None:
        position, velocity = env.init_qpos.copy(), env.init_qvel.copy()
        seen = len(position) - self.hidden
        position[self.hidden :] = observation[:seen]
        velocity[:] = observation[seen : seen + len(velocity)]
        env.set_state(position, velocity)


class Reacher(Body):
    """Angles of two joints as cosines and sines, a target that does not move."""

    def put(self, env: Any, observation: Numbers) -> None:
        cosine, sine, target, velocity = observation[:2], observation[2:4], observation[4:6], observation[6:8]
        env.set_state(np.concatenate([np.arctan2(sine, cosine), target]), np.concatenate([velocity, [0.0, 0.0]]))


class DoublePendulum(Body):
    """The cart, and the angles of two poles as sines and cosines."""

    def put(self, env: Any, observation: Numbers) -> None:
        angles = np.arctan2(observation[1:3], observation[3:5])
        env.set_state(np.concatenate([observation[:1], angles]), observation[5:8])


BODIES = {
    "HalfCheetah-v5": Body(1, tolerance=1e-6),
    "Hopper-v5": Body(1),
    "Walker2d-v5": Body(1),
    "Ant-v5": Body(2),
    "Swimmer-v5": Body(2),
    "Humanoid-v5": Body(2),
    "InvertedPendulum-v5": Body(0),
    "InvertedDoublePendulum-v5": DoublePendulum(0),
    "Reacher-v5": Reacher(0),
}

CLASSIC: dict[str, Callable[[Numbers], Numbers]] = {  # from an observation to the state of Gymnasium's environment
    "CartPole-v1": lambda seen: seen,
    "Pendulum-v1": lambda seen: np.array([math.atan2(seen[1], seen[0]), seen[2]]),
    "Acrobot-v1": lambda seen: np.array([math.atan2(seen[1], seen[0]), math.atan2(seen[3], seen[2]), *seen[4:]]),
    "MountainCar-v0": lambda seen: seen,
    "MountainCarContinuous-v0": lambda seen: seen,
}


def random_actions(env: Any, generator: Generator, *shape: int) -> Tensor:
    actions = env.spec.actions
    if isinstance(actions, DiscreteActions):
        return torch.randint(actions.count, shape, generator=generator)
    assert isinstance(actions, BoxActions)
    noise = torch.rand(*shape, len(actions.low), generator=generator, dtype=torch.float64)
    return torch.tensor(actions.low, dtype=torch.float64).lerp(torch.tensor(actions.high, dtype=torch.float64), noise)


def test_every_id_that_is_said_to_be_the_same_is_compared() -> None:
    assert {*BODIES, *CLASSIC, *BOX2D} - DIFFERENT.keys() == set(SAME)
    assert CLASSIC.keys() == NATIVE.keys()
    assert {*BODIES, *BOX2D} == set(GYMNASIUM_TASKS.values())


@pytest.mark.parametrize("name", [*SAME, *DIFFERENT])
def test_sizes_bounds_and_limits_are_the_same(name: str) -> None:
    ours, theirs = EnvPoolEnv(name, {}, None).spec, GymnasiumEnv(name, {}, None).spec
    assert replace(ours, actions=theirs.actions) == theirs
    if isinstance(theirs.actions, DiscreteActions):
        assert ours.actions == theirs.actions
    else:  # which are 0.4 in one and 0.4 as float32 in the other
        assert isinstance(ours.actions, BoxActions)
        assert ours.actions.low == pytest.approx(theirs.actions.low, rel=1e-7)
        assert ours.actions.high == pytest.approx(theirs.actions.high, rel=1e-7)


def single(name: str) -> Any:
    """Gymnasium's environment without its limit of steps."""
    env = gymnasium.make(name).unwrapped
    env.reset(seed=0)
    return env


@pytest.mark.parametrize("name", BODIES)
def test_mujoco_tasks_play_the_same_episodes(name: str) -> None:
    """40 random actions, or up to the end, from each of three starts: observations, rewards and ends."""
    body, env, generator = BODIES[name], EnvPoolEnv(name, {}, None), Generator().manual_seed(SEED)
    state, first = env.reset(torch.rand(1, 3, 2, generator=generator, dtype=torch.float64))
    actions = random_actions(env, generator, STEPS, 1, 3)
    others = [single(name) for _ in range(3)]
    for other, observation in zip(others, first[0].numpy(), strict=True):
        body.put(other, observation)
        np.testing.assert_allclose(other._get_obs(), observation, atol=1e-12)
    running = torch.ones(1, 3, dtype=torch.bool)
    for action in actions:
        after = env.step(state, action, running)
        for copy in running[0].nonzero()[:, 0].tolist():
            observation, reward, terminated, _, _ = others[copy].step(action[0, copy].numpy())
            np.testing.assert_allclose(after.observation[0, copy].numpy(), observation, atol=body.tolerance, rtol=1e-7)
            assert float(after.reward[0, copy]) == pytest.approx(reward, abs=1e-6, rel=1e-6)
            assert bool(after.terminated[0, copy]) == terminated
        state, running = after.state, running & ~after.terminated
    assert not bool(after.truncated.any())


@pytest.mark.parametrize("name", [name for name in CLASSIC if name not in DIFFERENT])
def test_classic_control_tasks_take_the_same_steps(name: str) -> None:
    """100 random actions in each of three copies, each step from EnvPool's state, which it shows in float32."""
    env, generator = EnvPoolEnv(name, {}, None), Generator().manual_seed(SEED)
    state, observation = env.reset(torch.rand(1, 3, 2, generator=generator, dtype=torch.float64))
    other, running = single(name), torch.ones(1, 3, dtype=torch.bool)
    discrete = isinstance(env.spec.actions, DiscreteActions)
    for action in random_actions(env, generator, 100, 1, 3):
        after = env.step(state, action, running)
        for copy in running[0].nonzero()[:, 0].tolist():
            other.state = CLASSIC[name](observation[0, copy].numpy())
            own = int(action[0, copy]) if discrete else action[0, copy].numpy()
            seen, reward, terminated, _, _ = other.step(own)
            np.testing.assert_allclose(after.observation[0, copy].numpy(), seen, atol=3e-5)
            assert float(after.reward[0, copy]) == pytest.approx(float(reward), abs=1e-4)
            assert bool(after.terminated[0, copy]) == bool(terminated)
            if terminated:
                other.reset()
        state, observation, running = after.state, after.observation, running & ~after.terminated


def test_the_pendulum_of_envpool_moves_its_angle_by_the_speed_before_the_limit() -> None:
    """The known difference, and the only one: pushed the way it moves, the pendulum gets to its limit of 8 rad/s."""
    env, generator = EnvPoolEnv("Pendulum-v1", {}, None), Generator().manual_seed(SEED)
    state, observation = env.reset(torch.rand(1, 5, 2, generator=generator, dtype=torch.float64))
    limited = 0
    for _ in range(200):
        cosine, sine, speed = observation.unbind(-1)
        torque = 2 * torch.sign(speed)
        after = env.step(state, torque[..., None], torch.ones(1, 5, dtype=torch.bool))
        faster = speed + (15 * sine + 3 * torque) * 0.05
        angle = torch.atan2(sine, cosine) + faster * 0.05
        limited += int((faster.abs() > 8.1).sum())
        expected = torch.stack((angle.cos(), angle.sin(), faster.clamp(-8, 8)), -1)
        torch.testing.assert_close(after.observation, expected, atol=3e-6, rtol=0)
        state, observation = after.state, after.observation
    assert limited > 100


def episodes(env: Any, copies: int, limit: int) -> tuple[Numbers, Numbers, Numbers]:
    """First observations, returns and lengths of episodes of at most so many steps with random actions."""
    generator = Generator().manual_seed(SEED)
    state, first = env.reset(torch.rand(1, copies, 2, generator=generator, dtype=torch.float64))
    running, total, length = torch.ones(1, copies, dtype=torch.bool), torch.zeros(1, copies), torch.zeros(1, copies)
    for _ in range(limit):
        after = env.step(state, random_actions(env, generator, 1, copies), running)
        total, length = total + after.reward, length + running
        state, running = after.state, running & ~after.terminated & ~after.truncated
    return first[0].numpy(), total[0].numpy(), length[0].numpy()


@pytest.mark.parametrize(("name", "copies", "limit"), [(BOX2D[0], 150, 130), (BOX2D[1], 150, 130), (BOX2D[2], 80, 100)])
def test_box2d_tasks_have_the_same_episodes_on_average(name: str, copies: int, limit: int) -> None:
    """Means and spreads of first observation, return and length; seed 30.

    Each of at most 14 means may differ by 4.5 standard errors, and so may the logarithm of each spread (1/√(2n)): a
    false alarm in fewer than 1 of 5,000 seeds, more where a number is far from normal, as a return of rare falls is.
    """
    first, second = (episodes(kind(name, {}, None), copies, limit) for kind in (EnvPoolEnv, GymnasiumEnv))
    for ours, theirs in zip(first, second, strict=True):
        spread = np.stack([np.std(ours, 0), np.std(theirs, 0)])
        error = np.sqrt((spread**2).sum(0) / copies)
        assert (np.abs(np.mean(ours, 0) - np.mean(theirs, 0)) <= 4.5 * error + 1e-3).all()
        ratio = np.log(np.maximum(spread[0], 1e-3) / np.maximum(spread[1], 1e-3))
        assert (np.abs(ratio)[spread.max(0) > 1e-2] <= 4.5 / math.sqrt(copies)).all()
