"""The schemas of the environments: what every one has, and what each adds. Imports no torch; see `config.py`."""

from dataclasses import dataclass, field
from typing import Any

from pg_experiments.schema_fields import checked, per_run

MOST_COPIES = 100_000  # of an environment: more is a slip of the finger
BACKENDS = ("auto", "native", "envpool", "sync", "async")  # see `backend_config.py`
SHORTEST_LIMIT, LONGEST_LIMIT = 0.01, 86_400.0  # seconds that a step may take


@dataclass(frozen=True)
class EnvConfig:
    _target_: str = "???"
    num_envs: int = checked(64, at_least=1, at_most=MOST_COPIES)
    gamma: float = per_run(0.99, at_least=0, at_most=1)
    reward_scale: float = per_run(1.0, above=0)
    default_initial_std: float = per_run(1.0, above=0)
    default_env_steps: int = per_run(1_000_000, at_least=1)
    step_seconds: float | None = checked(None, at_least=SHORTEST_LIMIT, at_most=LONGEST_LIMIT)
    wrappers: list[Any] = field(default_factory=list)  # see `wrapper_config.py`
    backend: str = checked("auto", one_of=BACKENDS)


@dataclass(frozen=True)
class CartPoleConfig(EnvConfig):
    _target_: str = "pg_experiments.envs.cartpole.CartPole"
    max_episode_steps: int = checked(500, at_least=1)


@dataclass(frozen=True)
class PendulumConfig(EnvConfig):
    _target_: str = "pg_experiments.envs.pendulum.Pendulum"
    max_episode_steps: int = checked(200, at_least=1)


@dataclass(frozen=True)
class NavigationConfig(EnvConfig):
    _target_: str = "pg_experiments.envs.navigation.Navigation"
    max_episode_steps: int = checked(100, at_least=1)
    start_noise: float = checked(0.02, at_least=0, at_most=0.05)


@dataclass(frozen=True)
class NavigationDiscreteConfig(NavigationConfig):
    _target_: str = "pg_experiments.envs.navigation.NavigationDiscrete"
    max_episode_steps: int = checked(400, at_least=1)


@dataclass(frozen=True)
class AcrobotConfig(EnvConfig):
    _target_: str = "pg_experiments.envs.acrobot.Acrobot"
    max_episode_steps: int = checked(500, at_least=1)


@dataclass(frozen=True)
class MountainCarConfig(EnvConfig):
    _target_: str = "pg_experiments.envs.mountain_car.MountainCar"
    max_episode_steps: int = checked(200, at_least=1)


@dataclass(frozen=True)
class MountainCarContinuousConfig(EnvConfig):
    _target_: str = "pg_experiments.envs.mountain_car.MountainCarContinuous"
    max_episode_steps: int = checked(999, at_least=1)


@dataclass(frozen=True)
class BioreactorConfig(EnvConfig):
    _target_: str = "pg_experiments.envs.bioreactor.Bioreactor"
    max_episode_steps: int = checked(100, at_least=1)
    start_biomass: list[float] = checked([0.001, 5.0], at_least=0.001, at_most=10, items=(2, 2))
    start_substrate: list[float] = checked([0.0, 3.0], at_least=0, at_most=20, items=(2, 2))
    loss: float = checked(3.0, at_least=0, at_most=10)
    loss_probability: float = checked(0.5, at_least=0, at_most=1)
    loss_hours: list[float] = checked([0.0, 50.0], at_least=0, at_most=1e6, items=(2, 2))


@dataclass(frozen=True)
class FrozenLakeConfig(EnvConfig):
    _target_: str = "pg_experiments.envs.tabular.FrozenLake"
    map: list[str] = checked(["SFFF", "FHFH", "FFFH", "HFFG"], items=(1, 100))
    is_slippery: bool = True
    max_episode_steps: int = checked(100, at_least=1)


@dataclass(frozen=True)
class CliffWalkingConfig(EnvConfig):
    _target_: str = "pg_experiments.envs.tabular.CliffWalking"
    is_slippery: bool = False
    max_episode_steps: int = checked(200, at_least=1)


@dataclass(frozen=True)
class GymnasiumConfig(EnvConfig):
    _target_: str = "pg_experiments.envs.gymnasium_adapter.GymnasiumEnv"
    id: str = "???"
    max_episode_steps: int | None = checked(None, at_least=1)
    kwargs: dict[str, Any] = field(default_factory=dict)
    action_mask: bool = False


GYMNASIUM_TASKS = {  # options of `env` that are Gymnasium ids with numbers of their own
    "lunar_lander": "LunarLander-v3",
    "lunar_lander_continuous": "LunarLanderContinuous-v3",
    "bipedal_walker": "BipedalWalker-v3",
    "half_cheetah": "HalfCheetah-v5",
    "hopper": "Hopper-v5",
    "walker2d": "Walker2d-v5",
    "ant": "Ant-v5",
    "swimmer": "Swimmer-v5",
    "humanoid": "Humanoid-v5",
    "inverted_pendulum": "InvertedPendulum-v5",
    "inverted_double_pendulum": "InvertedDoublePendulum-v5",
    "reacher": "Reacher-v5",
}
