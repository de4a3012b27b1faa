"""The value of the state as one more output of the policy's network."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from pg_experiments.baselines.interface import ValueFunction
from pg_experiments.errors import ConfigError
from pg_experiments.exact import per_run
from pg_experiments.optimizer_settings import OptimizerSettings
from pg_experiments.optimizers import Learner
from pg_experiments.policies.convolution import CNN
from pg_experiments.policies.interface import NetworkPolicy, Policy
from pg_experiments.policies.masking import MaskedNetwork
from pg_experiments.policies.networks import MLP, Network, Parameters


@dataclass(frozen=True)
class SharedValue:
    """V(s) = w · h(s) + b on the last hidden layer h of the policy's network, which learns from both losses.

    The loss is the policy's plus c times the mean of (V(s) - R)². Its gradient for the hidden layers is added to the
    policy's: `gradient/norm` and `optimizer.max_gradient_norm` are of this sum. w and b take the same steps as the
    policy, by the same optimizer, with a norm and a limit of their own; `gradient/baseline_norm` is theirs, with c.

    How much the hidden layers follow the value depends on the size of the rewards, other than with a network of its
    own: `env.reward_scale` or the wrapper `normalize_return` bring returns to about 1.

    Source: Mnih et al. (2016), arXiv:1602.01783, section 4 (one network with two outputs); Schulman et al. (2017),
    arXiv:1707.06347, eq. 9.

    Attributes:
        policy: whose network it is.
        policy_optimizer: settings of the policy's, which w and b follow.
        coefficient: c ≥ 0, per run.

    Raises:
        ConfigError: the policy's network is none of this package's, or has no hidden layers.
    """

    policy: Policy
    policy_optimizer: OptimizerSettings
    coefficient: Float[Tensor, " runs"]
    updates_per_iteration: ClassVar[int] = 1  # the policy's network takes no step without the policy

    def __post_init__(self) -> None:
        network: Any = self.policy.network if isinstance(self.policy, NetworkPolicy) else None
        inner = network.inner if isinstance(network, MaskedNetwork) else network
        if not isinstance(inner, MLP | CNN) or len(inner.shapes) < 2:
            reason = (
                "shares the hidden layers of the policy's mlp or cnn, and this policy has none; "
                "fitting: value_network, or a policy with hidden layers (softmax, gaussian, ...)"
            )
            raise ConfigError("baseline", "shared_value", reason)

    @cached_property
    def network(self) -> Network:
        assert isinstance(self.policy, NetworkPolicy)
        return _with_one_output(self.policy.network)

    def init(self, generators: Sequence[Generator], dtype: torch.dtype) -> Learner:
        """w and b, with first values as of the last layer of a value network of its own."""
        last = MLP(self.network.shapes[-1][0], (), 1, "relu", 1.0).init(generators, dtype)
        own = dict(zip(self.network.names[-2:], last.values(), strict=True))
        return Learner(self.policy_optimizer, own)


def _with_one_output(network: Any) -> Network:
    """The same hidden layers; of a masked one, the mask is not looked at."""
    if isinstance(network, MaskedNetwork):
        return replace(network, inner=_with_one_output(network.inner), masks=False)
    return replace(network, output_size=1, output_gain=1.0)


def value_parameters(baseline: ValueFunction, own: Parameters, of_policy: Parameters) -> Parameters:
    """All that V's network is computed with: the baseline's own, and what it shares with the policy."""
    if not isinstance(baseline, SharedValue):
        return own
    return {name: own.get(name, of_policy[name]) for name in baseline.network.names}


def own_and_shared(baseline: ValueFunction, found: Parameters) -> tuple[Parameters, Parameters]:
    """The gradient of V's loss: for the baseline's own parameters, and what is added to the policy's gradient."""
    if not isinstance(baseline, SharedValue):
        return found, {}
    scaled = {name: part * per_run(baseline.coefficient.to(part.dtype), part) for name, part in found.items()}
    own = baseline.network.names[-2:]
    return {name: scaled.pop(name) for name in own}, scaled


def added(gradient: Parameters, shared: Parameters) -> Parameters:
    """The policy's gradient, and that of V's loss where the two share parameters."""
    return gradient | {name: gradient[name] + part for name, part in shared.items()}
