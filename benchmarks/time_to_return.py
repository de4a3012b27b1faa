"""Time to play CartPole at 475 and Pendulum at -200, beside Stable-Baselines3's PPO with the settings of its RL Zoo.

    python benchmarks/time_to_return.py            # about ten minutes; needs pip install -e '.[benchmark]'
    python benchmarks/time_to_return.py --seeds 2

One run at a time, each side in a process of its own on one core and one thread; the sides alternate. Ours are
`experiment=cartpole_ppo` and `pendulum_ppo`, and `cartpole_trpo` and `pendulum_trpo` with more copies than these have,
whose steps cost little more; which number of copies was found on seeds 1000 to 1005. Stable-Baselines3's settings are
the zoo's. All are for 100,000 env steps, and are evaluated after every so many env steps on 20 deterministic episodes;
the time of training up to the first evaluation that reaches the return counts, in seconds of the processor, and
evaluations do not. A run that never reaches it counts as the time of the whole run, and is told.
"""

import argparse
import os
import statistics
import subprocess
import sys

EPISODES = 20
REFERENCE = """
import sys, time, torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
torch.set_num_threads(1)
task, wanted = sys.argv[1], float(sys.argv[2])
every, seed, episodes = map(int, sys.argv[3:])
linear = lambda first: lambda left: first * left
if task == "cartpole":
    env, own = "CartPole-v1", dict(n_steps=32, batch_size=256, gae_lambda=0.8, gamma=0.98, n_epochs=20, ent_coef=0.0)
    copies, own = 8, own | dict(learning_rate=linear(1e-3), clip_range=linear(0.2))
else:
    env, own = "Pendulum-v1", dict(n_steps=1024, gae_lambda=0.95, gamma=0.9, n_epochs=10, ent_coef=0.0)
    copies, own = 4, own | dict(learning_rate=1e-3, clip_range=0.2, use_sde=True, sde_sample_freq=4)
shown = make_vec_env(env, 4, seed=seed + 10000)
model = PPO("MlpPolicy", make_vec_env(env, copies, seed=seed), seed=seed, device="cpu", **own)

class Watch(BaseCallback):
    spent, reached, nextly = 0.0, False, every
    def _on_step(self):
        return not self.reached
    def _on_rollout_start(self):  # the update before it is over
        if self.num_timesteps >= self.nextly and not self.reached:
            self.nextly += every
            begin = time.process_time()
            self.reached = evaluate_policy(model, shown, episodes)[0] >= wanted
            self.spent += time.process_time() - begin
    def _on_training_end(self):  # after the last update
        self._on_rollout_start()

watch, begin = Watch(), time.process_time()
model.learn(100_000, callback=watch)
print(time.process_time() - begin - watch.spent, int(watch.reached), model.num_timesteps)
"""
OURS = """
import sys, time, torch
from pg_experiments import compose
from pg_experiments.batch import Batch
from pg_experiments.evaluation import evaluate_policy
wanted = float(sys.argv[2])
every, seed, episodes = map(int, sys.argv[3:6])
torch.set_num_threads(1)
config = compose(*sys.argv[6:], f"seed={seed}")
begin, spent, reached, nextly = time.process_time(), 0.0, False, every
batch = Batch([config])
while batch.env_steps[0] < config.total_env_steps and not reached:
    batch.iterate()
    if batch.env_steps[0] >= nextly:
        nextly, before = nextly + every, time.process_time()
        parts = batch.parts
        parameters = batch.state()["policy"]["parameters"]
        (found,) = evaluate_policy(parts.policy, parameters, parts.env, [seed + 10000], episodes, torch.float32)
        reached = found.return_mean >= wanted
        spent += time.process_time() - before
print(time.process_time() - begin - spent, int(reached), batch.env_steps[0])
"""
TASKS = {"cartpole": (475, 2048), "pendulum": (-200, 4096)}  # the return, and env steps between evaluations
SIDES: dict[str, dict[str, tuple[str, ...]]] = {  # per task; overrides of ours
    "cartpole": {
        "ours, PPO": ("experiment=cartpole_ppo",),
        "ours, TRPO": ("experiment=cartpole_trpo", "env.num_envs=32", "algorithm.rollout_steps=32"),
    },
    "pendulum": {
        "ours, PPO": ("experiment=pendulum_ppo",),
        "ours, TRPO": ("experiment=pendulum_trpo", "env.num_envs=32", "algorithm.rollout_steps=64"),
    },
}


def measured(program: str, *arguments: object) -> tuple[float, bool, int]:
    """Seconds of training, whether the return was reached, and the env steps up to there, on one core."""
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *map(str, arguments)],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        preexec_fn=lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1]),
    )
    seconds, reached, env_steps = answer.stdout.split()[-3:]
    return float(seconds), reached == "1", int(env_steps)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time to a return, beside Stable-Baselines3.")
    parser.add_argument("--seeds", type=int, default=10, help="of each side and task, from 0 on (default: 10)")
    seeds = range(parser.parse_args().seeds)
    print(f"{'':34}{'CPU seconds':>12}{'from':>8}{'to':>8}{'env steps':>12}{'reached':>10}{'ratio':>8}")
    for task, (wanted, every) in TASKS.items():
        found: dict[str, list[tuple[float, bool, int]]] = {side: [] for side in ("Stable-Baselines3", *SIDES[task])}
        for seed in seeds:
            for side, runs in found.items():
                overrides = SIDES[task].get(side)
                program = REFERENCE if overrides is None else OURS
                runs.append(measured(program, task, wanted, every, seed, EPISODES, *(overrides or ())))
        reference = statistics.median(seconds for seconds, *_ in found["Stable-Baselines3"])
        for side, runs in found.items():
            seconds, reached, env_steps = zip(*runs, strict=True)
            median = statistics.median(seconds)
            print(
                f"{f'{task} to {wanted}, {side}':34}{median:12.2f}{min(seconds):8.2f}{max(seconds):8.2f}"
                f"{statistics.median(env_steps):12,.0f}{f'{sum(reached)} of {len(runs)}':>10}{median / reference:8.2f}"
            )


if __name__ == "__main__":
    main()
