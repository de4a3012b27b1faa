"""What the wrappers of an environment share: they are environments, whose state begins with the inner one's."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from pg_experiments.envs.checks import name_of
from pg_experiments.envs.interface import Env, EnvSpec, EnvState


class WrapperState(NamedTuple):
    """Of every copy: the inner environment's own, and one tensor `[runs, envs, ...]` of the wrapper."""

    inner: EnvState
    own: Tensor


class Wrapper:
    """Names, sizes and the rows of the state; `reset` and `step` are the wrapper's own.

    Attributes:
        inner: the environment inside.
        spec: what the policy sees.
    """

    def __init__(self, inner: Env, spec: EnvSpec) -> None:
        self.inner, self.spec = inner, spec
        self.name = name_of(inner)

    def select(self, state: WrapperState, rows: Int64[Tensor, " rows"]) -> WrapperState:
        return WrapperState(self.inner.select(state.inner, rows), state.own[rows])

    def join(self, states: Sequence[WrapperState]) -> WrapperState:
        inner = self.inner.join([state.inner for state in states])
        return WrapperState(inner, torch.cat([state.own for state in states]))
