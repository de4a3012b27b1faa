"""Proximal policy optimization: several epochs of minibatches over one rollout, with a clipped surrogate."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64, Num
from torch import Generator, Tensor

from pg_experiments.advantages import Targets, value_targets
from pg_experiments.algorithms.interface import Iteration
from pg_experiments.baselines.interface import ValueFunction
from pg_experiments.baselines.shared_value import added, own_and_shared, value_parameters
from pg_experiments.dense import Dense
from pg_experiments.devices import drawn
from pg_experiments.errors import ConfigError
from pg_experiments.gradients import log_probs, network_gradients, score_gradients
from pg_experiments.metrics import Means, explained_variance
from pg_experiments.modes import learning
from pg_experiments.optimizer_settings import OptimizerSettings
from pg_experiments.optimizers import Learner
from pg_experiments.packing import Pass
from pg_experiments.policies.interface import Policy
from pg_experiments.policies.networks import Network, Parameters
from pg_experiments.rollout import Episodes, Trajectory
from pg_experiments.schedules import schedule_factors
from pg_experiments.together import Together

OF_A_MINIBATCH = ("loss/policy", "policy/entropy", "policy/approximate_kl", "policy/clip_fraction")


@dataclass(frozen=True)
class PPO:
    """Per minibatch one step up the mean of min(ρ A, clip(ρ, 1 - ε, 1 + ε) A) + c H(π), ρ = π(a | s) / π_old(a | s).

    π_old is the policy that played, A the generalized advantages by the values before the iteration. Every epoch deals
    each run's samples into `minibatches` anew. The value network takes a step with every minibatch too, down the mean
    of (V - R)², R = A + V_old; with `clip_range_value` δ, down the mean of
    max((V - R)², (V_old + clip(V - V_old, -δ, δ) - R)²).

    `policy/approximate_kl` is the mean of ρ - 1 - log ρ, an estimate of KL(π_old, π), and `policy/clip_fraction` the
    share of samples with |ρ - 1| > ε; they, `loss/policy`, `loss/baseline`, `policy/entropy` and the gradient norms are
    means over the minibatches of an iteration, each before its step. A run whose minibatch, from the second one on, has
    an approximate KL above `target_kl` steps no more in this iteration; `policy/updates` counts the minibatches before.

    In the first minibatch ρ = 1, and the gradient is that of `actor_critic` over the same samples.

    Source: Schulman et al. (2017), Proximal policy optimization algorithms, arXiv:1707.06347, eq. 7 and algorithm 1;
    KL: Schulman (2020), Approximating KL divergence, k3; normalisation per minibatch and value clipping: Huang et al.
    (2022), The 37 implementation details of PPO, details 7 and 9; `recompute_advantage`: Andrychowicz et al. (2021),
    arXiv:2006.05990, section 3.5; `vtrace`: Espeholt et al. (2018), arXiv:1802.01561.

    Attributes:
        gamma: discount, per run.
        reward_scale: rewards are multiplied by it before anything is learned from them, per run.
        rollout_steps: of every copy in an iteration.
        gae_lambda: λ of the advantages, in [0, 1], per run.
        entropy_coefficient: c above, per run.
        entropy_schedule: of c over the run, see `schedule_factor`.
        epochs: how often each sample is used.
        minibatches: of an epoch.
        clip_range: ε > 0, per run.
        clip_range_value: δ > 0, per run; infinite: off.
        target_kl: see above, per run; infinite: off.
        normalize_advantage: shift and scale the advantages of a minibatch to mean 0 and standard deviation 1, per run.
        recompute_advantage: values, advantages and R again at the beginning of each epoch, by the values of then.
        vtrace: from the second epoch on, weigh what follows a step in its A, and A in R = V + w A, by
            w = min(1, π / π_old) of then, see `generalized_advantages`; it needs `recompute_advantage`.
    """

    gamma: Float[Tensor, " runs"]
    reward_scale: Float[Tensor, " runs"]
    rollout_steps: int
    gae_lambda: Float[Tensor, " runs"]
    entropy_coefficient: Float[Tensor, " runs"]
    entropy_schedule: str
    epochs: int
    minibatches: int
    clip_range: Float[Tensor, " runs"]
    clip_range_value: Float[Tensor, " runs"]
    target_kl: Float[Tensor, " runs"]
    normalize_advantage: bool
    recompute_advantage: bool
    vtrace: bool = False
    shares_network: ClassVar[bool] = True

    def check(self, policy: Policy, optimizer: OptimizerSettings) -> None:
        """Raise a `ConfigError` for a correction of what is not computed again."""
        if self.vtrace and not (self.recompute_advantage and self.epochs > 1):
            reason = "corrects advantages that are computed again; it needs algorithm.recompute_advantage=true"
            raise ConfigError("algorithm.vtrace", True, f"{reason} and algorithm.epochs of at least 2")

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
        generators: Sequence[Generator],
    ) -> Iteration:
        """All steps from one rollout; each run's generator deals its minibatches. See `Algorithm.learn`."""
        runs, steps, envs = trajectory.reward.shape
        samples = Dense(runs, steps * envs)
        observation, action = samples.pack(trajectory.observation), samples.pack(trajectory.action)
        network, numbers = baseline.network, (self.reward_scale, self.gamma, self.gae_lambda)
        of_values = value_parameters(baseline, baseline_learner.parameters, policy_learner.parameters)
        targets = first = value_targets(network, of_values, trajectory, *numbers)
        old_log_prob = log_probs(policy, policy_learner.parameters, samples, observation, action)
        orders = drawn(lambda: torch.stack([self._deal(generator, samples.size) for generator in generators], 1))
        coefficient = self.entropy_coefficient * schedule_factors(self.entropy_schedule, progress)
        going, means = torch.ones(runs, dtype=torch.bool), Means()
        stops = bool((self.target_kl < torch.inf).any(0))
        learners = Together(policy_learner, baseline_learner, masked=stops)
        for place, (epoch, own, chosen) in enumerate(self._minibatches(orders)):
            if place % self.minibatches == 0:
                if self.recompute_advantage and place:
                    weight = None
                    if self.vtrace:
                        log_prob = log_probs(policy, policy_learner.parameters, samples, observation, action)
                        weight = torch.exp(log_prob - old_log_prob).clamp(max=1)
                    targets = value_targets(network, of_values, trajectory, *numbers, weight)
                dealt = [part.index_select(0, epoch) for part in (observation, action, old_log_prob, *targets)]
            seen, own_action, own_log_prob, *own_targets = (part[chosen] for part in dealt)
            target = Targets(*own_targets)
            of_policy, found = self._policy_gradients(
                policy,
                policy_learner.parameters,
                own,
                seen,
                own_action,
                own_log_prob,
                target.advantage,
                coefficient,
            )
            of_loss, value_loss = self._value_gradients(network, of_values, own, seen, target)
            of_head, shared = own_and_shared(baseline, of_loss)
            means.add(going, {**found, "loss/baseline": value_loss})
            if place and stops:  # in the first minibatch the policy is the one that played
                going = going & ~(found["policy/approximate_kl"] > self.target_kl)
                if not bool(going.any(0)):
                    break
            gradients = [added(of_policy, shared), of_head]
            (norm, lr), (baseline_norm, _) = learners.step(gradients, progress, going if stops else None)
            means.add(going, {"gradient/norm": norm, "gradient/baseline_norm": baseline_norm})
        learners.end()
        metrics = {
            **means.values(),
            "policy/updates": means.counts["gradient/norm"].double(),
            "optimizer/lr": lr,
            "baseline/explained_variance": explained_variance(first.value, first.returns, samples),
        }
        return Iteration(samples.counts, episodes, metrics)

    def _deal(self, generator: Generator, size: int) -> Int64[Tensor, "epochs size"]:
        """The order of a run's samples in every epoch."""
        return torch.stack([torch.randperm(size, generator=generator) for _ in range(self.epochs)])

    def _minibatches(
        self, orders: Int64[Tensor, "epochs runs size"]
    ) -> Iterator[tuple[Int64[Tensor, " samples"], Dense, slice]]:
        """Of one epoch after the other; where they cannot be equal, the first ones have one sample more.

        Yields:
            The samples of all runs as they are dealt in this epoch, minibatch by minibatch; how many a minibatch has,
            and where it is among them.
        """
        _, runs, size = orders.shape
        for order in orders + torch.arange(runs)[:, None] * size:
            parts = order.tensor_split(self.minibatches, 1)
            epoch, start = torch.cat([part.flatten() for part in parts]), 0
            for part in parts:
                yield epoch, Dense(runs, part.shape[1]), slice(start, start + part.numel())
                start += part.numel()

    def _policy_gradients(
        self,
        policy: Policy,
        parameters: Parameters,
        samples: Dense,
        observation: Float[Tensor, "samples observation"],
        action: Num[Tensor, "samples *action"],
        old_log_prob: Float[Tensor, " samples"],
        advantage: Float[Tensor, " samples"],
        coefficient: Float[Tensor, " runs"],
    ) -> tuple[Parameters, dict[str, Float[Tensor, " runs"]]]:
        """Of minus the objective of a minibatch; and its metrics."""
        weight = samples.normalized(advantage) if self.normalize_advantage else advantage
        dtype = weight.dtype
        coefficient, clip = coefficient.to(dtype), self.clip_range.to(dtype)[:, None]
        rewards_entropy, share = bool((self.entropy_coefficient > 0).any(0)), -1 / samples.size
        surrogate, entropy, log_ratio = (torch.empty_like(weight) for _ in range(3))

        def weigh(log_prob: Tensor, entropy_now: Tensor, blocks: Pass) -> Tensor:
            """∂(surrogate) / ∂(log π): ρ A, and 0 where the clipped ratio counts, which does not change."""
            own_weight, own_clip = blocks.of(weight), clip[blocks.rows]
            log_ratio_now = log_prob - blocks.of(old_log_prob)
            ratio = torch.exp(log_ratio_now)
            free, bound = ratio * own_weight, ratio.clamp(1 - own_clip, 1 + own_clip) * own_weight
            for whole, part in (
                (surrogate, torch.minimum(free, bound)),
                (entropy, entropy_now),
                (log_ratio, log_ratio_now),
            ):
                blocks.of(whole).copy_(part)
            return torch.where(bound < free, 0.0, free) * share

        own_coefficient = coefficient * share if rewards_entropy else None
        found = score_gradients(policy, parameters, samples, observation, action, weigh, own_coefficient)
        ratio = torch.exp(log_ratio)
        is_clipped = (ratio - 1).abs() > samples.spread(clip[:, 0])
        objective = surrogate + entropy * samples.spread(coefficient)
        numbers = torch.stack([-objective, entropy, ratio - 1 - log_ratio, is_clipped.to(dtype)])
        means = numbers.view(len(OF_A_MINIBATCH), samples.runs, samples.size).sum(2) / samples.size
        return found, dict(zip(OF_A_MINIBATCH, means.unbind(0), strict=True))

    def _value_gradients(
        self,
        network: Network,
        parameters: Parameters,
        samples: Dense,
        observation: Float[Tensor, "samples observation"],
        target: Targets,
    ) -> tuple[Parameters, Float[Tensor, " runs"]]:
        """Of the mean square error of a minibatch, clipped or not; and that error."""
        square = torch.empty_like(target.returns)
        limit = self.clip_range_value.to(square.dtype)[:, None]
        clips = bool((self.clip_range_value < torch.inf).any(0))

        def loss_gradient(output: Tensor, blocks: Pass) -> Tensor:
            old, returns, value = blocks.of(target.value), blocks.of(target.returns), output[..., 0]
            error = value - returns
            if not clips:
                blocks.of(square).copy_(error.square())
                return error[..., None] * (2 / samples.size)
            change = value - old
            clipped_error = old + change.clamp(-limit[blocks.rows], limit[blocks.rows]) - returns
            # where the clipped error is the larger one, it does not change with the value, unless it is the same one
            fixed = (clipped_error.square() > error.square()) & (change.abs() > limit[blocks.rows])
            larger = torch.maximum(error.square(), clipped_error.square())
            blocks.of(square).copy_(torch.where(limit[blocks.rows] < torch.inf, larger, error.square()))
            return torch.where(fixed, 0.0, error)[..., None] * (2 / samples.size)

        found = network_gradients(network, parameters, samples, observation, loss_gradient)
        return found, samples.mean(square)
