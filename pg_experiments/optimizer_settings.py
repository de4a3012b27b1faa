"""Which of torch's optimizers, with which numbers per run; and whether it fits."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pg_experiments.devices import CPU, on
from pg_experiments.errors import ConfigError, first_line
from pg_experiments.torch_steps import one_step

TRIAL_STEPS = 30  # enough for a limit on step sizes to show
_FOUND_TO_FIT: set[tuple[Any, str]] = set()  # class and arguments: trying one takes longer than an iteration
FITTING = "Adam, AdamW, NAdam, RAdam, Adamax, Adagrad, Adadelta, RMSprop and SGD"


@dataclass(frozen=True)
class OptimizerSettings:
    """Which optimizer, and its numbers per run.

    Attributes:
        torch_class: an element-wise subclass of `torch.optim.Optimizer`.
        arguments: for its constructor, without `lr`.
        lr: learning rate, at least 0.
        schedule: see `schedule_factor`, or `kl_adaptive`, see `Learner.adapt`.
        max_gradient_norm: limit of the gradient's Euclidean norm; infinite: no limit.
        target_kl: of `kl_adaptive`, > 0, in nats.
        accumulate: so many gradients of a run are averaged for one step.
    """

    torch_class: type[torch.optim.Optimizer]
    arguments: Mapping[str, Any]
    lr: Float[Tensor, " runs"]
    schedule: str
    max_gradient_norm: Float[Tensor, " runs"]
    target_kl: Float[Tensor, " runs"] | None = None
    accumulate: int = 1

    def select(self, rows: Int64[Tensor, " rows"]) -> "OptimizerSettings":
        """The settings of the given runs."""
        target_kl = self.target_kl if self.target_kl is None else self.target_kl[rows]
        return replace(self, lr=self.lr[rows], max_gradient_norm=self.max_gradient_norm[rows], target_kl=target_kl)

    @on(CPU)
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
        if self.arguments.get("nesterov") and not (
            self.arguments.get("momentum") and not self.arguments.get("dampening")
        ):
            raise ConfigError(f"{key}.nesterov", True, f"needs {key}.momentum above 0, and {key}.dampening=0")
        tried = (self.torch_class, repr(sorted(self.arguments.items())))
        if tried in _FOUND_TO_FIT:
            return
        rates = (0.5, 0.02)
        start = torch.tensor([[0.3, -1.2, 0.7], [2.0, 0.1, -0.4]], dtype=torch.float64)
        together = start.clone()
        alone = [start[run].clone() for run in range(2)]
        try:
            steppers = [
                self.make([together], 1.0),
                *(self.make([alone[run]], rates[run]) for run in range(2)),
            ]
            for step in range(TRIAL_STEPS):
                old = together.clone()
                together.grad = (start * (step + 1)).sin() + torch.tensor([1.5, 0.0, 0.0], dtype=torch.float64)
                for run in range(2):
                    alone[run].grad = together.grad[run].clone()
                for stepper in steppers:
                    one_step(stepper)
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
        for name, value in steppers[0].state[together].items():
            if not (value is None or isinstance(value, Tensor)):
                kept = f"keeps {name} as {type(value).__name__}, and only tensors are kept between iterations"
                raise ConfigError(f"{key}._target_", self._name, f"{kept}; {FITTING} can be used")
        _FOUND_TO_FIT.add(tried)

    @property
    @on(CPU)
    def state_tensors(self) -> int:
        """How many numbers the optimizer remembers for every parameter, found by a step with one."""
        parameter = torch.zeros(2)
        parameter.grad = torch.ones(2)
        optimizer = self.make([parameter], 1.0)
        one_step(optimizer)
        state = optimizer.state[parameter].values()
        kept = sum(isinstance(value, Tensor) and value.shape == parameter.shape for value in state)
        return kept + (self.accumulate > 1)

    def make(self, parameters: list[Tensor], lr: float) -> torch.optim.Optimizer:
        """torch's optimizer of these tensors, with this learning rate for all."""
        return self.torch_class(parameters, lr=lr, **self.arguments)  # type: ignore[call-arg]

    @property
    def _name(self) -> str:
        return f"{self.torch_class.__module__}.{self.torch_class.__qualname__}"
