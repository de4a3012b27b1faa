"""REINFORCE: whole episodes, then one gradient step."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from pg_experiments.algorithms.interface import Iteration
from pg_experiments.baselines.history import History
from pg_experiments.baselines.interface import Baseline, Experience, GradientBaseline
from pg_experiments.gradients import policy_gradients
from pg_experiments.metrics import explained_variance
from pg_experiments.optimizers import Learner
from pg_experiments.packing import Packing, Pass
from pg_experiments.policies.distributions import Distribution
from pg_experiments.policies.interface import Policy
from pg_experiments.returns import rewards_to_go, whole_returns
from pg_experiments.rollout import Episodes, Trajectory
from pg_experiments.schedules import schedule_factors
from pg_experiments.score_moments import score_moments


@dataclass(frozen=True)
class Reinforce:
    """∇J ≈ 1/N Σ over N episodes Σₜ ∇log π(aₜ | sₜ) (Gₜ - b), one step of the optimizer along it an iteration.

    To it comes the entropy bonus, 1/N Σ over N episodes Σₜ c ∇H(π(· | sₜ)): the gradient of the entropy at the states
    that were visited, undiscounted, and not of how often they are visited. `loss/policy` is minus the sum of both.

    With c = 0, `normalize_advantage: false` and an unbiased baseline its expectation is the exact gradient of the
    expected return within the time limit: for `discounted_objective: true` of Σ γᵗ rₜ; for false, as nearly everywhere,
    the factor γᵗ of step t is left out, which is exact for γ = 1 and another vector otherwise.

    With `reward_to_go: false` the return of the whole episode, G₀ = Σ γᵏ rₖ, stands in the place of Gₜ. Rewards from
    before aₜ only add noise: the expectation is the exact gradient of the expected Σ γᵗ rₜ. There is no factor γᵗ then,
    and `discounted_objective` changes nothing.

    Source: Williams (1992); Sutton and Barto (2018), section 13.3 and 13.4, with its γᵗ; Nota and Thomas (2020),
    arXiv:1906.07073, for what leaving it out does.

    Attributes:
        gamma: discount of the returns, per run.
        reward_scale: rewards are multiplied by it before anything is learned from them, per run.
        entropy_coefficient: c above, per run.
        entropy_schedule: of c over the run, see `schedule_factor`.
        normalize_advantage: shift and scale the advantages of an iteration to mean 0 and standard deviation 1, per run.
        discounted_objective, reward_to_go: see above.
    """

    gamma: Float[Tensor, " runs"]
    reward_scale: Float[Tensor, " runs"]
    entropy_coefficient: Float[Tensor, " runs"]
    entropy_schedule: str
    normalize_advantage: bool
    discounted_objective: bool
    reward_to_go: bool

    def learn(
        self,
        policy: Policy,
        policy_learner: Learner,
        baseline: Baseline,
        baseline_learner: Learner | History | None,
        episodes: Episodes,
        trajectory: Trajectory,
        progress: Float[Tensor, " runs"],
        generators: Sequence[Generator] = (),
    ) -> Iteration:
        """Estimate the gradient from one episode in each copy, and step; nothing is drawn. See `Algorithm.learn`."""
        parameters = policy_learner.parameters
        dtype = trajectory.reward.dtype
        num_envs = trajectory.reward.shape[2]
        packing = Packing.of(trajectory.running, dtype)
        scale = self.reward_scale.to(dtype)[:, None, None]
        returns_grid = rewards_to_go(trajectory.reward * scale, self.gamma)
        if not self.reward_to_go:
            returns_grid = whole_returns(returns_grid, trajectory.running)
        observation, action, returns = (
            packing.pack(grid) for grid in (trajectory.observation, trajectory.action, returns_grid)
        )
        experience = Experience(observation, returns, returns_grid, trajectory.running, packing)
        values, baseline_metrics = baseline.values_then_learn(baseline_learner, experience, progress)
        weight = self._weight(returns - values, packing)
        scheduled = self.entropy_coefficient * schedule_factors(self.entropy_schedule, progress)
        coefficient = packing.spread(scheduled.to(dtype))
        rewards_entropy = bool((self.entropy_coefficient > 0).any())
        share = packing.weight / num_envs  # of a sample in the mean over the episodes
        log_prob, entropy = torch.zeros_like(returns), torch.zeros_like(returns)

        def loss(distribution: Distribution, blocks: Pass) -> Float[Tensor, " blocks"]:
            log_prob_now = distribution.log_prob(blocks.of(action))
            with torch.set_grad_enabled(rewards_entropy):
                entropy_now = distribution.entropy()
            blocks.of(log_prob).copy_(log_prob_now.detach())
            blocks.of(entropy).copy_(entropy_now.detach())
            objective = log_prob_now * blocks.of(weight)
            if rewards_entropy:
                objective = objective + entropy_now * blocks.of(coefficient)
            return -(objective * blocks.of(share)).sum(1)

        found = policy_gradients(policy, parameters, packing, observation, loss)
        if isinstance(baseline, GradientBaseline):
            factor = self._factor(returns, packing)
            moments = score_moments(policy, parameters, trajectory, packing.unpack(weight), packing.unpack(factor))
            found, more_metrics = baseline.correct_then_learn(baseline_learner, found, moments)
            baseline_metrics |= more_metrics
        norm, lr = policy_learner.step(found, progress)
        metrics = {
            "loss/policy": -packing.sum(log_prob * weight + entropy * coefficient) / num_envs,
            "policy/entropy": packing.mean(entropy),
            "gradient/norm": norm,
            "optimizer/lr": lr,
            "baseline/explained_variance": explained_variance(values, returns, packing),
            **baseline_metrics,
        }
        return Iteration(packing.counts, episodes, metrics)

    def _weight(self, advantage: Float[Tensor, " samples"], packing: Packing) -> Float[Tensor, " samples"]:
        """What each log-probability is multiplied by: the advantage, normalised and discounted as configured."""
        if self.normalize_advantage:
            mean, std = packing.mean(advantage), packing.variance(advantage).sqrt()
            advantage = (advantage - packing.spread(mean)) / (packing.spread(std) + 1e-8)
        return advantage * self._factor(advantage, packing)

    def _factor(self, like: Float[Tensor, " samples"], packing: Packing) -> Float[Tensor, " samples"]:
        """γᵗ where it is not left out, else 1."""
        if not (self.discounted_objective and self.reward_to_go):
            return torch.ones_like(like)
        gamma = self.gamma.to(like.dtype)[:, None].repeat(1, packing.shape[0])
        gamma[:, 0] = 1.0
        return gamma.cumprod(1)[packing.run, packing.step]
