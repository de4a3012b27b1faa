"""Whether `torch.compile` would help: one step of policy and environment, as it is and compiled.

    python benchmarks/compile_speed.py        # about three minutes, most of it the compiler's; needs a C++ compiler

CartPole, 16 copies a run, the default softmax policy, one thread. The sides alternate; each number is the median of
five goes. It is why there is no key `compile`: see README.md, How fast.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from pg_experiments import compose
from pg_experiments.randomness import generator_for
from pg_experiments.runs import build, stack

COPIES, GOES, STEPS = 16, 5, 300

Step = Callable[[], tuple[Tensor, ...]]


def one_step(runs: int) -> Callable[..., tuple[Tensor, ...]]:
    """A function without arguments that takes one step of all copies, from the same state every time."""
    configs = [compose("policy=softmax", "env=cartpole", f"seed={seed}") for seed in range(runs)]
    parts = build(stack(configs))
    first = [generator_for(config.seed, "parameters") for config in configs]
    act = parts.policy.actor(parts.trained_policy.init(first, torch.float32))
    generator = Generator().manual_seed(0)
    state, observation = parts.env.reset(torch.rand(runs, COPIES, parts.env.spec.reset_noise_size, generator=generator))
    noise = parts.policy.draw_noise(generator, (runs, COPIES), torch.float32)
    running = torch.ones(runs, COPIES, dtype=torch.bool)

    def step() -> tuple[Tensor, ...]:
        action = act(observation).sample(noise)
        after = parts.env.step(state, parts.policy.env_action(action), running)
        return action, after.observation, after.reward, after.terminated

    return step


def microseconds(step: Step) -> float:
    begun = time.perf_counter()
    for _ in range(STEPS):
        step()
    return (time.perf_counter() - begun) / STEPS * 1e6


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    print("runs  as it is  compiled  ratio  compiling  same bits")
    for runs in (1, 10, 50):
        step = one_step(runs)
        compiled: Step = torch.compile(step, dynamic=False)
        begun = time.perf_counter()
        after = compiled()
        compiling = time.perf_counter() - begun
        same = all(torch.equal(one, other) for one, other in zip(step(), after, strict=True))
        goes = [(microseconds(step), microseconds(compiled)) for _ in range(GOES)]
        plain, fused = (statistics.median(side) for side in zip(*goes, strict=True))
        ratio = statistics.median(one / other for one, other in goes)
        print(
            f"{runs:4}  {plain:5.0f} µs  {fused:5.0f} µs  {ratio:5.2f}  {compiling:7.1f} s  {'yes' if same else 'no'}"
        )


if __name__ == "__main__":
    main()
