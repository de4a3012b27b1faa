"""Env steps per second of actor_critic and ppo on CartPole-v1 beside Stable-Baselines3, measured in one go.

    python benchmarks/algorithm_speed.py            # about ten minutes; needs pip install -e '.[benchmark]'
    python benchmarks/algorithm_speed.py --quick    # one repetition

Every side is a process of its own on one core and one thread, with the same settings: A2C with 16 envs x 32 steps, PPO
with 8 envs x 128 steps and 4 epochs x 4 minibatches; policy and value networks of their own, 64-64, tanh. The sides
alternate, so that a machine that slows down slows all, and seconds are those of the processor, which other work on the
machine does not take. Printed are medians, and ratios of the same go. Every side has trained a little before its time
is taken; ours include the making of the parts and one evaluation episode. These are benchmarks, not tests: nothing
fails when a number is low.
"""

import argparse
import os
import statistics
import subprocess
import sys

REFERENCE = """
import sys, time, torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env
torch.set_num_threads(1)
networks = dict(net_arch=dict(pi=[64, 64], vf=[64, 64]), activation_fn=torch.nn.Tanh)
common = dict(policy_kwargs=networks, device="cpu", seed=0)
if sys.argv[1] == "a2c":
    model = A2C("MlpPolicy", make_vec_env("CartPole-v1", 16, seed=0), n_steps=32, **common)
else:
    model = PPO("MlpPolicy", make_vec_env("CartPole-v1", 8, seed=0), n_steps=128, batch_size=256, n_epochs=4, **common)
model.learn(5000)
begin, before = time.process_time(), model.num_timesteps
model.learn(int(sys.argv[2]), reset_num_timesteps=False)
print((model.num_timesteps - before) / (time.process_time() - begin))
"""
OURS = """
import sys, time
from pg_experiments import compose, train
runs, env_steps, overrides = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
own = ("policy=softmax", "env=cartpole", "policy.activation=tanh", "baseline.activation=tanh", "evaluation.episodes=1")
own += ("logging.progress=none", f"total_env_steps={env_steps}", *overrides)
configs = [compose(*own, f"seed={seed}") for seed in range(runs)]
train([compose(*own, "seed=100", "total_env_steps=5000")])
begin = time.process_time()
results = train(configs)
seconds = time.process_time() - begin
assert {result.status for result in results} == {"completed"}
print(sum(result.env_steps for result in results) / seconds)
"""
ACTOR_CRITIC = ("algorithm=actor_critic", "env.num_envs=16", "algorithm.rollout_steps=32")
PPO = (
    "algorithm=ppo",
    "env.num_envs=8",
    "algorithm.rollout_steps=128",
    "algorithm.epochs=4",
    "algorithm.minibatches=4",
)
SIDES = {  # name, program and arguments; ratios are to the latest reference
    "Stable-Baselines3 A2C": (REFERENCE, ("a2c", "60000")),
    "actor_critic, 1 run": (OURS, ("1", "300000", *ACTOR_CRITIC)),
    "actor_critic, 50 runs": (OURS, ("50", "30000", *ACTOR_CRITIC)),
    "Stable-Baselines3 PPO": (REFERENCE, ("ppo", "30000")),
    "ppo, 1 run": (OURS, ("1", "90000", *PPO)),
    "ppo, 20 runs": (OURS, ("20", "40960", *PPO)),
}


def measured(program: str, arguments: tuple[str, ...]) -> float:
    """What a program prints, on one core."""
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *arguments],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        preexec_fn=lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1]),
    )
    return float(answer.stdout.split()[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Speed of actor_critic and ppo, beside Stable-Baselines3.")
    parser.add_argument("--quick", action="store_true", help="one repetition instead of five")
    repetitions = 1 if parser.parse_args().quick else 5
    speeds: dict[str, list[float]] = {name: [] for name in SIDES}
    ratios: dict[str, list[float]] = {name: [] for name in SIDES}
    for _ in range(repetitions):
        reference = 1.0
        for name, (program, arguments) in SIDES.items():
            speeds[name].append(measured(program, arguments))
            reference = speeds[name][-1] if program is REFERENCE else reference
            ratios[name].append(speeds[name][-1] / reference)
    print(f"{'env steps per CPU second':32}{'median':>10}{'lowest':>10}{'ratio':>8}{'from':>7}{'to':>7}")
    for name, values in speeds.items():
        own = ratios[name]
        print(
            f"{name:32}{statistics.median(values):10,.0f}{min(values):10,.0f}"
            f"{statistics.median(own):8.1f}{min(own):7.1f}{max(own):7.1f}"
        )


if __name__ == "__main__":
    main()
