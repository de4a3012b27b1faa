"""From the noise of a reset to a seed, for environments that draw their random numbers themselves."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

EPISODES = 256  # of one seed: so many, beside 16 bits of the seed, are exact in float32


def seeds_of(noise: Float[Tensor, "runs envs 2"]) -> Int64[Tensor, "runs envs"]:
    """A seed below 2³¹ per copy, of its two uniform random numbers in [0, 1): 16 bits of the first, 15 of the second.

    What the numbers have before the point does not matter, see `episodes_of`.

    Example:
        >>> seeds_of(torch.tensor([[[0.0, 0.5], [0.5, 0.0]]])).tolist()
        [[16384, 1073741824]]
    """
    high, low = (noise.double() % 1).mul_(2.0**16).unbind(-1)
    return high.long() * 2**15 + (low / 2).long()


def episodes_of(noise: Float[Tensor, "runs envs 2"]) -> Int64[Tensor, "runs envs"]:
    """How many episodes of its seed lie before each copy's one: what its first number has before the point."""
    return noise[..., 0].long()


def following_seeds(seeds: Int64[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    """The seed of the episode after that of each seed: known beforehand, so that a pool can be made for many episodes.

    A linear congruential generator of full period 2³¹: it visits every seed before one comes again, and two copies
    whose seeds differ always differ. The seeds need no other quality, an environment's own generator is seeded with
    them.

    Source: Knuth (1997), The art of computer programming 2, section 3.2.1.2, theorem A.
    """
    return (seeds * 1103515245 + 12345) % 2**31


def noise_of(seeds: Int64[Tensor, "runs envs"], dtype: torch.dtype) -> Float[Tensor, "runs envs 2"]:
    """Two numbers of which `seeds_of` makes these seeds, for their first episodes; exact in every real type."""
    return torch.stack([(seeds // 2**15).to(dtype) / 2**16, (seeds % 2**15).to(dtype) / 2**15], -1)


def following_noise(noise: Float[Tensor, "runs envs 2"], episodes: int) -> Float[Tensor, "runs envs 2"]:
    """The noise of the next episode: one more of the same seed, or the first of `following_seeds`.

    Args:
        episodes: that a seed gives, at most `EPISODES`.
    """
    seeds, episode = seeds_of(noise), episodes_of(noise) + 1
    following = torch.where(episode < episodes, seeds, following_seeds(seeds))
    found = noise_of(following, noise.dtype)
    found[..., 0] += torch.where(episode < episodes, episode, 0)
    return found
