"""Whether `torch.compile` would help: a step of policy and environment, and of an environment alone, both ways.

    python benchmarks/compile_speed.py        # about five minutes, most of it the compiler's; needs a C++ compiler

First CartPole, 16 copies a run, and the default softmax policy; then 1,024 copies of the two environments that take the
most operations, without a policy. One thread. The sides alternate; each number is the median of five goes. It is why
there is no key `compile`: see README.md, How fast.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from pg_experiments import compose
from pg_experiments.randomness import generator_for
from pg_experiments.runs import build, stack

COPIES, MANY_COPIES, GOES, STEPS = 16, 1024, 5, 300

Step = Callable[[], tuple[Tensor, ...]]


def step_with_policy(runs: int) -> Step:
    """Takes one step of all copies of CartPole, from the same state every time."""
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


def step_alone(name: str, policy: str) -> Step:
    """The same of many copies of an environment, with the actions that a new policy of this kind draws."""
    config = compose(f"env={name}", f"policy={policy}")
    parts = build(stack([config]))
    act = parts.policy.actor(parts.trained_policy.init([generator_for(config.seed, "parameters")], torch.float32))
    generator, shape = Generator().manual_seed(0), (1, MANY_COPIES)
    state, observation = parts.env.reset(torch.rand(*shape, parts.env.spec.reset_noise_size, generator=generator))
    action = parts.policy.env_action(act(observation).sample(parts.policy.draw_noise(generator, shape, torch.float32)))
    running = torch.ones(shape, dtype=torch.bool)

    def step() -> tuple[Tensor, ...]:
        after = parts.env.step(state, action, running)
        return *after.state, after.observation, after.reward, after.terminated

    return step


def compare(name: str, step: Step) -> None:
    """Compile, measure and print."""
    compiled: Step = torch.compile(step, dynamic=False)
    begun = time.perf_counter()
    after = compiled()
    compiling = time.perf_counter() - begun
    same = all(torch.equal(one, other) for one, other in zip(step(), after, strict=True))
    goes = [(microseconds(step), microseconds(compiled)) for _ in range(GOES)]
    plain, fused = (statistics.median(side) for side in zip(*goes, strict=True))
    ratio = statistics.median(one / other for one, other in goes)
    print(f"{name:20}{plain:6.0f} µs{fused:7.0f} µs{ratio:7.2f}{compiling:9.1f} s  {'yes' if same else 'no'}")


def microseconds(step: Step) -> float:
    begun = time.perf_counter()
    for _ in range(STEPS):
        step()
    return (time.perf_counter() - begun) / STEPS * 1e6


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(1)
    print(f"{'':20}as it is  compiled  ratio  compiling  same bits")
    for runs in (1, 10, 50):
        compare(f"cartpole, {runs} run{'s' * (runs > 1)}", step_with_policy(runs))
    for name, policy in (("acrobot", "softmax"), ("bioreactor", "gaussian")):
        compare(name, step_alone(name, policy))


if __name__ == "__main__":
    main()
