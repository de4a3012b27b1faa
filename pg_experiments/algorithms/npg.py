"""Natural policy gradient: the gradient measured by how much the policy changes, not the parameters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from pg_experiments.advantages import Targets, value_targets
from pg_experiments.algorithms.interface import Iteration, Metrics
from pg_experiments.baselines.interface import ValueFunction
from pg_experiments.config import option_of
from pg_experiments.dense import Dense
from pg_experiments.errors import ConfigError
from pg_experiments.gradients import network_gradients, policy_gradients
from pg_experiments.metrics import explained_variance
from pg_experiments.modes import known_mode_of
from pg_experiments.natural_gradient import as_parameters, as_vector, conjugate_gradients, fisher_product
from pg_experiments.optimizer_settings import OptimizerSettings
from pg_experiments.optimizers import Learner
from pg_experiments.packing import Pass
from pg_experiments.policies.distributions import Distribution
from pg_experiments.policies.interface import NetworkPolicy, Policy
from pg_experiments.rollout import Episodes, Trajectory


@dataclass(frozen=True)
class NPG:
    """θ ← θ + lr · x with (F + damping · 1) x = g: one step of the optimizer along the natural gradient x.

    g is the gradient of `actor_critic`, the mean over a rollout of ∇log π(aₜ | sₜ) Aₜ; F is the Fisher matrix of the
    policy at the states of the rollout, see `fisher_product`. `policy/predicted_kl` is ½ xᵀ(F + damping) x: what x as a
    step would change, to second order. With `optimizer=sgd` the step is exactly lr · x; `gradient/norm` is that of g.

    Source: Kakade (2001), A natural policy gradient, eq. 2; conjugate gradients: Schulman et al. (2015),
    arXiv:1502.05477, appendix C.

    Attributes:
        gamma: discount, per run.
        reward_scale: rewards are multiplied by it before anything is learned from them, per run.
        rollout_steps: of every copy in an iteration.
        gae_lambda: λ of the advantages, in [0, 1], per run.
        damping: above 0, per run.
        conjugate_gradient_iterations: at most, for x.
        normalize_advantage: shift and scale the advantages of an iteration to mean 0 and standard deviation 1, per run.
    """

    gamma: Float[Tensor, " runs"]
    reward_scale: Float[Tensor, " runs"]
    rollout_steps: int
    gae_lambda: Float[Tensor, " runs"]
    damping: Float[Tensor, " runs"]
    conjugate_gradient_iterations: int
    normalize_advantage: bool

    def check(self, policy: Policy, optimizer: OptimizerSettings) -> None:
        """Refuse a policy without a network."""
        check_policy(policy, "npg")

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
        learners = (policy_learner, baseline_learner)
        return natural_iteration(self, policy, baseline, learners, episodes, trajectory, progress, whole_direction)


def check_policy(policy: Policy, algorithm: str) -> None:
    """Raise a `ConfigError` for a policy whose Fisher matrix is not known through the output of one network."""
    if not isinstance(policy, NetworkPolicy):
        reason = (
            f"has no network, through which {algorithm} finds its Fisher matrix; fitting: softmax, gaussian "
            "(policy=softmax policy.hidden_sizes=[] is a table, too)"
        )
        raise ConfigError("policy", option_of(type(policy)), reason)


@dataclass(frozen=True)
class Direction:
    """Where the policy of each run should go.

    Attributes:
        samples: of the rollout.
        weight: advantage of each sample, normalised where that is asked for.
        direction: x above.
        gradient: g above.
        curvature: xᵀ(F + damping) x.
    """

    samples: Dense
    weight: Float[Tensor, " samples"]
    direction: Float[Tensor, "runs numbers"]
    gradient: Float[Tensor, "runs numbers"]
    curvature: Float[Tensor, " runs"]
    metrics: Metrics


def whole_direction(direction: Direction) -> tuple[Float[Tensor, "runs numbers"], Metrics]:
    """The step of `NPG`: the direction itself."""
    return direction.direction, {}


def natural_iteration(
    settings: NPG,
    policy: NetworkPolicy,
    baseline: ValueFunction,
    learners: tuple[Learner, Learner],
    episodes: Episodes,
    trajectory: Trajectory,
    progress: Float[Tensor, " runs"],
    step_of: Callable[[Direction], tuple[Float[Tensor, "runs numbers"], Metrics]],
) -> Iteration:
    """One step of the policy along its natural direction, and the steps of the value network.

    Args:
        settings: of the direction and the advantages.
        learners: of policy and baseline.
        episodes, trajectory, progress: see `Algorithm.learn`.
        step_of: from the direction to what is handed to the policy's optimizer, upwards, and its metrics.
    """
    policy_learner, baseline_learner = learners
    numbers = (settings.reward_scale, settings.gamma, settings.gae_lambda)
    targets = value_targets(baseline.network, baseline_learner.parameters, trajectory, *numbers)
    direction = natural_direction(settings, policy, policy_learner, trajectory, targets)
    step, metrics = step_of(direction)
    _, lr = policy_learner.step(as_parameters(-step, policy_learner.parameters), progress)
    metrics = {
        **direction.metrics,
        **metrics,
        "optimizer/lr": lr,
        **fit_values(baseline, baseline_learner, trajectory, targets, progress),
    }
    return Iteration(direction.samples.counts, episodes, metrics)


def natural_direction(
    settings: NPG, policy: NetworkPolicy, learner: Learner, trajectory: Trajectory, targets: Targets
) -> Direction:
    """x with (F + damping) x = g, by conjugate gradients."""
    runs, steps, envs = trajectory.reward.shape
    samples = Dense(runs, steps * envs)
    observation, action = samples.pack(trajectory.observation), samples.pack(trajectory.action)
    weight = samples.normalized(targets.advantage) if settings.normalize_advantage else targets.advantage
    objective, entropy = torch.empty_like(weight), torch.empty_like(weight)

    def loss(distribution: Distribution, blocks: Pass) -> Tensor:
        objective_now = distribution.log_prob(blocks.of(action)) * blocks.of(weight)
        blocks.of(objective).copy_(objective_now.detach())
        blocks.of(entropy).copy_(distribution.entropy().detach())
        return objective_now.sum(1) / samples.size

    found = policy_gradients(policy, learner.parameters, samples, observation, loss)
    gradient = as_vector({name: found[name] for name in learner.parameters})
    diagonal = settings.damping.to(gradient.dtype)[:, None]

    def product(vector: Tensor) -> Tensor:
        with torch.enable_grad():
            image = fisher_product(policy, learner.parameters, samples, observation, samples.size, vector)
        return image + diagonal * vector

    direction = conjugate_gradients(product, gradient, settings.conjugate_gradient_iterations)
    curvature = (direction * product(direction)).sum(1)
    metrics = {
        "loss/policy": -samples.mean(objective),
        "policy/entropy": samples.mean(entropy),
        "gradient/norm": gradient.square().sum(1).sqrt(),
        "policy/predicted_kl": curvature / 2,
    }
    return Direction(samples, weight, direction, gradient, curvature, metrics)


def fit_values(
    baseline: ValueFunction,
    learner: Learner,
    trajectory: Trajectory,
    targets: Targets,
    progress: Float[Tensor, " runs"],
) -> Metrics:
    """`updates_per_iteration` steps of the value network down the mean of (V - R)²; its metrics from before."""
    runs, steps, envs = trajectory.reward.shape
    samples = Dense(runs, steps * envs)
    observation = samples.pack(trajectory.observation)

    def loss_gradient(output: Tensor, blocks: Pass) -> Tensor:
        return (output - blocks.of(targets.returns)[..., None]) * (2 / samples.size)

    norms = []
    with known_mode_of(baseline)():
        for _ in range(baseline.updates_per_iteration):
            found = network_gradients(baseline.network, learner.parameters, samples, observation, loss_gradient)
            norms.append(learner.step(found, progress)[0])
    return {
        "baseline/explained_variance": explained_variance(targets.value, targets.returns, samples),
        "loss/baseline": samples.mean(targets.advantage.square()),
        "gradient/baseline_norm": norms[0],
    }
