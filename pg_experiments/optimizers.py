"""torch's own element-wise optimizers with a learning rate, a schedule and a gradient norm limit per run."""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pg_experiments.errors import ConfigError, first_line
from pg_experiments.exact import per_run
from pg_experiments.policies.networks import Parameters

TRIAL_STEPS = 30  # enough for a limit on step sizes to show
FITTING = "Adam, AdamW, NAdam, RAdam, Adamax, Adagrad, Adadelta, RMSprop and SGD"


def _spare_the_compiler() -> None:
    """Let torch's optimizers be made without importing torch's compiler, which takes a second and is not used.

    `torch._disable_dynamo` imports it on the first call of what it wraps, only to find out how not to compile it; it
    looks for an answer kept on the function first. Where a release of torch does otherwise, nothing happens.
    """
    function = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    setattr(function, "__dynamo_disable", function)


_spare_the_compiler()


@torch.no_grad()
def _step(optimizer: torch.optim.Optimizer) -> None:
    """One step, without the wrappers around `step`, which import torch's compiler too."""
    inspect.unwrap(type(optimizer).step)(optimizer)


def schedule_factor(schedule: str, progress: float) -> float:
    """What a learning rate is multiplied by after the fraction `progress` (0 to 1) of a run's env steps.

    constant: 1. linear: 1 - p. cosine: (1 + cos πp) / 2 (Loshchilov and Hutter, 2017, arXiv:1608.03983, eq. 5).
    """
    progress = min(max(progress, 0.0), 1.0)
    if schedule == "linear":
        return 1 - progress
    if schedule == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    return 1.0


@dataclass(frozen=True)
class OptimizerSettings:
    """Which optimizer, and its numbers per run.

    Attributes:
        torch_class: an element-wise subclass of `torch.optim.Optimizer`.
        arguments: for its constructor, without `lr`.
        lr: learning rate, at least 0.
        schedule: see `schedule_factor`.
        max_gradient_norm: limit of the gradient's Euclidean norm; infinite: no limit.
    """

    torch_class: type[torch.optim.Optimizer]
    arguments: Mapping[str, Any]
    lr: Float[Tensor, " runs"]
    schedule: str
    max_gradient_norm: Float[Tensor, " runs"]

    def select(self, rows: Int64[Tensor, " rows"]) -> "OptimizerSettings":
        """The settings of the given runs."""
        return replace(self, lr=self.lr[rows], max_gradient_norm=self.max_gradient_norm[rows])

    def check(self, key: str) -> None:
        """Try the optimizer on a few numbers, and refuse one for which runs in one tensor are not runs alone.

        An optimizer fits when it changes each element by itself and in proportion to the learning rate. That rules out
        LBFGS, Adafactor, Muon, Rprop and ASGD.

        Args:
            key: name of the config part, for the message.

        Raises:
            ConfigError: names the class and what is wrong with it.
        """
        if not (isinstance(self.torch_class, type) and issubclass(self.torch_class, torch.optim.Optimizer)):
            raise ConfigError(f"{key}._target_", self._name, f"is no torch.optim.Optimizer; {FITTING} are")
        rates = (0.5, 0.02)
        start = torch.tensor([[0.3, -1.2, 0.7], [2.0, 0.1, -0.4]], dtype=torch.float64)
        together = start.clone()
        alone = [start[run].clone() for run in range(2)]
        try:
            steppers = [
                self._make([together], 1.0),
                *(self._make([alone[run]], rates[run]) for run in range(2)),
            ]
            for step in range(TRIAL_STEPS):
                old = together.clone()
                together.grad = (start * (step + 1)).sin() + torch.tensor([1.5, 0.0, 0.0], dtype=torch.float64)
                for run in range(2):
                    alone[run].grad = together.grad[run].clone()
                for stepper in steppers:
                    _step(stepper)
                together.copy_(old + torch.tensor(rates, dtype=torch.float64)[:, None] * (together - old))
        except Exception as error:  # torch's classes raise what they like for wrong arguments
            given = f"{type(error).__name__} with {dict(self.arguments)}: {first_line(error)}"
            raise ConfigError(f"{key}._target_", self._name, given) from error
        if not torch.allclose(together, torch.stack(alone), rtol=1e-6, atol=1e-9):
            raise ConfigError(
                f"{key}._target_",
                self._name,
                "does not change each element by itself and in proportion to lr, so runs cannot share it; "
                f"{FITTING} can be used",
            )

    @property
    def state_tensors(self) -> int:
        """How many numbers the optimizer remembers for every parameter, found by a step with one."""
        parameter = torch.zeros(2)
        parameter.grad = torch.ones(2)
        optimizer = self._make([parameter], 1.0)
        _step(optimizer)
        state = optimizer.state[parameter].values()
        return sum(isinstance(value, Tensor) and value.shape == parameter.shape for value in state)

    def _make(self, parameters: list[Tensor], lr: float) -> torch.optim.Optimizer:
        return self.torch_class(parameters, lr=lr, **self.arguments)  # type: ignore[call-arg]

    @property
    def _name(self) -> str:
        return f"{self.torch_class.__module__}.{self.torch_class.__qualname__}"


def copy(value: Any) -> Any:
    """A tensor's clone; plain numbers are copies already."""
    return value.clone() if isinstance(value, Tensor) else value


class Learner:
    """The parameters of a batch of runs and the torch optimizer that changes them."""

    def __init__(self, settings: OptimizerSettings, parameters: Parameters) -> None:
        self.settings = settings
        self.parameters = parameters
        self._optimizer = settings._make(list(parameters.values()), 1.0)

    def step(
        self, gradients: Parameters, progress: Float[Tensor, " runs"]
    ) -> tuple[Float[Tensor, " runs"], Float[Tensor, " runs"]]:
        """Change the parameters in place by one step.

        The gradient of a run whose norm is above its limit is scaled down to the limit. torch's optimizer then steps
        with learning rate 1, and each run keeps the fraction `lr` of its own step: new = old + lr · (stepped - old).

        Args:
            gradients: of the loss, for every parameter.
            progress: fraction of the run that is over, for the schedule.

        Returns:
            The gradient norm before the limit, and the learning rate that was used.
        """
        names = list(self.parameters)
        norm = torch.stack([gradients[name].flatten(1).square().sum(1) for name in names]).cumsum(0)[-1].sqrt()
        limit = self.settings.max_gradient_norm.to(norm.dtype)
        scale = torch.where(norm > limit, limit / norm, 1.0)
        factors = [schedule_factor(self.settings.schedule, value) for value in progress.tolist()]
        lr = self.settings.lr.to(norm.dtype) * torch.tensor(factors, dtype=norm.dtype)
        old = {name: self.parameters[name].clone() for name in names}
        for name in names:
            self.parameters[name].grad = gradients[name] * per_run(scale, gradients[name])
        _step(self._optimizer)
        for name in names:
            parameter = self.parameters[name]
            parameter.grad = None
            step = parameter.sub_(old[name]).mul_(per_run(lr, parameter))
            torch.add(old[name], step, out=parameter)
        return norm, lr

    def select(self, rows: Int64[Tensor, " rows"]) -> "Learner":
        """Keep the given runs only."""
        runs = len(self.settings.lr)
        chosen = Learner(
            self.settings.select(rows), {name: parameter[rows] for name, parameter in self.parameters.items()}
        )
        for name, parameter in self.parameters.items():
            chosen._optimizer.state[chosen.parameters[name]] = {
                key: value[rows] if isinstance(value, Tensor) and value.ndim and len(value) == runs else copy(value)
                for key, value in self._optimizer.state[parameter].items()
            }
        return chosen

    def state(self) -> dict[str, Any]:
        """A copy of everything, as tensors and plain numbers."""
        return {
            "parameters": {name: parameter.clone() for name, parameter in self.parameters.items()},
            "optimizer": {
                name: {key: copy(value) for key, value in self._optimizer.state[parameter].items()}
                for name, parameter in self.parameters.items()
            },
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        for name, parameter in self.parameters.items():
            parameter.copy_(state["parameters"][name])
            self._optimizer.state[parameter] = {key: copy(value) for key, value in state["optimizer"][name].items()}
