"""A trained policy as a plain `torch.nn.Module`."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pg_experiments.algorithms.interface import rollout_steps_of
from pg_experiments.checkpoint import load, missing, named
from pg_experiments.config import Config, walk
from pg_experiments.devices import CPU, on
from pg_experiments.envs.checks import innermost
from pg_experiments.envs.interface import action_width
from pg_experiments.envs.restarting import tensors_of
from pg_experiments.errors import ConfigError, UserError
from pg_experiments.policies.interface import Policy
from pg_experiments.policies.networks import Parameters
from pg_experiments.runs import DTYPES, Parts, build, num_envs, stack
from pg_experiments.saved_config import load_config
from pg_experiments.sizing import available_bytes
from pg_experiments.trust import as_names
from pg_experiments.untrusted_files import size_inside, size_text


class PolicyModule(torch.nn.Module):
    """Observation in, the environment's action out: the mode of the policy, within the action bounds.

    Args:
        policy: of a batch of runs.
        parameters: of one run of it, `[1, ...]`.
    """

    def __init__(self, policy: Policy, parameters: Parameters) -> None:
        super().__init__()
        self.policy = policy
        self.names = list(parameters)
        for name in self.names:
            self.register_buffer(name.replace(".", "_"), parameters[name].detach().clone())

    def forward(self, observation: ArrayLike | Tensor) -> Tensor:
        """Act.

        Args:
            observation: `[observation]` or `[batch, observation]`; arrays and lists are converted. Of images, dicts and
                the like it takes the vectors that `envs.spaces.observations_of` makes. With `env.action_mask=true` the
                mask follows.

        Returns:
            The action, `[]` or `[batch]` (int64) for discrete actions, `[action]` or `[batch, action]` for continuous.
        """
        parameters = {name: self.get_buffer(name.replace(".", "_")) for name in self.names}
        x = torch.as_tensor(observation, dtype=parameters[self.names[0]].dtype)
        single = x.ndim == 1
        batch = x[None, None] if single else x[None]
        with torch.no_grad():
            action = self.policy.env_action(self.policy(parameters, batch).mode())[0]
        return action[0] if single else action


def load_policy(run_dir: str | Path, checkpoint: str = "last", trust: str | Sequence[str] = ()) -> PolicyModule:
    """The policy that a run's folder holds. No code of the folder is run.

    Args:
        run_dir: the folder, perhaps somebody else's.
        checkpoint: which one: `last`, `best` or `iteration_N`.
        trust: packages that its config may name classes of, such as `("my_package",)`; theirs is run.

    Raises:
        UserError: when the folder is no run, its checkpoint cannot be read, or it names what is not trusted.

    Example:
        `action = load_policy("outputs/runs/...")(observation)`
    """
    folder = Path(run_dir)
    policy, parameters, _ = restore(folder, checkpoint, as_names(trust))
    return PolicyModule(policy, parameters)


@on(CPU)  # where its policy acts, wherever it was trained
def restore(run_dir: Path, checkpoint: str = "last", trust: Sequence[str] = ()) -> tuple[Policy, Parameters, Config]:
    """A run's policy, its parameters `[1, ...]`, and its config."""
    config = load_config(run_dir, trust)
    _check_claims(run_dir, config, checkpoint)
    parts = build(stack([config]))
    expected = parts.policy.init([torch.Generator()], DTYPES[config.dtype])
    needed = _bytes(expected) + _baseline_bytes(parts, config) + _rollout_bytes(parts, config)
    saved = load(run_dir, checkpoint, needed)["policy"]["parameters"]
    for name, tensor in expected.items():
        if not _alike(saved.get(name), tensor):
            raise UserError(
                f"{run_dir}: the checkpoint does not fit the config: {name} should be {tuple(tensor.shape)}"
            )
    if added := [name for name in saved if name not in expected]:
        raise UserError(f"{run_dir}: the checkpoint does not fit the config: the policy has no {added[0]}")
    return parts.policy, saved, config


def _check_claims(run_dir: Path, config: Config, checkpoint: str) -> None:
    """Refuse a config whose networks would take far more memory than the checkpoint can fill, or than there is."""
    numbers, leaves = 0, {key: value for key, value, _ in walk(config)}
    for key, value in leaves.items():
        part, _, name = key.rpartition(".")
        counted = name == "hidden_sizes" or (name == "channels" and leaves.get(f"{part}.network") == "cnn")
        if counted and isinstance(value, list) and all(isinstance(size, int) for size in value):
            numbers += sum(rows * columns for rows, columns in pairwise(value))
    claimed = numbers * DTYPES[config.dtype].itemsize
    sizes = {path: size_inside(run_dir, path) for path in named(run_dir, checkpoint) if path.exists()}
    if not sizes:
        raise missing(run_dir, checkpoint)
    path = max(sizes, key=lambda path: sizes[path])
    if claimed > sizes[path]:
        raise UserError(
            f"{path}: cannot be read (it has {size_text(sizes[path])}, and its config makes networks of "
            f" at least {size_text(claimed)} by hidden_sizes and channels)"
        )
    if claimed > available_bytes():
        raise ConfigError("hidden_sizes", None, f"networks of {size_text(claimed)} are more than the free memory")


def _bytes(parameters: Parameters) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in parameters.values())


def _baseline_bytes(parts: Parts, config: Config) -> int:
    learner = parts.baseline.init([torch.Generator()], DTYPES[config.dtype])
    return _bytes(learner.parameters) if learner else 0


def _alike(saved: object, expected: Tensor) -> bool:
    return isinstance(saved, Tensor) and saved.shape == expected.shape and saved.dtype == expected.dtype


def _rollout_bytes(parts: Parts, config: Config) -> int:
    """Of the episodes in progress: each copy's state, or the actions that led there."""
    if rollout_steps_of(parts.algorithm) is None:
        return 0
    env, dtype = parts.env, DTYPES[config.dtype]
    if hasattr(innermost(env), "restart"):  # see `replaying.py`; whole numbers have 8 bytes
        return num_envs(config) * env.spec.max_episode_steps * action_width(env.spec.actions) * 8
    state, _ = env.reset(torch.full((1, 1, env.spec.reset_noise_size), 0.5, dtype=dtype))
    return num_envs(config) * sum(part.numel() * part.element_size() for part in tensors_of(state))
