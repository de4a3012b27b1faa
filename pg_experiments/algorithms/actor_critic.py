"""Actor-critic: fixed rollouts, generalized advantages, one gradient step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from pg_experiments.advantages import continuations, generalized_advantages
from pg_experiments.algorithms.interface import Iteration
from pg_experiments.baselines.interface import ValueFunction
from pg_experiments.baselines.shared_value import added, own_and_shared, value_parameters
from pg_experiments.dense import Dense
from pg_experiments.gradients import network_gradients, outputs, score_gradients
from pg_experiments.metrics import explained_variance
from pg_experiments.modes import learning
from pg_experiments.optimizers import Learner
from pg_experiments.packing import Pass
from pg_experiments.policies.interface import Policy
from pg_experiments.rollout import Episodes, Trajectory
from pg_experiments.schedules import schedule_factors
from pg_experiments.together import Together


@dataclass(frozen=True)
class ActorCritic:
    """∇J ≈ mean over the rollout of ∇log π(aₜ | sₜ) Aₜ + c ∇H(π(· | sₜ)), one step of the optimizer along it.

    Aₜ is the generalized advantage, see `generalized_advantages`. The value network takes a step down the mean of
    (V(sₜ) - Rₜ)² with Rₜ = Aₜ + V(sₜ) held fixed, from the same forward pass that gave the values; with
    `baseline.updates_per_iteration` above 1 it takes more steps towards the same Rₜ. `loss/policy` is minus what the
    policy's gradient is of. Policy and value may share a network, see `SharedValue`.

    With λ = 1 and V the value of the policy, the expectation is exact for the states that the rollout visits, each
    counted once, without γᵗ; with λ = 1 and another V, only the continuation at the cut is off. λ < 1 trades the
    variance of long sums for the error of V.

    Source: Mnih et al. (2016), Asynchronous methods for deep reinforcement learning, arXiv:1602.01783, algorithm S3,
    with synchronous copies (A2C); Schulman et al. (2016), arXiv:1506.02438, eq. 16.

    Attributes:
        gamma: discount, per run.
        reward_scale: rewards are multiplied by it before anything is learned from them, per run.
        rollout_steps: of every copy in an iteration.
        gae_lambda: λ in [0, 1], per run.
        entropy_coefficient: c above, per run.
        entropy_schedule: of c over the run, see `schedule_factor`.
        normalize_advantage: shift and scale the advantages of an iteration to mean 0 and standard deviation 1, per run.
    """

    gamma: Float[Tensor, " runs"]
    reward_scale: Float[Tensor, " runs"]
    rollout_steps: int
    gae_lambda: Float[Tensor, " runs"]
    entropy_coefficient: Float[Tensor, " runs"]
    entropy_schedule: str
    normalize_advantage: bool
    shares_network: ClassVar[bool] = True

    @learning
    def learn(
        self,
        policy: Policy,
        policy_learner: Learner,
        baseline: ValueFunction,
        baseline_learner: Learner,
        episodes: Episodes,
        trajectory: Trajectory,
        progress: Float[Tensor, " runs"],
        generators: Sequence[Generator] = (),
    ) -> Iteration:
        """One step from one rollout; nothing is drawn. See `Algorithm.learn`."""
        runs, steps, envs = trajectory.reward.shape
        dtype, samples = trajectory.reward.dtype, Dense(runs, steps * envs)
        observation, action = samples.pack(trajectory.observation), samples.pack(trajectory.action)
        reward = trajectory.reward * self.reward_scale.to(dtype)[:, None, None]
        assert trajectory.next_observation is not None
        network = baseline.network
        of_values = value_parameters(baseline, baseline_learner.parameters, policy_learner.parameters)
        continuation = continuations(network, of_values, trajectory.next_observation, trajectory.truncated)
        values, returns, advantage = (torch.empty(runs * samples.size, dtype=dtype) for _ in range(3))

        def find_advantages(value: Tensor, blocks: Pass) -> None:
            """From the values of some runs' samples, before anything is learned."""
            chosen = slice(int(blocks.rows[0]), int(blocks.rows[-1]) + 1)
            found = generalized_advantages(
                reward[chosen],
                value.unflatten(1, (steps, envs)),
                continuation[chosen],
                trajectory.terminated[chosen],
                trajectory.truncated[chosen],
                self.gamma[chosen],
                self.gae_lambda[chosen],
            ).flatten(1)
            blocks.of(values).copy_(value)
            blocks.of(advantage).copy_(found)
            blocks.of(returns).copy_(found + value)

        def value_gradient(output: Tensor, blocks: Pass) -> Tensor:
            """Of the mean of (V - R)², for each V."""
            return (output - blocks.of(returns)[..., None]) * (2 / samples.size)

        def first_gradient(output: Tensor, blocks: Pass) -> Tensor:
            find_advantages(output[..., 0], blocks)
            return value_gradient(output, blocks)

        if samples.is_whole(network.numbers_per_sample):
            found = network_gradients(network, of_values, samples, observation, first_gradient)
        else:  # no pass sees a whole rollout, from whose end advantages are added up: the values come first
            value = outputs(network, of_values, samples, observation)[:, 0]
            find_advantages(value.view(runs, -1), Pass(torch.arange(runs), slice(None)))
            found = network_gradients(network, of_values, samples, observation, value_gradient)
        own, shared = own_and_shared(baseline, found)

        weight = samples.normalized(advantage) if self.normalize_advantage else advantage
        coefficient = (self.entropy_coefficient * schedule_factors(self.entropy_schedule, progress)).to(dtype)
        rewards_entropy = bool((self.entropy_coefficient > 0).any(0))
        share = -1 / samples.size  # of a sample in the loss
        log_prob, entropy = torch.empty_like(weight), torch.empty_like(weight)

        def weigh(log_prob_now: Tensor, entropy_now: Tensor, blocks: Pass) -> Tensor:
            blocks.of(log_prob).copy_(log_prob_now)
            blocks.of(entropy).copy_(entropy_now)
            return blocks.of(weight) * share

        own_coefficient = coefficient * share if rewards_entropy else None
        found = score_gradients(policy, policy_learner.parameters, samples, observation, action, weigh, own_coefficient)
        learners = Together(policy_learner, baseline_learner, masked=False)
        (norm, lr), (baseline_norm, _) = learners.step([added(found, shared), own], progress)
        learners.end()
        for _ in range(baseline.updates_per_iteration - 1):
            baseline_learner.step(network_gradients(network, of_values, samples, observation, value_gradient), progress)
        objective = log_prob * weight + entropy * samples.spread(coefficient)
        metrics = {
            "loss/policy": -samples.mean(objective),
            "policy/entropy": samples.mean(entropy),
            "gradient/norm": norm,
            "optimizer/lr": lr,
            "baseline/explained_variance": explained_variance(values, returns, samples),
            "loss/baseline": samples.mean(advantage.square()),
            "gradient/baseline_norm": baseline_norm,
        }
        return Iteration(samples.counts, episodes, metrics)
