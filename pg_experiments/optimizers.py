"""torch's own element-wise optimizers with a learning rate, a schedule and a gradient norm limit per run."""

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pg_experiments.devices import moved
from pg_experiments.exact import per_run
from pg_experiments.modes import in_mode, known_mode_of, recordable
from pg_experiments.optimizer_rows import Kept, Whole
from pg_experiments.optimizer_settings import OptimizerSettings
from pg_experiments.policies.networks import Parameters
from pg_experiments.schedules import KL_ADAPTIVE, schedule_factors

KL_FACTOR = 1.5  # that the learning rate is divided or multiplied by
KL_LIMITS = (0.01, 100.0)  # that the product of all factors stays in


class Learner:
    """The parameters of a batch of runs and what a torch optimizer keeps of each of them.

    Attributes:
        parameters: changed in place.
        steps: done so far, per run: runs learn at different times.
        factor: what `kl_adaptive` has made of the learning rate, per run.
        kept: what torch's optimizer keeps between steps.
    """

    def __init__(self, settings: OptimizerSettings, parameters: Parameters) -> None:
        self.settings = settings
        self.parameters = parameters
        self.mode = known_mode_of(type(self), settings.torch_class)
        self.steps = [0] * len(settings.lr)
        self.factor = torch.ones_like(settings.lr, dtype=torch.float64)
        # gradients since the last step, and their sum
        self._gathered = torch.zeros_like(settings.lr, dtype=torch.long)
        gathers = settings.accumulate > 1
        self._sum = {name: torch.zeros_like(part) for name, part in parameters.items() if gathers}
        self.kept = Kept()
        self.wholes: dict[int, Whole] = {}  # of this learner, and of it and another one
        self._latest: tuple[Tensor, Tensor, Tensor] | None = None  # progress, limit and learning rate

    @in_mode
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
        ((norm, lr),) = step_all([self], self.kept, [gradients], progress)
        return norm, lr

    def limit_and_lr(
        self, progress: Float[Tensor, " runs"], dtype: torch.dtype
    ) -> tuple[Float[Tensor, " runs"], Float[Tensor, " runs"]]:
        """The limit of the gradient's norm, and the learning rate."""
        adaptive = self.settings.schedule == KL_ADAPTIVE
        if self._latest is None or self._latest[0] is not progress or adaptive:
            factors = self.factor if adaptive else schedule_factors(self.settings.schedule, progress)
            lr = self.settings.lr.to(dtype) * factors.to(dtype)
            self._latest = progress, self.settings.max_gradient_norm.to(dtype), lr
        return self._latest[1:]

    @in_mode
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

    def select(self, rows: Int64[Tensor, " rows"]) -> "Learner":
        """A copy with the given runs only."""
        chosen = Learner(
            self.settings.select(rows), {name: part.index_select(0, rows) for name, part in self.parameters.items()}
        )
        chosen.steps = [self.steps[row] for row in rows.tolist()]
        chosen.factor = self.factor[rows]
        chosen._gathered = self._gathered[rows]
        chosen._sum = {name: part.index_select(0, rows) for name, part in self._sum.items()}
        chosen.kept.elements = {key: part.index_select(0, rows) for key, part in self.kept.elements.items()}
        chosen.kept.numbers = {key: part[rows.to(part.device)] for key, part in self.kept.numbers.items()}
        return chosen

    def copy(self) -> "Learner":
        """A copy with all runs: what `select` of all gives, with fewer operations and the same scratch."""
        copied = copy(self)
        copied.parameters, copied._sum = _copies(self.parameters), _copies(self._sum)
        copied.steps, copied.factor, copied._gathered = list(self.steps), self.factor.clone(), self._gathered.clone()
        copied.kept = Kept()
        copied.kept.elements, copied.kept.numbers = _copies(self.kept.elements), _copies(self.kept.numbers)
        return copied

    def state(self, rows: Int64[Tensor, " rows"] | None = None) -> dict[str, Any]:
        """Everything, as tensors whose rows are the runs.

        Args:
            rows: which runs, copied; None: all, and the tensors themselves, which the next step or `load` changes.
        """

        def own(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
            if rows is None:
                return dict(parts)
            return {key: part.index_select(0, rows.to(part.device)) for key, part in parts.items()}

        of_runs = {"steps": torch.tensor(self.steps), "factor": self.factor, "gathered": self._gathered}
        return {
            "parameters": own(self.parameters),
            **own(of_runs),
            "sum": own(self._sum),
            "elements": own(self.kept.elements),
            "numbers": own(self.kept.numbers),
        }

    @in_mode
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
        for kept, parts in (
            (self.kept.elements, moved(state["elements"], device)),
            (self.kept.numbers, state["numbers"]),
        ):
            for key, part in parts.items():
                own = kept.setdefault(key, part.new_zeros(len(self.steps), *part.shape[1:]))
                own.index_copy_(0, rows.to(own.device), part.to(own.device))


def _copies(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: part.clone() for key, part in parts.items()}


def scratch_of(learners: Sequence[Learner]) -> Whole:
    """Their scratch, made once."""
    wholes = learners[0].wholes
    if len(learners) not in wholes:
        wholes[len(learners)] = Whole.of(learners[0].settings, [learner.parameters for learner in learners])
    return wholes[len(learners)]


def step_all(
    learners: Sequence[Learner],
    kept: Kept,
    gradients: Sequence[Parameters],
    progress: Float[Tensor, " runs"],
    known: bool = False,
) -> list[tuple[Float[Tensor, " runs"], Float[Tensor, " runs"]]]:
    """One step of all runs of some learners, whose optimizers are the same: norms and learning rates.

    Args:
        known: the scratch holds the parameters: nobody has changed them since the step before.
    """
    whole = scratch_of(learners)
    for learner, own, value_of, gradient_of in zip(learners, gradients, whole.value_of, whole.gradient_of, strict=True):
        for name, place in gradient_of.items():
            place.copy_(own[name])
        for name, place in value_of.items() if not known else ():
            place.copy_(learner.parameters[name])
    old, found, scales = whole.value.clone(), [], []
    for learner, gradient, size in zip(learners, whole.gradient.split(len(progress)), whole.sizes, strict=True):
        norm = gradient[:, :size].square().sum(1).sqrt()
        limit, lr = learner.limit_and_lr(progress, norm.dtype)
        scales.append(torch.where(norm > limit, limit / norm, 1.0))
        found.append((norm, lr))
    one = len(learners) == 1
    whole.gradient.mul_((scales[0] if one else torch.cat(scales))[:, None])
    kept.let_step(whole, learners[0].settings, learners[0].steps)
    rates = found[0][1] if one else torch.cat([lr for _, lr in found])
    whole.value.sub_(old).mul_(rates[:, None]).add_(old)  # in place: it takes as long as Adam
    for learner, value_of in zip(learners, whole.value_of, strict=True):
        for name, place in value_of.items():
            learner.parameters[name].copy_(place)
        learner.steps = [steps + 1 for steps in learner.steps]
    return [(recordable(norm), recordable(lr)) for norm, lr in found]
