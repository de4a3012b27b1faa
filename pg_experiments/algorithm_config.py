"""The schemas of `algorithm`. Imports no torch."""

from dataclasses import dataclass

from pg_experiments.schema_fields import MOST_UNITS, SCHEDULES, checked, per_run

MOST_STEPS = 1_000_000  # of a rollout


@dataclass(frozen=True)
class AlgorithmConfig:
    """What every algorithm has: defaults that optimizer and baseline take over."""

    _target_: str = "???"
    default_lr: float = per_run(5e-3, at_least=0)
    default_max_gradient_norm: float | None = per_run(None, above=0)
    default_sgd_lr: float = per_run(1e-2, at_least=0)
    default_baseline_lr: float = per_run(1e-2, at_least=0)
    default_baseline_updates: int = checked(3, at_least=1, at_most=MOST_UNITS)


@dataclass(frozen=True)
class ReinforceConfig(AlgorithmConfig):
    _target_: str = "pg_experiments.algorithms.reinforce.Reinforce"
    entropy_coefficient: float = per_run(0.0, at_least=0)
    entropy_schedule: str = checked("constant", one_of=SCHEDULES)
    normalize_advantage: bool = True
    discounted_objective: bool = False
    reward_to_go: bool = True


@dataclass(frozen=True)
class ActorCriticConfig(AlgorithmConfig):
    _target_: str = "pg_experiments.algorithms.actor_critic.ActorCritic"
    rollout_steps: int = checked(32, at_least=1, at_most=MOST_STEPS)
    gae_lambda: float = per_run(1.0, at_least=0, at_most=1)
    entropy_coefficient: float = per_run(0.0, at_least=0)
    entropy_schedule: str = checked("constant", one_of=SCHEDULES)
    normalize_advantage: bool = False


@dataclass(frozen=True)
class PPOConfig(AlgorithmConfig):
    _target_: str = "pg_experiments.algorithms.ppo.PPO"
    rollout_steps: int = checked(128, at_least=1, at_most=MOST_STEPS)
    gae_lambda: float = per_run(0.95, at_least=0, at_most=1)
    entropy_coefficient: float = per_run(0.0, at_least=0)
    entropy_schedule: str = checked("constant", one_of=SCHEDULES)
    epochs: int = checked(4, at_least=1, at_most=MOST_UNITS)
    minibatches: int = checked(4, at_least=1, at_most=MOST_UNITS)
    clip_range: float = per_run(0.2, above=0)
    clip_range_value: float | None = per_run(None, above=0)
    target_kl: float | None = per_run(None, above=0)
    normalize_advantage: bool = True
    recompute_advantage: bool = False
    vtrace: bool = False


@dataclass(frozen=True)
class NPGConfig(AlgorithmConfig):
    _target_: str = "pg_experiments.algorithms.npg.NPG"
    rollout_steps: int = checked(128, at_least=1, at_most=MOST_STEPS)
    gae_lambda: float = per_run(0.97, at_least=0, at_most=1)
    damping: float = per_run(0.01, above=0)
    conjugate_gradient_iterations: int = checked(10, at_least=1, at_most=MOST_UNITS)
    normalize_advantage: bool = True


@dataclass(frozen=True)
class TRPOConfig(NPGConfig):
    _target_: str = "pg_experiments.algorithms.trpo.TRPO"
    target_kl: float = per_run(0.01, above=0)
    line_search_steps: int = checked(10, at_least=1, at_most=MOST_UNITS)
