"""A trained policy as a plain `torch.nn.Module`."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pg_experiments.algorithms.interface import rollout_steps_of
from pg_experiments.checkpoint import load, missing, named
from pg_experiments.config import Config, walk
from pg_experiments.devices import CPU, on
from pg_experiments.envs.checks import innermost, name_of
from pg_experiments.envs.interface import DiscreteActions, Env, action_width
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
        env: that it was trained in.
    """

    def __init__(self, policy: Policy, parameters: Parameters, env: Env) -> None:
        super().__init__()
        self.policy = policy
        self._size = env.spec.observation_size
        self._has_numbered_actions = isinstance(env.spec.actions, DiscreteActions)
        self._name, self._spaces = name_of(env), getattr(innermost(env), "own_spaces", None)
        self.names = list(parameters)
        for name in self.names:
            self.register_buffer(name.replace(".", "_"), parameters[name].detach().clone())

    def forward(self, observation: ArrayLike | Tensor) -> Tensor:
        """Act.

        Args:
            observation: `[observation]` or `[batch, observation]`; arrays and lists are converted. Of images, dicts and
                the like it takes the vectors that `envs.spaces.observations_of` makes, or see `act`. With
                `env.action_mask=true` the mask follows.

        Returns:
            The action, `[]` or `[batch]` (int64) for discrete actions, counted from 0, `[action]` or `[batch, action]`
            for others, the parts of a Tuple or Dict one after the other.

        Raises:
            ValueError: for other shapes, and for numbers that are not finite.
        """
        parameters = {name: self.get_buffer(name.replace(".", "_")) for name in self.names}
        expected = f"expected {self._size} finite numbers, or rows of so many"
        try:
            x = torch.as_tensor(observation, dtype=parameters[self.names[0]].dtype)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"observation of type {type(observation).__name__}: {expected} ({error})") from error
        if x.ndim not in (1, 2) or x.shape[-1] != self._size:
            raise ValueError(f"observation of shape {tuple(x.shape)}: {expected}")
        if not bool(torch.isfinite(x).flatten().all(0)):
            raise ValueError(f"observation {x.tolist()}: {expected}")
        single = x.ndim == 1
        batch = x[None, None] if single else x[None]
        with torch.no_grad():
            action = self.policy.env_action(self.policy(parameters, batch).mode())[0]
        return action[0] if single else action

    def act(self, observation: Any) -> Any:
        """From one observation, as the environment gives it, to the action that its `step` takes.

        Dicts, tuples, images and numbered states are read as in training. Where a wrapper or `env.action_mask` adds to
        an observation (frames of before, the time, the mask), give the whole row to the module itself.

        Args:
            observation: of a Gymnasium environment what its observation space holds; of any other a row of numbers.

        Returns:
            Of a Gymnasium environment what its action space holds, such as a dict, or a number that counts from
            `start`; of any other an int for discrete actions, else a NumPy array `[action]`.

        Raises:
            ValueError: for an observation that is none of the environment's.
        """
        if self._spaces is None:
            action = self(observation).numpy()
            if action.ndim > (0 if self._has_numbered_actions else 1):
                raise ValueError(f"observation of shape {np.shape(observation)}: expected one, {self._size} numbers")
            return int(action) if self._has_numbered_actions else action
        from pg_experiments.envs.action_spaces import converter  # here, because it imports Gymnasium
        from pg_experiments.envs.spaces import observations_of

        observation_space, action_space = self._spaces
        vector = observations_of(self._name, observation_space).vector(observation)
        return converter(action_space)(self(vector).numpy())


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
    parts, parameters, _ = _restored(folder, checkpoint, as_names(trust))
    return PolicyModule(parts.policy, parameters, parts.env)


def restore(run_dir: Path, checkpoint: str = "last", trust: Sequence[str] = ()) -> tuple[Policy, Parameters, Config]:
    """A run's policy, its parameters `[1, ...]`, and its config."""
    parts, parameters, config = _restored(run_dir, checkpoint, trust)
    return parts.policy, parameters, config


@on(CPU)  # where its policy acts, wherever it was trained
def _restored(run_dir: Path, checkpoint: str, trust: Sequence[str]) -> tuple[Parts, Parameters, Config]:
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
    return parts, saved, config


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
    """Of the episodes in progress: what each copy shows, and its state, or the actions that led there."""
    if rollout_steps_of(parts.algorithm) is None:
        return 0
    env, dtype = parts.env, DTYPES[config.dtype]
    observation = env.spec.observation_size * dtype.itemsize
    if hasattr(innermost(env), "restart"):  # see `replaying.py`; whole numbers have 8 bytes
        return num_envs(config) * (observation + env.spec.max_episode_steps * action_width(env.spec.actions) * 8)
    state, _ = env.reset(torch.full((1, 1, env.spec.reset_noise_size), 0.5, dtype=dtype))
    return num_envs(config) * (observation + sum(part.numel() * part.element_size() for part in tensors_of(state)))
