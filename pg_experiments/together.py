"""Policy and value network, stepped as one tensor."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pg_experiments.modes import in_mode
from pg_experiments.optimizer_rows import Kept, filled
from pg_experiments.optimizers import Learner, scratch_of, step_all
from pg_experiments.policies.networks import Parameters


class Together:
    """Two learners of the same runs that take each step at the same time, where they fit as one tensor.

    That takes half as many operations, and every number is the one that the learner would have alone. Until `end`, what
    torch's optimizer keeps is here, and nobody else changes the parameters.

    Args:
        first, second: the learners.
        masked: some runs may stay as they are in a step; each learner then takes its own.
    """

    def __init__(self, first: Learner, second: Learner, masked: bool) -> None:
        self._learners, self.mode = (first, second), first.mode
        self._known = False
        self.as_one = not masked and self.fit(first, second)
        if self.as_one:
            self._join(first, second)

    @in_mode
    def _join(self, first: Learner, second: Learner) -> None:
        """Put side by side what torch's optimizer keeps of them."""
        self._kept = Kept()
        runs, width = len(first.steps), max(map(filled, scratch_of(self._learners).sizes))
        for key, part in first.kept.elements.items():
            joined = self._kept.elements[key] = part.new_zeros(2 * runs, width)
            for rows, learner in zip(joined.split(runs), self._learners, strict=True):
                own = learner.kept.elements[key]
                rows[:, : own.shape[1]] = own
        for key in first.kept.numbers:
            self._kept.numbers[key] = torch.cat([learner.kept.numbers[key] for learner in self._learners])

    @staticmethod
    def fit(first: Learner, second: Learner) -> bool:
        """Whether their optimizers are the same but for learning rates and limits, and have done the same steps.

        A subclass is stepped alone, by its own `step`.
        """
        kinds = [
            (learner.settings.torch_class, dict(learner.settings.arguments), learner.settings.accumulate)
            for learner in (first, second)
        ]
        alike = type(first) is type(second) is Learner and kinds[0] == kinds[1]
        return alike and kinds[0][2] == 1 and len({*first.steps, *second.steps}) == 1

    def step(
        self,
        gradients: Sequence[Parameters],
        progress: Float[Tensor, " runs"],
        going: Bool[Tensor, " runs"] | None = None,
    ) -> list[tuple[Float[Tensor, " runs"], Float[Tensor, " runs"]]]:
        """`Learner.step` of both: norms and learning rates.

        Args:
            gradients: of each learner's loss.
            progress: as for `Learner.step`.
            going: the same; only where `masked`.
        """
        if not self.as_one:
            pairs = zip(self._learners, gradients, strict=True)
            return [learner.step(own, progress, going) for learner, own in pairs]
        with self.mode():
            found = step_all(self._learners, self._kept, gradients, progress, self._known)
        self._known = True
        return found

    @in_mode
    def end(self) -> None:
        """Give each learner back what torch's optimizer keeps of it."""
        if not self.as_one:
            return
        runs = len(self._learners[0].steps)
        for place, (learner, size) in enumerate(zip(self._learners, scratch_of(self._learners).sizes, strict=True)):
            rows = slice(place * runs, (place + 1) * runs)
            elements, numbers = self._kept.elements.items(), self._kept.numbers.items()
            learner.kept.elements = {key: part[rows, : filled(size)].clone() for key, part in elements}
            learner.kept.numbers = {key: part[rows].clone() for key, part in numbers}
