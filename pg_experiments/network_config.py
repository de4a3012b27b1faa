"""The schema of a network: what every policy and baseline that has one shares. Imports no torch; see `config.py`."""

from dataclasses import dataclass

from pg_experiments.schema_fields import ACTIVATION_NAMES, MOST_LAYERS, MOST_UNITS, checked

MOST_CONVOLUTIONS = 100
MOST_PIXELS = 1000  # of a kernel or a stride


@dataclass(frozen=True)
class NetworkConfig:
    """A network of a policy or baseline; channels, kernel_sizes and strides are those of a cnn."""

    _target_: str = "???"
    network: str = checked("mlp", one_of=("mlp", "cnn"))
    hidden_sizes: list[int] = checked([64, 64], at_least=1, at_most=MOST_UNITS, items=(0, MOST_LAYERS))
    activation: str = checked("relu", one_of=ACTIVATION_NAMES)
    channels: list[int] = checked([16, 32], at_least=1, at_most=MOST_UNITS, items=(1, MOST_CONVOLUTIONS))
    kernel_sizes: list[int] = checked([3, 3], at_least=1, at_most=MOST_PIXELS, items=(1, MOST_CONVOLUTIONS))
    strides: list[int] = checked([2, 2], at_least=1, at_most=MOST_PIXELS, items=(1, MOST_CONVOLUTIONS))
