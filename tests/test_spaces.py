"""Observations of every space become vectors: those of `gymnasium.spaces.utils.flatten`, but for images."""

import re
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.spaces.utils import flatdim, flatten

from pg_experiments import ConfigError
from pg_experiments.envs.spaces import image_shape_of, observations_of

SAMPLES = 30
FLAT = {
    "box": spaces.Box(-2.0, 3.0, (2, 3), np.float32),
    "box without dimensions": spaces.Box(-2.0, 3.0, (), np.float64),
    "box without bounds": spaces.Box(-np.inf, np.inf, (4,), np.float32),
    "box of whole numbers": spaces.Box(-5, 5, (2, 2), np.int64),
    "box of bytes": spaces.Box(0, 255, (7,), np.uint8),
    "discrete": spaces.Discrete(5),
    "discrete from 3": spaces.Discrete(4, start=3),
    "multi discrete": spaces.MultiDiscrete([2, 4, 3]),
    "multi discrete from below zero": spaces.MultiDiscrete([2, 4, 3], start=[-1, 5, 0]),
    "multi discrete table": spaces.MultiDiscrete([[2, 4], [3, 5]], start=[[1, 0], [-2, 0]]),
    "multi binary": spaces.MultiBinary(4),
    "multi binary table": spaces.MultiBinary((2, 3)),
    "tuple": spaces.Tuple([spaces.Discrete(3), spaces.Box(-1, 1, (2,)), spaces.MultiBinary(2)]),
    "dict": spaces.Dict({"speed": spaces.Box(-1, 1, (2, 2)), "gear": spaces.Discrete(4, start=-1)}),
    "dict of pairs": spaces.Dict([("z", spaces.Box(-1, 1, (2,))), ("a", spaces.Box(-1, 1, (1,)))]),
    "dict in tuple in dict": spaces.Dict(
        {
            "b": spaces.Tuple([spaces.Dict({"x": spaces.Discrete(2)}), spaces.MultiDiscrete([2, 2])]),
            "a": spaces.Box(0, 1),
        }
    ),
}
IMAGES = {
    (12, 10): (1, 12, 10),
    (12, 10, 3): (3, 12, 10),
    (4, 12, 10): (4, 12, 10),
    (3, 5, 3): (3, 3, 5),  # undecided: as Gymnasium's own, the last
}


def vector(space: spaces.Space[Any], observation: Any) -> Any:
    return observations_of("Env-v0", space).vector(observation)


@pytest.mark.parametrize("space", FLAT.values(), ids=FLAT)
def test_a_vector_is_what_gymnasium_makes_of_the_observation(space: spaces.Space[Any]) -> None:
    space.seed(3)
    assert observations_of("Env-v0", space).size == flatdim(space)
    for _ in range(SAMPLES):
        observation = space.sample()
        np.testing.assert_array_equal(vector(space, observation), flatten(space, observation))


@pytest.mark.parametrize(("shape", "image"), IMAGES.items())
@pytest.mark.parametrize("dtype", [np.uint8, np.bool_])
def test_an_image_is_a_vector_of_channels_from_0_to_1(shape: Any, image: Any, dtype: Any) -> None:
    space = spaces.Box(0, 255 if dtype is np.uint8 else 1, shape, dtype, seed=1)
    observation = space.sample()
    assert image_shape_of(space) == observations_of("Env-v0", space).image_shape == image
    channels_last = len(shape) == 3 and image[0] == shape[2]
    expected = np.moveaxis(observation, 2, 0) if channels_last else observation
    np.testing.assert_array_equal(
        vector(space, observation).reshape(image), (expected / space.high.max()).reshape(image)
    )


def test_pixels_are_scaled_by_their_own_bounds() -> None:
    space = spaces.Box(10, 20, (2, 2), np.uint8)
    np.testing.assert_array_equal(
        vector(space, np.array([[10, 20], [15, 11]], np.uint8)), np.array([0.0, 1.0, 0.5, 0.1])
    )


@pytest.mark.parametrize(
    "space",
    [space for name, space in FLAT.items() if name != "box of bytes"] + [spaces.Box(0, 255, (2, 2, 2, 2), np.uint8)],
)
def test_only_pictures_are_images(space: spaces.Space[Any]) -> None:
    assert observations_of("Env-v0", space).image_shape is None


@pytest.mark.parametrize("space", FLAT.values(), ids=FLAT)
def test_only_a_discrete_space_has_states(space: spaces.Space[Any]) -> None:
    states = observations_of("Env-v0", space).num_states
    assert states == (space.n if isinstance(space, spaces.Discrete) else None)


@pytest.mark.parametrize(
    ("space", "where"),
    [
        (spaces.Text(5), "observations must be Box, Discrete,"),
        (spaces.Sequence(spaces.Discrete(2)), "observations must be Box, Discrete,"),
        (spaces.Graph(spaces.Box(0, 1), None), "observations must be Box, Discrete,"),
        (spaces.OneOf([spaces.Discrete(2), spaces.Box(0, 1)]), "observations must be Box, Discrete,"),
        (spaces.Dict({"a": spaces.Discrete(2), "note": spaces.Text(5)}), "observation['note'] must be Box, Discrete,"),
        (spaces.Tuple([spaces.Tuple([spaces.Text(5)])]), "observation[0][0] must be Box, Discrete,"),
        (spaces.Dict({}), "must hold a number"),
        (spaces.Box(0, 1, (0,)), "must hold a number"),
    ],
)
def test_a_space_that_is_no_vector_is_refused_with_its_place(space: spaces.Space[Any], where: str) -> None:
    with pytest.raises(ConfigError) as error:
        observations_of("Env-v0", space)
    assert str(error.value).startswith("env.id=Env-v0: ")
    assert where in str(error.value)


def test_every_space_of_gymnasium_is_read_or_refused_here() -> None:
    kinds = {"Box", "Discrete", "MultiDiscrete", "MultiBinary", "Dict", "Tuple", "Text", "Sequence", "Graph", "OneOf"}
    every = {name for name in spaces.__all__ if isinstance(getattr(spaces, name), type)}
    assert every - {"Space", "GraphInstance"} == kinds


BOTH = spaces.Dict({"gear": spaces.Discrete(4, start=1), "speed": spaces.Box(-1, 1, (2,))})
PAIR = spaces.Tuple([spaces.Discrete(2), spaces.MultiBinary(2)])


@pytest.mark.parametrize(
    ("space", "observation", "problem"),
    [
        (FLAT["box"], np.zeros((3, 2)), "an observation of shape (3, 2), expected (2, 3)"),
        (FLAT["box"], "high", "an observation of 'high', expected real numbers of shape (2, 3)"),
        (FLAT["discrete from 3"], 2, "an observation of 2, expected a whole number from 3 to 6"),
        (FLAT["multi discrete"], np.array([1, 4, 0]), "an observation with 4 at place 1, expected 0 to 3"),
        (
            FLAT["multi discrete from below zero"],
            np.array([-2, 5, 0]),
            "an observation with -2 at place 0, expected -1 to 0",
        ),
        (FLAT["multi discrete"], np.ones(3), "an observation of type float64, expected whole numbers of shape (3,)"),
        (FLAT["multi discrete"], np.array([1, 1]), "an observation of shape (2,), expected (3,)"),
        (FLAT["multi binary"], np.array([0, 1, 2, 0]), "an observation with 2 at place 2, expected 0 or 1"),
        (BOTH, {"gear": 1}, "an observation with the keys gear, expected gear, speed"),
        (BOTH, {}, "an observation with the keys nothing, expected gear, speed"),
        (BOTH, np.zeros(3), "an observation of shape (3,), expected a dict with gear, speed"),
        (
            BOTH,
            {"gear": 5, "speed": np.zeros(2)},
            "observation['gear'] of 5, expected a whole number from 1 to 4",
        ),
        (BOTH, {"gear": 1, "speed": np.zeros(3)}, "observation['speed'] of shape (3,), expected (2,)"),
        (PAIR, (1,), "an observation of (1,), expected a tuple of 2 parts"),
        (PAIR, None, "an observation of None, expected a tuple of 2 parts"),
        (PAIR, (1, np.array([0, 3])), "observation[1] with 3 at place 1, expected 0 or 1"),
    ],
)
def test_an_observation_outside_its_space_is_told(space: spaces.Space[Any], observation: Any, problem: str) -> None:
    observations = observations_of("Env-v0", space)
    assert observations.put(np.zeros(observations.size), observation) == problem
    with pytest.raises(ValueError, match=re.escape(problem)):
        observations.vector(observation)


def test_the_order_of_a_dict_is_that_of_the_space_and_not_of_the_observation() -> None:
    observation = {"speed": np.array([0.5, -0.5]), "gear": 2}
    np.testing.assert_array_equal(vector(BOTH, observation), [0, 1, 0, 0, 0.5, -0.5])


def test_an_environment_of_a_dict_gives_its_vectors_to_a_run() -> None:
    """Blackjack's observation is a tuple of three numbers."""
    import torch

    from pg_experiments.envs.gymnasium_adapter import GymnasiumEnv

    env = GymnasiumEnv("Blackjack-v1", {}, 9)
    assert env.spec.observation_size == 32 + 11 + 2
    noise = torch.tensor([[[0.5, 0.25], [0.75, 0.125]]])
    _, observation = env.reset(noise)
    space = gymnasium.make("Blackjack-v1")
    seed = int(0.5 * 2**16) * 2**15 + int(0.25 * 2**15)
    seen, _ = space.reset(seed=seed)
    np.testing.assert_array_equal(observation[0, 0], flatten(space.observation_space, seen))
    assert observation.sum(-1).tolist() == [[3.0, 3.0]]
