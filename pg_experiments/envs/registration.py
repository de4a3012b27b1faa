"""The package's own environments under their Gymnasium names. Imports neither torch nor matplotlib."""

import gymnasium

from pg_experiments.envs.bioreactor_model import MAX_EPISODE_STEPS as BIOREACTOR_MAX_EPISODE_STEPS
from pg_experiments.envs.navigation_field import CONTINUOUS_MAX_EPISODE_STEPS, DISCRETE_MAX_EPISODE_STEPS

ENTRY_POINTS = {
    "pg_experiments/Navigation-v0": ("gymnasium_navigation:Navigation", CONTINUOUS_MAX_EPISODE_STEPS),
    "pg_experiments/NavigationDiscrete-v0": ("gymnasium_navigation:NavigationDiscrete", DISCRETE_MAX_EPISODE_STEPS),
    "pg_experiments/Bioreactor-v0": ("gymnasium_bioreactor:Bioreactor", BIOREACTOR_MAX_EPISODE_STEPS),
}


def register() -> None:
    """Make the environments known to `gymnasium.make`; a second call does nothing."""
    for name, (entry_point, max_episode_steps) in ENTRY_POINTS.items():
        if name not in gymnasium.registry:
            gymnasium.register(
                name,
                entry_point=f"pg_experiments.envs.{entry_point}",
                max_episode_steps=max_episode_steps,
            )
