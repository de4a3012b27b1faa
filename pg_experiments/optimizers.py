"""torch's own element-wise optimizers with a learning rate, a schedule and a gradient norm limit per run."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pg_experiments.devices import CPU, moved, on
from pg_experiments.exact import per_run
from pg_experiments.optimizer_settings import OptimizerSettings
from pg_experiments.policies.networks import FIXED, Parameters
from pg_experiments.schedules import KL_ADAPTIVE, schedule_factors
from pg_experiments.torch_steps import one_step

WHOLE = 64  # elements: a multiple of what torch computes at once, with any type
KL_FACTOR = 1.5  # that the learning rate is divided or multiplied by
KL_LIMITS = (0.01, 100.0)  # that the product of all factors stays in


class _Whole(NamedTuple):
    """All parameters that learn as one tensor, `[runs, elements]`, and their gradients as another: fewer operations.

    They are scratch, kept because making them and the optimizer takes long. They are filled up, so that torch computes
    all elements by the same code.

    Attributes:
        size: elements without the filling.
        value_of, gradient_of: where each parameter is in them, in its shape.
        optimizer: of `value`.
    """

    value: Tensor
    gradient: Tensor
    size: int
    value_of: Parameters
    gradient_of: Parameters
    optimizer: torch.optim.Optimizer

    @classmethod
    def of(cls, settings: OptimizerSettings, parameters: Parameters) -> "_Whole":
        learning = {name: part for name, part in parameters.items() if FIXED not in name}  # others would feel a decay
        sizes = [part[0].numel() for part in learning.values()]
        size = sum(sizes)
        first = next(iter(learning.values()))
        value, gradient = (first.new_zeros(len(first), size + -size % WHOLE) for _ in range(2))
        value_of, gradient_of = (
            {
                name: part.unflatten(1, learning[name].shape[1:])
                for name, part in zip(learning, whole[:, :size].split(sizes, 1), strict=True)
            }
            for whole in (value, gradient)
        )
        value.grad = gradient
        return cls(value, gradient, size, value_of, gradient_of, settings.make([value], 1.0))


class Learner:
    """The parameters of a batch of runs and what a torch optimizer keeps of each of them.

    Attributes:
        parameters: changed in place.
        steps: done so far, per run: runs learn at different times.
        factor: what `kl_adaptive` has made of the learning rate, per run.
    """

    def __init__(self, settings: OptimizerSettings, parameters: Parameters) -> None:
        self.settings = settings
        self.parameters = parameters
        self.steps = [0] * len(settings.lr)
        self.factor = torch.ones_like(settings.lr, dtype=torch.float64)
        # gradients since the last step, and their sum
        self._gathered = torch.zeros_like(settings.lr, dtype=torch.long)
        gathers = settings.accumulate > 1
        self._sum = {name: torch.zeros_like(part) for name, part in parameters.items() if gathers}
        # what torch keeps of each element, `[runs, elements]`, and of a tensor as a whole, here of a run, `[runs]`;
        # the latter, such as a count of steps, torch keeps on the CPU, because it reads them
        self._elements: dict[str, Tensor] = {}
        self._numbers: dict[str, Tensor] = {}
        self._whole: _Whole | None = None
        self._limit_and_lr: tuple[Tensor, Tensor] | None = None  # of the settings, in the parameters' type

    def step(
        self, gradients: Parameters, progress: Float[Tensor, " runs"], going: Bool[Tensor, " runs"] | None = None
    ) -> tuple[Float[Tensor, " runs"], Float[Tensor, " runs"]]:
        """Change the parameters in place by one step, of runs that have gathered `accumulate` gradients.

        The gradient of a run whose norm is above its limit is scaled down to the limit. torch's optimizer then steps
        with learning rate 1, and each run keeps the fraction `lr` of its own step: new = old + lr · (stepped - old).

        Args:
            gradients: of the loss, for every parameter.
            progress: fraction of the run that is over, for the schedule.
            going: the runs that take part, the others stay as they are; None: all.

        Returns:
            The norm of the gradient, or of the mean so far, before the limit; and the learning rate.
        """
        if self.settings.accumulate > 1:
            gradients, going = self._gather(gradients, going)
        if going is None:
            return self._step(gradients, progress)
        staying = (~going).nonzero()[:, 0]
        kept = self.state(staying) if len(staying) else None
        found = self._step(gradients, progress)
        if kept:
            self.load(staying, kept)
        return found

    def _gather(
        self, gradients: Parameters, going: Bool[Tensor, " runs"] | None
    ) -> tuple[Parameters, Bool[Tensor, " runs"]]:
        """Add the gradients of the runs that take part: their means so far, and the runs that have enough of them."""
        taking = torch.ones_like(self._gathered, dtype=torch.bool) if going is None else going
        self._gathered += taking
        due = taking & (self._gathered == self.settings.accumulate)
        means = {}
        for name, total in self._sum.items():
            total += torch.where(per_run(taking, total), gradients[name], 0.0)
            means[name] = total / per_run(self._gathered.clamp(min=1).to(total.dtype), total)
            total.masked_fill_(per_run(due, total), 0.0)
        self._gathered[due] = 0
        return means, due

    def _step(
        self, gradients: Parameters, progress: Float[Tensor, " runs"]
    ) -> tuple[Float[Tensor, " runs"], Float[Tensor, " runs"]]:
        """One step of all runs."""
        whole = self._whole = self._whole or _Whole.of(self.settings, self.parameters)
        for name, place in whole.gradient_of.items():
            place.copy_(gradients[name])
        for name, place in whole.value_of.items():
            place.copy_(self.parameters[name])
        old, gradient, schedule = whole.value.clone(), whole.gradient, self.settings.schedule
        norm = gradient[:, : whole.size].square().sum(1).sqrt()
        if self._limit_and_lr is None:
            self._limit_and_lr = self.settings.max_gradient_norm.to(norm.dtype), self.settings.lr.to(norm.dtype)
        limit, lr = self._limit_and_lr
        gradient *= torch.where(norm > limit, limit / norm, 1.0)[:, None]
        factors = self.factor if schedule == KL_ADAPTIVE else schedule_factors(schedule, progress)
        lr = lr * factors.to(norm.dtype)
        self._let_step(whole)
        whole.value.sub_(old).mul_(lr[:, None]).add_(old)  # in place: it takes as long as Adam
        for name, place in whole.value_of.items():
            self.parameters[name].copy_(place)
        self.steps = [steps + 1 for steps in self.steps]
        return norm, lr

    def adapt(self, kl: Float[Tensor, " runs"], stepped: Bool[Tensor, " runs"]) -> None:
        """Let the learning rate of the next step follow what the last one did to the policy, as `kl_adaptive`.

        It is divided by 1.5 when the step was more than twice as large as wanted, multiplied by 1.5 when it was less
        than half as large, and stays within a hundredth and a hundred times `lr`.

        Source: Schulman et al. (2017), arXiv:1707.06347, section 4, for a penalty's coefficient; Rudin et al. (2022),
        arXiv:2109.11978, and their library rsl_rl, for the learning rate.

        Args:
            kl: mean KL divergence of the policy before the step from the one behind it, in nats.
            stepped: the runs that have taken one.
        """
        assert self.settings.target_kl is not None
        target, kl = self.settings.target_kl, kl.double()
        factor = torch.where(kl > 2 * target, self.factor / KL_FACTOR, self.factor)
        factor = torch.where(kl < target / 2, factor * KL_FACTOR, factor).clamp(*KL_LIMITS)
        self.factor = torch.where(stepped, factor, self.factor)

    @on(CPU)  # for what torch makes besides tensors that are like a parameter
    def _let_step(self, whole: _Whole) -> None:
        """Let torch's optimizer change the value along the gradient, with what it has kept of each element.

        Runs that have done equally many steps are one parameter to it; otherwise each run is one, with its own count.
        """
        if len(set(self.steps)) > 1:
            self._let_each_step(whole)
            return
        state: dict[str, Any] = {}
        if self.steps[0]:
            state = self._elements | {key: part[0] for key, part in self._numbers.items()}
        whole.optimizer.state[whole.value] = state
        one_step(whole.optimizer)
        for key, value in state.items():
            if not isinstance(value, Tensor):
                continue  # None: such as the momentum of an SGD without one
            if value.shape != whole.value.shape:
                if key not in self._numbers:
                    self._numbers[key] = value.new_zeros(len(self.steps), *value.shape)
                self._numbers[key][:] = value
            elif value is not self._elements.get(key):
                self._elements[key] = value.clone()  # it may be the gradient itself

    def _let_each_step(self, whole: _Whole) -> None:
        """The same for runs that have done different numbers of steps."""
        parameters = list(whole.value)  # views: changed in place, as what is kept
        optimizer = self.settings.make(parameters, 1.0)
        for run, parameter in enumerate(parameters):
            parameter.grad = whole.gradient[run]
            if self.steps[run]:
                elements = {key: part[run] for key, part in self._elements.items()}
                optimizer.state[parameter] = elements | {key: part[run] for key, part in self._numbers.items()}
        one_step(optimizer)
        for run, parameter in enumerate(parameters):
            for key, value in optimizer.state[parameter].items():
                if not isinstance(value, Tensor):
                    continue
                of_elements = value.shape == parameter.shape
                kept = self._elements if of_elements else self._numbers
                if key not in kept:
                    kept[key] = value.new_zeros(whole.value.shape if of_elements else (len(parameters), *value.shape))
                if value.data_ptr() != kept[key][run].data_ptr() or not of_elements:
                    kept[key][run] = value

    def select(self, rows: Int64[Tensor, " rows"]) -> "Learner":
        """A copy with the given runs only."""
        chosen = Learner(
            self.settings.select(rows), {name: part.index_select(0, rows) for name, part in self.parameters.items()}
        )
        chosen.steps = [self.steps[row] for row in rows.tolist()]
        chosen.factor = self.factor[rows]
        chosen._gathered = self._gathered[rows]
        chosen._sum = {name: part.index_select(0, rows) for name, part in self._sum.items()}
        chosen._elements = {key: part.index_select(0, rows) for key, part in self._elements.items()}
        chosen._numbers = {key: part[rows.to(part.device)] for key, part in self._numbers.items()}
        if len(chosen.steps) == len(self.steps):
            chosen._whole = self._whole
        return chosen

    def state(self, rows: Int64[Tensor, " rows"] | None = None) -> dict[str, Any]:
        """A copy of everything, as tensors whose rows are the runs.

        Args:
            rows: which runs; None: all.
        """
        chosen = torch.arange(len(self.steps)) if rows is None else rows
        return {
            "parameters": {name: part.index_select(0, chosen) for name, part in self.parameters.items()},
            "steps": torch.tensor(self.steps)[chosen],
            "factor": self.factor[chosen],
            "gathered": self._gathered[chosen],
            "sum": {name: part.index_select(0, chosen) for name, part in self._sum.items()},
            "elements": {key: part.index_select(0, chosen) for key, part in self._elements.items()},
            "numbers": {key: part[chosen.to(part.device)] for key, part in self._numbers.items()},
        }

    def load(self, rows: Int64[Tensor, " rows"], state: Mapping[str, Any]) -> None:
        """Let the given runs go on from what `state` gave of them."""
        for row, steps in zip(rows.tolist(), state["steps"].tolist(), strict=True):
            self.steps[row] = steps
        device = self.factor.device
        self.factor[rows], self._gathered[rows] = state["factor"].to(device), state["gathered"].to(device)
        for name, part in self._sum.items():
            part.index_copy_(0, rows, state["sum"][name].to(device))
        for name, parameter in self.parameters.items():
            parameter.index_copy_(0, rows, state["parameters"][name].to(device))
        for kept, parts in ((self._elements, moved(state["elements"], device)), (self._numbers, state["numbers"])):
            for key, part in parts.items():
                own = kept.setdefault(key, part.new_zeros(len(self.steps), *part.shape[1:]))
                own.index_copy_(0, rows.to(own.device), part.to(own.device))
