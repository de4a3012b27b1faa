"""A trained policy as a plain `torch.nn.Module`."""

from pathlib import Path

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pg_experiments.checkpoint import load
from pg_experiments.composition import load_config
from pg_experiments.config import Config
from pg_experiments.errors import UserError
from pg_experiments.policies.interface import Policy
from pg_experiments.policies.networks import Parameters
from pg_experiments.runs import DTYPES, build, stack


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
            observation: `[observation]` or `[batch, observation]`; arrays and lists are converted.

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


def load_policy(run_dir: str | Path, checkpoint: str = "last") -> PolicyModule:
    """The policy that a run's folder holds.

    Args:
        run_dir: the folder.
        checkpoint: which one: `last`, `best` or `iteration_N`.

    Raises:
        UserError: when the folder is no run or its checkpoint cannot be read.

    Example:
        `action = load_policy("outputs/runs/...")(observation)`
    """
    folder = Path(run_dir)
    policy, parameters, _ = restore(folder, checkpoint)
    return PolicyModule(policy, parameters)


def restore(run_dir: Path, checkpoint: str = "last") -> tuple[Policy, Parameters, Config]:
    """A run's policy, its parameters `[1, ...]`, and its config."""
    config = load_config(run_dir)
    saved = load(run_dir, checkpoint)["policy"]["parameters"]
    parts = build(stack([config]))
    expected = parts.policy.init([torch.Generator()], DTYPES[config.dtype])
    for name, tensor in expected.items():
        if name not in saved or saved[name].shape != tensor.shape:
            raise UserError(
                f"{run_dir}: the checkpoint does not fit the config: {name} should be {tuple(tensor.shape)}"
            )
    return parts.policy, saved, config
