"""Train the main job on seeds 0 to 9 with the defaults and draw its learning curve.

python docs/draw_learning_curve.py        # about three minutes; writes docs/learning_curve.png
"""

import argparse
import csv
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from pg_experiments import compose, train


def main() -> None:
    """Train, print the evaluations, draw."""
    parser = argparse.ArgumentParser(description="Draw the learning curve of policy=gaussian env=pendulum.")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("learning_curve.png"))
    parser.add_argument("--seeds", type=int, default=10, metavar="N", help="seeds 0 to N - 1 (default: 10)")
    parser.add_argument("overrides", nargs="*", help="such as total_env_steps=50000")
    options = parser.parse_args()
    configs = [
        compose("policy=gaussian", "env=pendulum", f"seed={seed}", *options.overrides) for seed in range(options.seeds)
    ]
    with tempfile.TemporaryDirectory() as folder:
        folders = [Path(folder) / f"seed={config.seed}" for config in configs]
        results = train(configs, folders)
        rows = [list(csv.DictReader((run / "metrics.csv").open())) for run in folders]
    scores = [result.evaluation["return_mean"] for result in results if result.evaluation]
    print("deterministic evaluation, 100 episodes:", ", ".join(f"{score:.1f}" for score in scores))
    env_steps = np.array([float(row["env_steps"]) for row in rows[0]]) / 1e6
    returns = np.array([[float(row["episode/return_mean"]) for row in run] for run in rows])
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    axes.plot(env_steps, returns.T, color="#2a6f97", linewidth=0.8, alpha=0.3)
    axes.plot(env_steps, returns.mean(0), color="#014f86", linewidth=2.2, label=f"mean of {len(rows)} seeds")
    axes.axhline(-200, color="#e8452c", linewidth=1, linestyle="--", label="-200")
    axes.set(
        title="REINFORCE, Gaussian policy, Pendulum: the defaults",
        xlabel="env steps in millions",
        ylabel="episode return (sampled actions)",
        xlim=(0, env_steps[-1]),
    )
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(options.output, dpi=130)
    print(f"written: {options.output}")


if __name__ == "__main__":
    main()
