"""Train Gaussian and von Mises with Beta policies on navigation, seeds 0 to 9; count samples, draw curves and ways.

    python docs/draw_policies.py            # about two minutes; writes docs/policies_navigation.png

Both have the learning rate and the initial spread that needed the fewest samples on seeds 1000 to 1004, out of 24
settings each. A run is there when three iterations in a row have sampled episodes of at most 12 actions on the mean.
"""

import argparse
import csv
import tempfile
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray

from pg_experiments import compose, train
from pg_experiments.envs.navigation import Navigation
from pg_experiments.envs.navigation_field import HEIGHT, START, TARGET, WIDTH, field_value

ENV = ("env=navigation", "total_env_steps=200000")
SETTINGS = {
    "Gaussian angle and length": ("policy=gaussian", "policy.initial_std=0.15", "optimizer.lr=0.02"),
    "von Mises angle, Beta length": (
        "policy=mixed",
        "policy.parts=[von_mises,beta]",
        "policy.initial_concentration=0.5",
        "policy.initial_shape=1.2",
        "optimizer.lr=0.08",
    ),
}
COLORS = ("#e8452c", "#014f86")
ENOUGH, IN_A_ROW = 12.0, 3  # actions of an episode; iterations
EARLY = 25_600  # env steps of the short run whose ways are drawn


class Curve(NamedTuple):
    """What one run did: per iteration env steps so far and actions per sampled episode; its score at the end."""

    env_steps: NDArray[np.float64]
    length: NDArray[np.float64]
    evaluation: dict[str, float]

    @property
    def needed(self) -> float:
        """Env steps until it is there; infinite if it never is."""
        there = self.length <= ENOUGH
        for first in range(len(there) - IN_A_ROW + 1):
            if there[first : first + IN_A_ROW].all():
                return float(self.env_steps[first])
        return float("inf")


def curves(settings: tuple[str, ...], seeds: range, overrides: list[str]) -> list[Curve]:
    """One run per seed, as one program."""
    configs = [compose(*settings, *ENV, f"seed={seed}", *overrides) for seed in seeds]
    with tempfile.TemporaryDirectory() as folder:
        folders = [Path(folder) / str(config.seed) for config in configs]
        results = train(configs, folders)
        tables = [list(csv.DictReader((run / "metrics.csv").open())) for run in folders]
    return [
        Curve(
            np.array([float(row["env_steps"]) for row in rows]),
            np.array([float(row["episode/length_mean"]) for row in rows]),
            result.evaluation or {},
        )
        for rows, result in zip(tables, results, strict=True)
    ]


def sampled_ways(settings: tuple[str, ...], copies: int) -> NDArray[np.float64]:
    """Positions `[steps, copies, 2]` of sampled episodes from the exact start, after a short run of seed 0."""
    early = (*ENV[:1], f"total_env_steps={EARLY}", "seed=0", "logging.progress=none")
    (result,) = train([compose(*settings, *early)])
    policy, task = result.policy.policy, Navigation(start_noise=0.0)
    parameters = {name: result.policy.get_buffer(name.replace(".", "_")) for name in result.policy.names}
    state, observation = task.reset(torch.zeros(1, copies, 2))
    running, positions = torch.ones(1, copies, dtype=torch.bool), [torch.stack(state, -1)[0]]
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        with torch.no_grad():
            action = policy(parameters, observation).sample(policy.draw_noise(generator, (1, copies), torch.float32))
        after = task.step(state, policy.env_action(action), running)
        stays = ~running[..., None]
        observation = torch.where(stays, observation, after.observation)
        kept = [torch.where(running, new, old) for new, old in zip(after.state, state, strict=True)]
        state, running = (kept[0], kept[1]), running & ~after.terminated
        positions.append(torch.stack(state, -1)[0])
    return torch.stack(positions).double().numpy()


def draw_curves(axes: Axes, found: dict[str, list[Curve]]) -> None:
    """Actions per sampled episode over env steps: every seed faint, the mean in front."""
    grid = np.linspace(5_000, 200_000, 400)
    for (name, runs), color in zip(found.items(), COLORS, strict=True):
        lines = np.array([np.interp(grid, run.env_steps, run.length) for run in runs])
        axes.plot(grid / 1e3, lines.T, color=color, linewidth=0.7, alpha=0.3)
        axes.plot(grid / 1e3, lines.mean(0), color=color, linewidth=2.2, label=name)
    axes.axhline(10, color="#22303c", linewidth=1, linestyle="--", label="shortest path")
    axes.set(yscale="log", yticks=[10, 20, 50, 100], yticklabels=["10", "20", "50", "100"], xlim=(0, 200))
    axes.minorticks_off()
    axes.set(xlabel="env steps in thousands", ylabel="actions per sampled episode", title="every seed, and the mean")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)


def draw_ways(axes: Axes, ways: NDArray[np.float64], color: str, title: str) -> None:
    """Sampled ways over the field."""
    x, y = np.meshgrid(np.linspace(0, WIDTH, 161), np.linspace(0, HEIGHT, 101))
    axes.contourf(x, y, field_value(x, y), np.linspace(0, 1, 21), cmap="Greys", alpha=0.5)
    for way in ways.transpose(1, 0, 2):
        axes.plot(*way.T, color=color, linewidth=0.8, alpha=0.45)
    axes.plot(*START, "s", color="white", markersize=7, markeredgecolor="#22303c")
    axes.plot(*TARGET, "o", color="white", markersize=9, markeredgecolor="#22303c", clip_on=False)
    axes.set_title(title, fontsize=10)
    axes.set(xlabel="x in m", ylabel="y in m", xlim=(0, WIDTH), ylim=(0, HEIGHT), aspect="equal")


def main() -> None:
    """Train, print the samples that were needed, draw."""
    parser = argparse.ArgumentParser(description="Compare the policies for an angle and a length on navigation.")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("policies_navigation.png"))
    parser.add_argument("--seeds", type=int, default=10, metavar="N", help="seeds 0 to N - 1 (default: 10)")
    parser.add_argument("overrides", nargs="*", help="for both trainings, such as env.num_envs=16")
    options = parser.parse_args()
    found = {name: curves(settings, range(options.seeds), options.overrides) for name, settings in SETTINGS.items()}
    for name, runs in found.items():
        needed, lengths = [run.needed for run in runs], [run.evaluation["length_mean"] for run in runs]
        each = ", ".join(f"{steps:,.0f}" for steps in needed)
        print(f"{name}: {each} env steps until there; mean {np.mean(needed):,.0f}, median {np.median(needed):,.0f};")
        print(f"  deterministic evaluation at the end: {min(lengths):.2f} to {max(lengths):.2f} actions")
    figure = plt.figure(figsize=(12, 4.6), layout="constrained")
    panels = figure.subplot_mosaic([["curves", "first"], ["curves", "second"]], width_ratios=[1.7, 1])
    draw_curves(panels["curves"], found)
    for place, settings, color in zip(("first", "second"), SETTINGS.values(), COLORS, strict=True):
        kind = "Gaussian" if place == "first" else "von Mises and Beta"
        draw_ways(panels[place], sampled_ways(settings, 12), color, f"{kind}: sampled, after {EARLY:,} env steps")
    figure.savefig(options.output, dpi=130)
    print(f"written: {options.output}")


if __name__ == "__main__":
    main()
