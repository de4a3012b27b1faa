"""Rows of numbers that one of torch's optimizers steps: the parameters of many runs, and what it keeps of them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pg_experiments.devices import CPU, on
from pg_experiments.optimizer_settings import OptimizerSettings
from pg_experiments.policies.networks import FIXED, Parameters
from pg_experiments.torch_steps import one_step

WHOLE = 64  # elements: a multiple of what torch computes at once, with any type


class Whole(NamedTuple):
    """All that some learners learn as one tensor, `[rows, elements]`, and its gradient: fewer operations.

    The rows are the runs of the first learner, then those of the next. Both tensors are scratch, kept because making
    them and the optimizer takes long. They are filled up, so that torch computes all elements by the same code.

    Attributes:
        sizes: elements of each learner, without the filling.
        value_of, gradient_of: of each learner, where its parameters are in them, in their shapes.
        optimizer: of `value`.
    """

    value: Tensor
    gradient: Tensor
    sizes: list[int]
    value_of: list[Parameters]
    gradient_of: list[Parameters]
    optimizer: torch.optim.Optimizer

    @classmethod
    def of(cls, settings: OptimizerSettings, parameters: Sequence[Parameters]) -> "Whole":
        """That of learners with equally many runs, and an optimizer of these settings.

        Args:
            parameters: of each learner, `[runs, ...]`.
        """
        # the others would feel a decay
        learning = [{name: part for name, part in parts.items() if FIXED not in name} for parts in parameters]
        sizes = [sum(part[0].numel() for part in parts.values()) for parts in learning]
        first = next(iter(learning[0].values()))
        runs = len(first)
        value, gradient = (first.new_zeros(len(learning) * runs, max(map(filled, sizes))) for _ in range(2))
        value.grad = gradient
        value_of, gradient_of = (
            [_places(rows, parts) for rows, parts in zip(whole.split(runs), learning, strict=True)]
            for whole in (value, gradient)
        )
        return cls(value, gradient, sizes, value_of, gradient_of, settings.make([value], 1.0))


def filled(size: int) -> int:
    """Elements of a row that `size` of them are filled up to."""
    return size + -size % WHOLE


def _places(whole: Float[Tensor, "runs elements"], parts: Parameters) -> Parameters:
    """Views into the whole, one after the other, in the shapes of some tensors."""
    sizes = [part[0].numel() for part in parts.values()]
    views = whole[:, : sum(sizes)].split(sizes, 1)
    return {name: view.unflatten(1, part.shape[1:]) for (name, part), view in zip(parts.items(), views, strict=True)}


class Kept:
    """What torch's optimizer keeps of each element, `[rows, elements]`, and of a tensor as a whole, here of a row.

    The latter, `[rows]`, such as a count of steps, torch keeps on the CPU, because it reads them.
    """

    def __init__(self) -> None:
        self.elements: dict[str, Tensor] = {}
        self.numbers: dict[str, Tensor] = {}

    @on(CPU)  # for what torch makes besides tensors that are like a parameter
    def let_step(self, whole: Whole, settings: OptimizerSettings, steps: Sequence[int]) -> None:
        """Let torch's optimizer change the value along the gradient.

        Rows that have done equally many steps are one parameter to it; otherwise each row is one, with its own count.
        """
        if len(set(steps)) > 1:
            self._let_each_step(whole, settings, steps)
            return
        state: dict[str, Any] = {}
        if steps[0]:
            state = self.elements | {key: part[0] for key, part in self.numbers.items()}
        whole.optimizer.state[whole.value] = state
        one_step(whole.optimizer)
        for key, value in state.items():
            if not isinstance(value, Tensor):
                continue  # None: such as the momentum of an SGD without one
            if value.shape != whole.value.shape:
                if key not in self.numbers:
                    self.numbers[key] = value.new_zeros(len(whole.value), *value.shape)
                self.numbers[key][:] = value
            elif value is not self.elements.get(key):
                self.elements[key] = value.clone()  # it may be the gradient itself

    def _let_each_step(self, whole: Whole, settings: OptimizerSettings, steps: Sequence[int]) -> None:
        """The same of rows that have done different numbers of steps."""
        parameters = list(whole.value)  # views: changed in place, as what is kept
        optimizer = settings.make(parameters, 1.0)
        for row, parameter in enumerate(parameters):
            parameter.grad = whole.gradient[row]
            if steps[row]:
                elements = {key: part[row] for key, part in self.elements.items()}
                optimizer.state[parameter] = elements | {key: part[row] for key, part in self.numbers.items()}
        one_step(optimizer)
        for row, parameter in enumerate(parameters):
            for key, value in optimizer.state[parameter].items():
                if not isinstance(value, Tensor):
                    continue
                of_elements = value.shape == parameter.shape
                kept = self.elements if of_elements else self.numbers
                if key not in kept:
                    kept[key] = value.new_zeros(whole.value.shape if of_elements else (len(parameters), *value.shape))
                if value.data_ptr() != kept[key][row].data_ptr() or not of_elements:
                    kept[key][row] = value
