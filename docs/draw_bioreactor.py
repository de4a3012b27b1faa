"""Train the bioreactor's policy and set it against the best constant dilution rate, from three starts.

    python docs/draw_bioreactor.py                 # about a minute; seeds 0 to 9; writes docs/bioreactor.png
    python docs/draw_bioreactor.py --run RUN_DIR   # the policy of a run that is there already; into its folder

An episode has 50 hours, without chance, the policy in its deterministic mode. In the third case 3 g/L of biomass are
lost after 25 hours: the state that the policy has brought about is handed to the constant rates as well, and what the
25 hours that are left produce is compared. The best constant rate is the best of 10,001 between 0 and 1 1/h, found for
each case anew, with the whole case known in advance.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pg_experiments import compose, load_policy, train
from pg_experiments.envs.bioreactor import Bioreactor
from pg_experiments.envs.bioreactor_model import STEP_HOURS, scaled_observation
from pg_experiments.envs.bioreactor_picture import BIOMASS, DILUTION, PRODUCTION, SUBSTRATE

HOURS = 50.0
LOSS_HOUR, AFTER_LOSS = 24.75, 25.0  # the loss lies in the step that ends after 25 hours
NEVER = -1.0
RATES = torch.linspace(0, 1, 10_001, dtype=torch.float64)  # 1/h
CASES = ("from X = 1, S = 2 g/L", "from X = 0.002, S = 0 g/L", "after a loss of 3 g/L of biomass")
ROWS = (("biomass X, g/L", BIOMASS), ("substrate S, g/L", SUBSTRATE), ("dilution rate D, 1/h", DILUTION))
OTHER = "#8d959c"

Numbers = NDArray[np.float64]
Act = Callable[[Tensor], Tensor]  # observation [copies, 5] to action [copies, 1]


class Play(NamedTuple):
    """What happened in every copy, `[steps + 1, copies]`, the start first: g/L, g/L, 1/h, g/L."""

    biomass: Numbers
    substrate: Numbers
    dilution: Numbers
    production: Numbers


class Case(NamedTuple):
    """A policy and the best constant rate from the same state, over the same hours.

    Attributes:
        policy, constant: of one copy each.
        rate: the best constant one, 1/h.
        before: what the policy did before these hours, if anything.
    """

    policy: Play
    constant: Play
    rate: float
    before: Play | None = None

    @property
    def productions(self) -> tuple[float, float]:
        """Of the policy and of the constant rate, g/L."""
        return float(self.policy.production[-1, 0]), float(self.constant.production[-1, 0])


def play(act: Act, biomass: float, substrate: float, hours: float, copies: int = 1, loss_hour: float = NEVER) -> Play:
    """From a state of no flow so far; what is washed out produces nothing more."""
    env = Bioreactor()
    state = tuple(torch.full((1, copies), x, dtype=torch.float64) for x in (biomass, substrate, 0.0, loss_hour))
    production = dilution = torch.zeros_like(state[0])
    observation = torch.stack(scaled_observation(state[0], state[1], (state[0], state[1]), dilution), -1)
    running = torch.ones_like(production, dtype=torch.bool)
    moments = [(state[0], state[1], dilution, production)]
    for _ in range(round(hours / STEP_HOURS)):
        action = act(observation[0]).double()[None]
        after = env.step(state, action, running)
        running = running & ~after.terminated
        production = production + torch.where(running, after.reward * STEP_HOURS, 0.0)
        state, observation = after.state, after.observation
        moments.append((state[0], state[1], action[..., 0], production))
    return Play(*(torch.cat(part).numpy() for part in zip(*moments, strict=True)))


def best_constant(biomass: float, substrate: float, hours: float, loss_hour: float = NEVER) -> tuple[float, Play]:
    """The constant rate that produces most, and its play."""
    plays = play(lambda _: RATES[:, None], biomass, substrate, hours, len(RATES), loss_hour)
    best = int(plays.production[-1].argmax())
    return float(RATES[best]), Play(*(part[:, [best]] for part in plays))


def cases_of(policy: Act) -> list[Case]:
    """All three."""
    cases = []
    for biomass, substrate in ((1.0, 2.0), (0.002, 0.0)):
        rate, constant = best_constant(biomass, substrate, HOURS)
        cases.append(Case(play(policy, biomass, substrate, HOURS), constant, rate))
    whole = play(policy, 1.0, 2.0, HOURS, loss_hour=LOSS_HOUR)
    loss = round(AFTER_LOSS / STEP_HOURS)
    after = Play(*(part[loss:] for part in whole))
    after = after._replace(production=after.production - after.production[0])
    rate, constant = best_constant(float(after.biomass[0, 0]), float(after.substrate[0, 0]), HOURS - AFTER_LOSS)
    return [*cases, Case(after, constant, rate, Play(*(part[: loss + 1] for part in whole)))]


def draw(path: Path, all_cases: Sequence[Sequence[Case]], names: Sequence[str]) -> None:
    """A column per case: all policies faint, the one of median production in front, its best constant rate dashed."""
    middle = sorted(all_cases, key=lambda cases: sum(case.productions[0] for case in cases))[(len(all_cases) - 1) // 2]
    figure, panels = plt.subplots(4, 3, figsize=(11, 8.2), sharex=True, sharey="row", layout="constrained")
    for column, (title, axes) in enumerate(zip(CASES, panels.T, strict=True)):
        front = middle[column]
        for row, (label, color) in enumerate((*ROWS, ("production, g/L", PRODUCTION))):
            style = "steps-pre" if label.startswith("dilution") else "default"
            begin = HOURS - (len(front.policy.production) - 1) * STEP_HOURS
            hours = begin + np.arange(len(front.policy.production)) * STEP_HOURS
            for cases in all_cases:
                axes[row].plot(
                    hours, cases[column].policy[row], color=color, linewidth=0.7, alpha=0.18, drawstyle=style
                )
            axes[row].plot(
                hours, front.constant[row], color=OTHER, linewidth=1.6, linestyle=(0, (4, 2)), drawstyle=style
            )
            axes[row].plot(hours, front.policy[row], color=color, linewidth=2.2, drawstyle=style)
            if front.before is not None:
                if label != "production, g/L":
                    past = np.arange(len(front.before.biomass)) * STEP_HOURS
                    axes[row].plot(past, front.before[row], color=color, linewidth=2.2, drawstyle=style)
                axes[row].axvline(begin, color="#c0392b", linewidth=1, linestyle=":")
            axes[row].grid(alpha=0.2)
            axes[row].spines[["top", "right"]].set_visible(False)
            if column == 0:
                axes[row].set_ylabel(label)
        ours, theirs = front.productions
        texts = ((f"policy: {ours:.1f} g/L", PRODUCTION), (f"D = {front.rate:.3f} 1/h: {theirs:.1f} g/L", OTHER))
        for height, (text, color) in zip((0.9, 0.76), texts, strict=True):
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
            axes[3].text(0.03, height, text, transform=axes[3].transAxes, color=color, va="center", bbox=box)
        axes[0].set_title(title, fontsize=11)
        axes[3].set(xlabel="hours", xlim=(0, HOURS))
    front_name = (
        names[0] if len(names) == 1 else f"the policies of {len(names)} seeds, the one of median production in front"
    )
    figure.suptitle(f"Bioreactor: {front_name}; dashed: the best constant dilution rate", fontsize=12)
    figure.savefig(path, dpi=120)
    print(f"written: {path}")


def main() -> None:
    """Train or load, compare, print, draw."""
    parser = argparse.ArgumentParser(description="The bioreactor's policy against the best constant dilution rate.")
    parser.add_argument("--output", type=Path, help="picture; default: here, or with --run in the run's folder")
    parser.add_argument("--run", type=Path, metavar="RUN_DIR", help="a trained run, instead of training")
    parser.add_argument("--seeds", type=int, default=10, metavar="N", help="seeds 0 to N - 1 (default: 10)")
    parser.add_argument("overrides", nargs="*", help="for the training, such as total_env_steps=50000")
    options = parser.parse_args()
    if options.run:
        policies, names = [load_policy(options.run)], [str(options.run)]
    else:
        names = [f"seed={seed}" for seed in range(options.seeds)]
        configs = [compose("experiment=bioreactor_reinforce", name, *options.overrides) for name in names]
        policies = [result.policy for result in train(configs)]
    torch.set_num_threads(1)
    all_cases = [cases_of(policy) for policy in policies]
    for column, title in enumerate(CASES):
        print(f"\n{title}: production, g/L")
        for name, cases in zip(names, all_cases, strict=True):
            ours, theirs = cases[column].productions
            print(f"  {name}  policy {ours:6.2f}  best constant {theirs:6.2f} at D = {cases[column].rate:.4f} 1/h")
        wins = sum(ours > theirs for ours, theirs in (cases[column].productions for cases in all_cases))
        print(f"  the policy produces more: {wins} of {len(names)}")
    draw(options.output or (options.run or Path(__file__).parent) / "bioreactor.png", all_cases, names)


if __name__ == "__main__":
    main()
