"""`policy.network` and `baseline.network`: from a part's config to the network that it is made with."""

from collections.abc import Sequence
from typing import Any

from pg_experiments.envs.interface import EnvSpec
from pg_experiments.errors import ConfigError
from pg_experiments.network_config import NetworkConfig
from pg_experiments.policies.convolution import Convolutions

OF_CONVOLUTIONS = ("channels", "kernel_sizes", "strides")


def as_arguments(part: str, config: Any, spec: EnvSpec | None) -> tuple[Sequence[str], dict[str, Any]]:
    """The keys that make the convolutions of a network, and these as an argument instead.

    Args:
        part: `policy` or `baseline`.
        config: of it; one without such a network, or of the user's own, keeps all of its keys.
        spec: of the environment; a part with a network needs it.
    """
    if not isinstance(config, NetworkConfig):
        return (), {}
    assert spec is not None
    return ("network", *OF_CONVOLUTIONS), {"convolutions": _convolutions_of(part, config, spec)}


def _convolutions_of(part: str, config: NetworkConfig, spec: EnvSpec) -> Convolutions | None:
    """None for an mlp.

    Raises:
        ConfigError: when the observations are no images, or too small for these convolutions.
    """
    if config.network == "mlp":
        return None
    if part == "baseline" and spec.mask_size:
        reason = "sees images alone, but these observations end with a mask of legal actions; fitting: mlp"
        raise ConfigError(f"{part}.network", config.network, reason)
    if spec.image_shape is None:
        seen = f"a vector of {spec.observation_size} numbers"
        reason = f"needs images (Box of uint8 with 2 or 3 dimensions), but an observation is {seen}; fitting: mlp"
        raise ConfigError(f"{part}.network", config.network, reason)
    lists = {name: getattr(config, name) for name in OF_CONVOLUTIONS}
    for name, numbers in lists.items():
        if len(numbers) != len(config.channels):
            reason = f"must have as many items as {part}.channels, which has {len(config.channels)}"
            raise ConfigError(f"{part}.{name}", numbers, reason)
    convolutions = Convolutions(spec.image_shape, **lists)
    for place, convolution in enumerate(convolutions):
        _, height, width = convolution.image
        if convolution.kernel > min(height, width):
            before = f"what convolution {place} leaves" if place else "an observation"
            reason = f"{convolution.kernel} is more than the {height} x {width} pixels of {before}"
            raise ConfigError(f"{part}.kernel_sizes", config.kernel_sizes, reason)
    return convolutions
