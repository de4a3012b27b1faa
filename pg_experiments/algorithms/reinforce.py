"""REINFORCE: whole episodes, then one gradient step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pg_experiments.baselines.interface import Baseline, Experience
from pg_experiments.metrics import explained_variance
from pg_experiments.optimizers import Learner
from pg_experiments.packing import Block, Packing, gradients
from pg_experiments.policies.interface import Policy
from pg_experiments.policies.networks import Parameters
from pg_experiments.returns import rewards_to_go
from pg_experiments.rollout import Episodes, Trajectory


class Iteration(NamedTuple):
    """What one iteration did, per run. `metrics` holds one number per run by TensorBoard tag."""

    env_steps: list[int]
    episodes: Episodes
    metrics: dict[str, Float[Tensor, " runs"]]


@dataclass(frozen=True)
class Reinforce:
    """∇J ≈ 1/N Σ over N episodes Σₜ ∇log π(aₜ | sₜ) (Gₜ - b), one step of the optimizer along it an iteration.

    To it comes the entropy bonus, 1/N Σ over N episodes Σₜ c ∇H(π(· | sₜ)): the gradient of the entropy at the states
    that were visited, undiscounted, and not of how often they are visited. `loss/policy` is minus the sum of both.

    With c = 0, `normalize_advantage: false` and an unbiased baseline its expectation is the exact gradient of the
    expected return within the time limit: for `discounted_objective: true` of Σ γᵗ rₜ; for false, as nearly everywhere,
    the factor γᵗ of step t is left out, which is exact for γ = 1 and another vector otherwise.

    Source: Williams (1992); Sutton and Barto (2018), section 13.3 and 13.4, with its γᵗ; Nota and Thomas (2020),
    arXiv:1906.07073, for what leaving it out does.

    Attributes:
        gamma: discount of the returns, per run.
        reward_scale: rewards are multiplied by it before anything is learned from them, per run.
        entropy_coefficient: c above, per run.
        normalize_advantage: shift and scale the advantages of an iteration to mean 0 and standard deviation 1, per run.
        discounted_objective: see above.
    """

    gamma: Float[Tensor, " runs"]
    reward_scale: Float[Tensor, " runs"]
    entropy_coefficient: Float[Tensor, " runs"]
    normalize_advantage: bool
    discounted_objective: bool

    def learn(
        self,
        policy: Policy,
        policy_learner: Learner,
        baseline: Baseline,
        baseline_learner: Learner | None,
        episodes: Episodes,
        trajectory: Trajectory,
        progress: Float[Tensor, " runs"],
    ) -> Iteration:
        """Estimate the gradient from one episode in each copy, and step. Changes the learners in place.

        Args:
            progress: fraction of each run that is over, for the schedules.
        """
        parameters = policy_learner.parameters
        dtype = trajectory.reward.dtype
        num_envs = trajectory.reward.shape[2]
        packing = Packing.of(trajectory.running, dtype)
        scale = self.reward_scale.to(dtype)[:, None, None]
        returns_grid = rewards_to_go(trajectory.reward * scale, self.gamma)
        observation, action, returns = (
            packing.pack(grid) for grid in (trajectory.observation, trajectory.action, returns_grid)
        )
        experience = Experience(observation, returns, returns_grid, trajectory.running, packing)
        values, baseline_metrics = baseline.values_then_learn(baseline_learner, experience, progress)
        weight = self._weight(returns - values, packing, num_envs)
        entropy_coefficient = self.entropy_coefficient.to(dtype)
        rewards_entropy = bool((entropy_coefficient > 0).any())
        entropy, objective = torch.zeros_like(returns), torch.zeros_like(returns)

        def loss(leaves: Parameters, block: Block) -> Float[Tensor, " rows"]:
            rows, samples = block.rows, block.samples
            distribution = policy(leaves, observation[rows, samples])
            log_prob = distribution.log_prob(action[rows, samples])
            with torch.set_grad_enabled(rewards_entropy):
                entropy_now = distribution.entropy()
            objective_now = log_prob * weight[rows, samples] + entropy_coefficient[rows, None] * entropy_now
            entropy[rows, samples] = entropy_now.detach()
            objective[rows, samples] = objective_now.detach()
            return -(objective_now * packing.weight[rows, samples]).sum(1) / num_envs

        norm, lr = policy_learner.step(gradients(parameters, packing, loss), progress)
        metrics = {
            "loss/policy": -packing.sum(objective) / num_envs,
            "policy/entropy": packing.mean(entropy),
            "gradient/norm": norm,
            "optimizer/lr": lr,
            "baseline/explained_variance": explained_variance(values, returns, packing),
            **baseline_metrics,
        }
        return Iteration(packing.counts, episodes, metrics)

    def _weight(
        self, advantage: Float[Tensor, "runs samples"], packing: Packing, num_envs: int
    ) -> Float[Tensor, "runs samples"]:
        """What each log-probability is multiplied by: the advantage, normalised and discounted as configured."""
        if self.normalize_advantage:
            mean, std = packing.mean(advantage), packing.variance(advantage).sqrt()
            advantage = (advantage - mean[:, None]) / (std[:, None] + 1e-8)
        if self.discounted_objective:
            step = packing.index // num_envs
            gamma = self.gamma.to(advantage.dtype)[:, None].repeat(1, int(step.max()) + 1)
            gamma[:, 0] = 1.0
            advantage = advantage * gamma.cumprod(1).gather(1, step)
        return advantage
