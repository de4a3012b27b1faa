"""The golden numbers: three updates in float64 for every policy, algorithm and baseline that `conf/` has.

`python tests/golden.py --write` writes `tests/golden.json` again, after a change that is meant to change results, and
`python tests/golden.py --print` prints what it would write.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import torch

from pg_experiments import compose
from pg_experiments.batch import Batch, parameters_of
from pg_experiments.composition import conf_dir
from pg_experiments.config import Config
from pg_experiments.results import parameters_sha256
from pg_experiments.surroundings import cpu_model

FILE = Path(__file__).resolve().parent / "golden.json"
UPDATES = 3
FIRST = 4  # numbers of every tensor that the file holds
OWN_SPACES = ("env=gymnasium", "env.id=own_spaces:OwnSpaces-v0")
ENVS = {  # for every policy one that it fits
    "softmax": ("env=cartpole", "policy.hidden_sizes=[7,5]"),
    "gaussian": ("env=pendulum", "env.max_episode_steps=40", "policy.hidden_sizes=[7,5]"),
    "squashed_gaussian": ("env=pendulum", "env.max_episode_steps=40", "policy.hidden_sizes=[7,5]"),
    "beta": ("env=navigation", "env.max_episode_steps=40", "policy.hidden_sizes=[7,5]"),
    "von_mises": ("env=pendulum", "env.max_episode_steps=40", "policy.hidden_sizes=[7,5]"),
    "linear_softmax": ("env=cartpole",),
    "linear_gaussian": ("env=pendulum", "env.max_episode_steps=40"),
    "multi_categorical": (*OWN_SPACES, "env.kwargs.kind=multi_discrete", "policy.hidden_sizes=[7,5]"),
    "bernoulli": (*OWN_SPACES, "env.kwargs.kind=multi_binary", "policy.hidden_sizes=[7,5]"),
    "mixed": (*OWN_SPACES, "env.kwargs.kind=dict", "policy.hidden_sizes=[7,5]"),
    "auto": ("env=cartpole", "policy.hidden_sizes=[7,5]"),
    "tabular_softmax": ("env=gymnasium", "env.id=FrozenLake-v1"),
}
NATURAL = ("npg", "trpo")  # need a policy with a network
SHARING = ("actor_critic", "ppo")  # train policy and value together
WITHOUT_HIDDEN_LAYERS = ("linear_softmax", "linear_gaussian", "tabular_softmax")
SETTINGS = ("dtype=float64", "seed=11", "env.num_envs=4", "total_env_steps=2000", "logging.progress=none")


def options(group: str) -> list[str]:
    """The names of a group in `conf/`."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def combinations() -> Iterator[tuple[str, str, str]]:
    """Every policy, algorithm and baseline that go together."""
    for policy, algorithm, baseline in product(options("policy"), options("algorithm"), options("baseline")):
        if baseline == "shared_value":
            fits = algorithm in SHARING and policy not in WITHOUT_HIDDEN_LAYERS
        else:
            fits = algorithm == "reinforce" or baseline == "value_network"
        if fits and not (algorithm in NATURAL and policy == "tabular_softmax"):
            yield policy, algorithm, baseline


def writer() -> dict[str, Any]:
    """What the bits depend on besides this package: with another torch or processor they may differ."""
    return {
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu": cpu_model(),
    }


@cache
def _composed(*overrides: str) -> Config:
    return compose(*overrides)


def compute(policy: str, algorithm: str, baseline: str) -> dict[str, Any]:
    """The parameters after the updates: the hash of their bits, and the first numbers of every tensor."""
    parts = {
        "algorithm": _composed(f"algorithm={algorithm}").algorithm,
        "optimizer": _composed(f"algorithm={algorithm}").optimizer,
        "baseline": _composed(f"algorithm={algorithm}", f"baseline={baseline}").baseline,
    }
    batch = Batch([replace(_composed(f"policy={policy}", *ENVS[policy], *SETTINGS), **parts)])
    for _ in range(UPDATES):
        batch.iterate()
    parameters = parameters_of(batch.state())
    first = {name: tensor.flatten()[:FIRST].tolist() for name, tensor in sorted(parameters.items())}
    return {"parameters_sha256": parameters_sha256(parameters), "first": first}


def compute_all() -> dict[str, Any]:
    """The content of the file."""
    torch.set_num_threads(1)
    return {"written_by": writer(), "parameters": {" ".join(names): compute(*names) for names in combinations()}}


def main() -> None:
    """Do what is asked for; nothing is written unasked."""
    parser = argparse.ArgumentParser(description="The golden numbers that tests/test_golden.py compares with.")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help=f"write {FILE.name} again")
    action.add_argument("--print", action="store_true", help="print what would be written")
    options = parser.parse_args()
    text = json.dumps(compute_all(), indent=1) + "\n"
    if options.write:
        FILE.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
