"""Trust region policy optimization: the longest step along the natural gradient that a bound on the KL allows."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from pg_experiments.algorithms.interface import Iteration, Metrics
from pg_experiments.algorithms.npg import NPG, Direction, check_policy, natural_iteration
from pg_experiments.baselines.interface import ValueFunction
from pg_experiments.config import option_of
from pg_experiments.errors import ConfigError
from pg_experiments.gradients import passes_for
from pg_experiments.natural_gradient import as_parameters, as_vector
from pg_experiments.optimizer_settings import OptimizerSettings
from pg_experiments.optimizers import Learner
from pg_experiments.policies.interface import NetworkPolicy, Policy
from pg_experiments.policies.networks import Parameters
from pg_experiments.rollout import Episodes, Trajectory
from pg_experiments.schedules import KL_ADAPTIVE

SHORTER = 0.8  # each step of the line search is that much of the one before


@dataclass(frozen=True)
class TRPO:
    """Maximise the mean of ρ A subject to mean KL(π_old, π) ≤ δ, ρ = π(a | s) / π_old(a | s).

    Along x of `NPG`, the step √(2δ / xᵀ(F + damping) x) · x has KL δ to second order. From there on, each run takes the
    first of the steps 1, 0.8, 0.8², ... of it with a KL of at most δ, exactly, and a mean of ρ A above that of π_old;
    none of `line_search_steps` tries leaves the policy as it is. `policy/kl` is that of the accepted step,
    `policy/step_fraction` its length, 0 for none.

    The step is handed to the optimizer, which has to be `sgd` without momentum: its `lr` (1 by default) is the part of
    the accepted step that is taken.

    Source: Schulman et al. (2015), Trust region policy optimization, arXiv:1502.05477, eq. 14 and appendix C.

    Attributes:
        gamma, reward_scale, rollout_steps, gae_lambda, damping, conjugate_gradient_iterations, normalize_advantage: as
            in `NPG`.
        target_kl: δ > 0, per run.
        line_search_steps: see above.
    """

    gamma: Float[Tensor, " runs"]
    reward_scale: Float[Tensor, " runs"]
    rollout_steps: int
    gae_lambda: Float[Tensor, " runs"]
    damping: Float[Tensor, " runs"]
    conjugate_gradient_iterations: int
    normalize_advantage: bool
    target_kl: Float[Tensor, " runs"]
    line_search_steps: int

    def check(self, policy: Policy, optimizer: OptimizerSettings) -> None:
        """Refuse a policy without a network, and an optimizer that would make another step of the accepted one."""
        check_policy(policy, "trpo")
        changed = [name for name in ("momentum", "weight_decay") if optimizer.arguments.get(name)]
        if optimizer.torch_class is not torch.optim.SGD or changed:
            given = f"{option_of(optimizer.torch_class)}{' with ' + ' and '.join(changed) if changed else ''}"
            reason = (
                "would change the step that the trust region allows; fitting: sgd without momentum and weight_decay"
            )
            raise ConfigError("optimizer", given, reason)
        if optimizer.accumulate > 1:
            reason = "must be 1: a mean of steps is no step that the trust region allows"
            raise ConfigError("optimizer.accumulate_gradients", optimizer.accumulate, reason)
        if optimizer.schedule == KL_ADAPTIVE:
            reason = "would change the step that the trust region allows; must be constant, linear or cosine"
            raise ConfigError("optimizer.schedule", KL_ADAPTIVE, reason)
        if (largest := max(optimizer.lr.tolist())) > 1:
            reason = "must be at most 1: it is the part of the accepted step that is taken"
            raise ConfigError("optimizer.lr", largest, reason)

    def learn(
        self,
        policy: NetworkPolicy,
        policy_learner: Learner,
        baseline: ValueFunction,
        baseline_learner: Learner,
        episodes: Episodes,
        trajectory: Trajectory,
        progress: Float[Tensor, " runs"],
        generators: Sequence[Generator] = (),
    ) -> Iteration:
        """One step from one rollout; nothing is drawn. See `Algorithm.learn`."""

        def accepted(direction: Direction) -> tuple[Float[Tensor, "runs numbers"], Metrics]:
            return self._search(policy, policy_learner.parameters, trajectory, direction)

        learners = (policy_learner, baseline_learner)
        return natural_iteration(self._natural, policy, baseline, learners, episodes, trajectory, progress, accepted)

    @property
    def _natural(self) -> NPG:
        """What gives the direction."""
        return NPG(
            gamma=self.gamma,
            reward_scale=self.reward_scale,
            rollout_steps=self.rollout_steps,
            gae_lambda=self.gae_lambda,
            damping=self.damping,
            conjugate_gradient_iterations=self.conjugate_gradient_iterations,
            normalize_advantage=self.normalize_advantage,
        )

    @torch.no_grad()
    def _search(
        self, policy: NetworkPolicy, parameters: Parameters, trajectory: Trajectory, found: Direction
    ) -> tuple[Float[Tensor, "runs numbers"], Metrics]:
        """The accepted step of each run; how much of the full step it is, and its KL."""
        dtype = found.weight.dtype
        target = self.target_kl.to(dtype)
        full = (2 * target / found.curvature.clamp(min=torch.finfo(dtype).tiny)).sqrt()[:, None] * found.direction
        start = as_vector(parameters)
        fraction = divergence = torch.zeros(len(full), dtype=dtype)
        going: Bool[Tensor, " runs"] = torch.ones(len(full), dtype=torch.bool)
        for tried in range(self.line_search_steps):
            length = SHORTER**tried
            gain, kl = _outcome(policy, parameters, as_parameters(start + length * full, parameters), trajectory, found)
            accepted = going & (gain > 0) & (kl <= target)
            fraction = torch.where(accepted, length, fraction)
            divergence = torch.where(accepted, kl, divergence)
            going = going & ~accepted
            if not bool(going.any(0)):
                break
        step = torch.where(fraction[:, None] > 0, fraction[:, None] * full, 0.0)
        return step, {"policy/kl": divergence, "policy/step_fraction": fraction}


def _outcome(
    policy: NetworkPolicy, old: Parameters, new: Parameters, trajectory: Trajectory, found: Direction
) -> tuple[Float[Tensor, " runs"], Float[Tensor, " runs"]]:
    """What new parameters gain in the mean of ρ A, and the mean KL(π_old, π)."""
    samples = found.samples
    observation, action = samples.pack(trajectory.observation), samples.pack(trajectory.action)
    gain, divergence = torch.empty_like(found.weight), torch.empty_like(found.weight)
    for blocks in passes_for(policy, samples):
        before, after = (
            policy({name: part.index_select(0, blocks.rows) for name, part in each.items()}, blocks.of(observation))
            for each in (old, new)
        )
        own = blocks.of(action)
        ratio = torch.exp(after.log_prob(own) - before.log_prob(own))
        blocks.of(gain).copy_((ratio - 1) * blocks.of(found.weight))
        blocks.of(divergence).copy_(before.kl(after))
    return samples.mean(gain), samples.mean(divergence)
