"""Steps per second of every native environment, 1,024 copies on one core, beside Gymnasium's CartPole and EnvPool.

    python benchmarks/env_speed.py        # about two minutes

Random actions, drawn beforehand; a copy whose episode is over is reset at once. The native ones step in torch's
inference mode, as in training. The sides alternate; each number is the median of all goes, and each ratio the median of
the ratios within one go: to the one environment that Gymnasium has written on NumPy arrays, its CartPole, and to
EnvPool's environment of the same task. EnvPool is left out where it is not installed (`pip install envpool`).
"""

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from pg_experiments import compose
from pg_experiments.config import SCHEMAS
from pg_experiments.env_config import GYMNASIUM_TASKS
from pg_experiments.envs.interface import BoxActions, DiscreteActions, Env
from pg_experiments.runs import build, stack

COPIES = 1024
LAYOUTS = ((1, 1024), (16, 64))  # runs x copies of each
ACTIONS = 64  # sets of actions that are drawn beforehand, and used again and again
CLASSIC = {  # that EnvPool has too
    "cartpole": "CartPole-v1",
    "pendulum": "Pendulum-v1",
    "acrobot": "Acrobot-v1",
    "mountain_car": "MountainCar-v0",
    "mountain_car_continuous": "MountainCarContinuous-v0",
}
FITTING = {"gaussian": ("pendulum", "mountain_car_continuous", "navigation", "bioreactor")}

Steps = Callable[[int], None]  # takes so many steps of all copies


def native_steps(name: str, runs: int, envs: int) -> Steps:
    """Of a native environment through its own `step` and `reset`."""
    policy = "gaussian" if name in FITTING["gaussian"] else "softmax"
    env: Env = build(stack([compose(f"env={name}", f"policy={policy}")])).env
    generator = Generator().manual_seed(0)
    actions = [random_action(env, (runs, envs), generator) for _ in range(ACTIONS)]
    size, limit = env.spec.reset_noise_size, env.spec.max_episode_steps
    starts, used = _starts(env, size, generator), 0
    state, _ = env.reset(torch.rand(runs, envs, size, generator=generator))
    state = tuple(part.clone() for part in state)
    # for each step, modulo the limit, the copies that reach the limit there unless their episode ends before
    begin = torch.randint(1 - limit, 1, (COPIES,), generator=generator).numpy()
    due = [[((begin - now) % limit == 0).nonzero()[0]] for now in range(limit)]
    running = torch.ones(runs, envs, dtype=torch.bool)
    now = 0

    @torch.inference_mode()
    def steps(count: int) -> None:
        nonlocal state, now, starts, used
        for _ in range(count):
            after = env.step(state, actions[now % ACTIONS], running)
            state, now = after.state, now + 1
            over = after.terminated.numpy().reshape(COPIES)
            for copies in (late := due[now % limit]):
                if len(copies := copies[begin[copies] == now - limit]):
                    over[copies] = True
            late.clear()
            (ended,) = over.nonzero()
            if used + len(ended) > COPIES:
                starts, used = _starts(env, size, generator), 0
            own = slice(used, used + len(ended))
            used, begin[ended] = own.stop, now
            late.append(ended)
            for part, start in zip((after.observation, *state), starts, strict=True):
                part.numpy().view(start.dtype).reshape(start.shape)[ended] = start[own]

    return steps


def _starts(env: Env, size: int, generator: Generator) -> list[NDArray[Any]]:
    """Observation and state of as many first moments of episodes as there are copies: those that end take these.

    Drawing them for the few copies that end in one step would be a hundred calls for what one does. What a copy has is
    one number where NumPy has a type of its size, since NumPy then puts it into its place five times as fast.
    """
    state, observation = env.reset(torch.rand(1, COPIES, size, generator=generator))
    starts = []
    for part in (observation, *state):
        start = part.contiguous().numpy().reshape(COPIES, -1)
        kind = {8: np.complex64, 16: np.complex128}.get(start.shape[1] * start.itemsize, start.dtype)
        starts.append(start.view(kind).squeeze(1) if kind != start.dtype or start.shape[1] == 1 else start)
    return starts


def random_action(env: Env, shape: tuple[int, int], generator: Generator) -> Tensor:
    """Uniform within the bounds."""
    spec = env.spec.actions
    if isinstance(spec, DiscreteActions):
        return torch.randint(0, spec.count, shape, generator=generator)
    assert isinstance(spec, BoxActions)
    low, high = torch.tensor(spec.low), torch.tensor(spec.high)
    return low + (high - low) * torch.rand(*shape, len(spec.low), generator=generator)


def gymnasium_steps() -> Steps:
    """Of Gymnasium's CartPole, written on NumPy arrays."""
    return vector_steps(gymnasium.make_vec("CartPole-v1", COPIES, vectorization_mode="vector_entry_point"))


def envpool_steps(id: str) -> Steps:
    """Of an environment of EnvPool on one thread of its own, all copies at a time."""
    import envpool

    return vector_steps(envpool.make_gymnasium(id, num_envs=COPIES, batch_size=COPIES, num_threads=1, seed=0))


def vector_steps(env: Any) -> Steps:
    """Of a vector environment that resets its copies itself."""
    space, generator = env.action_space, np.random.default_rng(0)
    if isinstance(space, gymnasium.spaces.Box):
        one = space.shape[-1:]  # of EnvPool's, the space is that of one copy
        actions = generator.uniform(space.low.min(), space.high.max(), (ACTIONS, COPIES, *one)).astype(space.dtype)
    else:
        actions = generator.integers(0, getattr(space, "n", 2), (ACTIONS, COPIES))
    env.reset()
    now = 0

    def steps(count: int) -> None:
        nonlocal now
        for _ in range(count):
            env.step(actions[now % ACTIONS])
            now += 1

    return steps


def measured(sides: Mapping[str, Steps], goes: int, seconds: float) -> dict[str, list[float]]:
    """Steps of single copies per second, one number a go for each side; the sides take turns."""
    counts = {}
    for name, steps in sides.items():
        steps(20)
        begin = time.perf_counter()
        steps(20)
        counts[name] = max(1, round(20 * seconds / (time.perf_counter() - begin)))
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(goes):
        for name, steps in sides.items():
            begin = time.perf_counter()
            steps(counts[name])
            speeds[name].append(counts[name] * COPIES / (time.perf_counter() - begin))
    return speeds


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="Steps per second of the native environments, on one core.")
    parser.add_argument("--goes", type=int, default=5, help="of every side (default: 5)")
    parser.add_argument("--seconds", type=float, default=0.5, help="that one go takes, about (default: 0.5)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sides = {
        f"{name} {runs} x {envs}": native_steps(name, runs, envs)
        for name in SCHEMAS["env"]
        if name not in ("gymnasium", *GYMNASIUM_TASKS)
        for runs, envs in LAYOUTS
    }
    rivals = {"Gymnasium's CartPole-v1, vectorised": gymnasium_steps()}
    if importlib.util.find_spec("envpool"):
        rivals |= {f"EnvPool's {id}, one thread": envpool_steps(id) for id in CLASSIC.values()}
    else:
        print("EnvPool is not installed, and left out: pip install envpool")
    speeds = measured({**sides, **rivals}, options.goes, options.seconds)
    gymnasiums = next(iter(rivals))
    print(f"{'':<44}{'steps per second':>18}{'to Gymnasium':>16}{'to EnvPool':>14}")
    for name, own in speeds.items():
        same = f"EnvPool's {CLASSIC.get(name.split()[0])}, one thread"
        ratios = [
            f"{statistics.median(a / b for a, b in zip(own, speeds[rival], strict=True)):.2f}"
            if rival in speeds and rival != name
            else ""
            for rival in (gymnasiums, same)
        ]
        print(f"{name:<44}{statistics.median(own):>18,.0f}{ratios[0]:>16}{ratios[1]:>14}")


if __name__ == "__main__":
    main()
