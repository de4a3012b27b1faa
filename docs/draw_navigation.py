"""Train both navigation policies on seeds 0 to 9 with the defaults, count their actions, draw their ways side by side.

    python docs/draw_navigation.py            # about four minutes; writes docs/navigation.png

Each trained policy plays its deterministic episode from the exact start. The picture shows the ways of all ten seeds,
one of them in front.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Circle
from numpy.typing import NDArray

from pg_experiments import compose, train
from pg_experiments.envs.interface import Env
from pg_experiments.envs.navigation import Navigation, NavigationDiscrete
from pg_experiments.envs.navigation_field import HEIGHT, START, TARGET, TARGET_RADIUS, WIDTH, field_value, within_target

Way = NDArray[np.float64]  # positions (x m, y m), the start first


def ways(policy: str, env: str, task: Env, seeds: range, overrides: list[str]) -> list[Way]:
    """Train one run per seed as one program; the deterministic episode of each from the exact start."""
    configs = [compose(f"policy={policy}", f"env={env}", f"seed={seed}", *overrides) for seed in seeds]
    return [way(result.policy, task) for result in train(configs)]


def way(policy: torch.nn.Module, task: Env) -> Way:
    """One deterministic episode; the environment has one run and one copy."""
    state, observation = task.reset(torch.zeros(1, 1, task.spec.reset_noise_size))
    positions = [START]
    running = torch.ones(1, 1, dtype=torch.bool)
    for _ in range(task.spec.max_episode_steps):
        state, observation, _, terminated, _ = task.step(state, policy(observation[0])[None], running)
        positions.append((float(state[0]), float(state[1])))
        if terminated:
            break
    return np.array(positions)


def draw(axes: Axes, all_ways: list[Way], title: str) -> None:
    """The field, every way faint, and one of median length in front."""
    x, y = np.meshgrid(np.linspace(0, WIDTH, 161), np.linspace(0, HEIGHT, 101))
    axes.contourf(x, y, field_value(x, y), np.linspace(0, 1, 21), cmap="viridis")
    axes.contour(x, y, field_value(x, y), np.linspace(0.1, 0.9, 9), colors="white", linewidths=0.6, alpha=0.5)
    axes.add_patch(Circle(TARGET, TARGET_RADIUS, facecolor=(1, 1, 1, 0.55), edgecolor="#e8452c", clip_on=False))
    for each in all_ways:
        axes.plot(*each.T, color="white", linewidth=0.8, alpha=0.35)
    front = sorted(all_ways, key=len)[len(all_ways) // 2]
    axes.plot(*front.T, "o-", color="white", linewidth=1.4, markersize=3.5, markeredgecolor="#22303c", clip_on=False)
    axes.plot(*START, "s", color="white", markersize=8, markeredgecolor="#22303c")
    axes.plot(*front[-1], "o", color="#e8452c", markersize=9, markeredgecolor="white", clip_on=False)
    axes.set(title=title, xlabel="x in m", ylabel="y in m", xlim=(0, WIDTH), ylim=(0, HEIGHT), aspect="equal")


def main() -> None:
    """Train, print the numbers of actions, draw."""
    parser = argparse.ArgumentParser(description="Draw the trained ways of both navigation tasks.")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("navigation.png"))
    parser.add_argument("--seeds", type=int, default=10, metavar="N", help="seeds 0 to N - 1 (default: 10)")
    parser.add_argument("overrides", nargs="*", help="for both trainings, such as total_env_steps=1000")
    options = parser.parse_args()
    seeds = range(options.seeds)
    tasks = {
        "discrete": ways(
            "softmax", "navigation_discrete", NavigationDiscrete(start_noise=0.0), seeds, options.overrides
        ),
        "continuous": ways("gaussian", "navigation", Navigation(start_noise=0.0), seeds, options.overrides),
    }
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.1), layout="constrained")
    for axes, (kind, all_ways) in zip(panels, tasks.items(), strict=True):
        actions = [len(each) - 1 for each in all_ways]
        reached = sum(bool(within_target(*each[-1])) for each in all_ways)
        print(f"{kind}: actions {actions}, mean {np.mean(actions):.1f}; {reached} of {len(all_ways)} reach the maximum")
        draw(axes, all_ways, f"{kind} actions: {np.mean(actions):.1f} on the mean of {len(all_ways)} seeds")
    figure.savefig(options.output, dpi=130)
    print(f"written: {options.output}")


if __name__ == "__main__":
    main()
