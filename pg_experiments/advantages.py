"""Generalized advantages: what a step's action was worth beyond what was expected of its state."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pg_experiments.dense import Dense
from pg_experiments.exact import per_run
from pg_experiments.gradients import outputs
from pg_experiments.packing import NUMBERS_AT_ONCE, SAMPLES_AT_ONCE
from pg_experiments.policies.networks import Network, Parameters, layers_of
from pg_experiments.rollout import Trajectory


def generalized_advantages(
    reward: Float[Tensor, "runs steps envs"],
    value: Float[Tensor, "runs steps envs"],
    continuation: Float[Tensor, "runs steps envs"],
    terminated: Bool[Tensor, "runs steps envs"],
    truncated: Bool[Tensor, "runs steps envs"],
    gamma: Float[Tensor, " runs"],
    gae_lambda: Float[Tensor, " runs"],
    weight: Float[Tensor, "runs steps envs"] | None = None,
) -> Float[Tensor, "runs steps envs"]:
    """How much better each action was than what was expected of its state.

        Aₜ = δₜ + γλ wₜ₊₁ Aₜ₊₁ inside an episode; δₜ at its last step, and at the last step of the rollout
        δₜ = rₜ + γ v′ₜ - V(sₜ)
        v′ₜ = 0 where the task terminated; V(next_observation) before any reset where the episode was truncated or the
              rollout was cut; V(sₜ₊₁) elsewhere.

    λ = 1 gives the rewards of all steps up to the end of the episode or of the rollout, plus the continuation, minus
    V(sₜ): the n-step advantage. λ = 0 gives δₜ. With w = min(1, π / π_old) it is V-trace for actions that another
    policy has chosen: vₜ = V(sₜ) + wₜ Aₜ, and with λ = 1, Aₜ = rₜ + γ vₜ₊₁ - V(sₜ).

    Source: Schulman et al. (2016), High-dimensional continuous control using generalized advantage estimation,
    arXiv:1506.02438, eq. 16; time limits: Pardo et al. (2018), arXiv:1712.00378, eq. 6; V-trace: Espeholt et al.
    (2018), IMPALA, arXiv:1802.01561, remark 1 and section 4.2, both truncation levels 1, its c with λ (remark 2).

    Args:
        reward: rₜ.
        value: V(sₜ).
        continuation: V(next_observation) where `truncated`, and at the last step; not read elsewhere.
        terminated: the task ended with this step; wins where both flags are set.
        truncated: the episode was cut off with this step.
        gamma, gae_lambda: of each run, in [0, 1].
        weight: w in [0, 1]; None: 1 everywhere.
    """
    following = torch.cat([value[:, 1:], continuation[:, -1:]], 1)
    following = torch.where(truncated, continuation, following).masked_fill_(terminated, 0.0)
    discount = per_run(gamma.to(reward.dtype), reward)
    delta = reward + discount * following - value
    carried = (discount * per_run(gae_lambda.to(reward.dtype), reward)).masked_fill(terminated | truncated, 0.0)
    if weight is not None:
        carried[:, :-1] *= weight[:, 1:]
    advantage = delta[:, -1]
    backwards = [advantage]
    earlier = zip(delta[:, :-1].unbind(1), carried[:, :-1].unbind(1), strict=True)
    for delta_now, carried_now in reversed(list(earlier)):
        advantage = torch.addcmul(delta_now, carried_now, advantage)
        backwards.append(advantage)
    return torch.stack(backwards[::-1], 1)


@torch.no_grad()
def continuations(
    network: Network,
    parameters: Parameters,
    next_observation: Float[Tensor, "runs steps envs observation"],
    truncated: Bool[Tensor, "runs steps envs"],
) -> Float[Tensor, "runs steps envs"]:
    """V(next_observation) in the steps of a run in which a copy was truncated, and in the last one; 0 elsewhere.

    Args:
        network, parameters: of V.
        next_observation: after each step, before any reset.
        truncated: where an episode was cut off.
    """
    needed = truncated.any(2)
    needed[:, -1] = True
    found = torch.zeros(truncated.shape, dtype=next_observation.dtype)
    layers, envs = layers_of(network, parameters), truncated.shape[2]
    own = sum(part[0].numel() for layer in layers for part in layer)
    numbers = max(own, envs * network.numbers_per_sample)  # of one step of one run
    for chosen in needed.nonzero().split(max(1, min(SAMPLES_AT_ONCE // envs, NUMBERS_AT_ONCE // numbers))):
        run, step = chosen.unbind(1)
        of_steps = [(weight.index_select(0, run), bias.index_select(0, run)) for weight, bias in layers]
        output = network.forward(of_steps, next_observation[run, step])[-1]
        found[run, step] = output[:, :envs, 0]
    return found


class Targets(NamedTuple):
    """Of every sample of fixed rollouts: V(s), the generalized advantage A, and V(s) + w A, which V is fitted to."""

    value: Float[Tensor, " samples"]
    advantage: Float[Tensor, " samples"]
    returns: Float[Tensor, " samples"]


def value_targets(
    network: Network,
    parameters: Parameters,
    trajectory: Trajectory,
    reward_scale: Float[Tensor, " runs"],
    gamma: Float[Tensor, " runs"],
    gae_lambda: Float[Tensor, " runs"],
    weight: Float[Tensor, " samples"] | None = None,
) -> Targets:
    """By the values that a network gives now.

    Args:
        network, parameters: of V.
        trajectory: a fixed rollout.
        reward_scale, gamma, gae_lambda: of each run.
        weight: w of `generalized_advantages`.
    """
    assert trajectory.next_observation is not None
    reward = trajectory.reward * per_run(reward_scale.to(trajectory.reward.dtype), trajectory.reward)
    runs, steps, envs = reward.shape
    samples = Dense(runs, steps * envs)
    value = outputs(network, parameters, samples, samples.pack(trajectory.observation))[:, 0].view_as(reward)
    continuation = continuations(network, parameters, trajectory.next_observation, trajectory.truncated)
    flags = (trajectory.terminated, trajectory.truncated)
    own = None if weight is None else weight.view_as(reward)
    advantage = generalized_advantages(reward, value, continuation, *flags, gamma, gae_lambda, own)
    beyond = advantage if own is None else own * advantage
    return Targets(value.flatten(), advantage.flatten(), (value + beyond).flatten())
