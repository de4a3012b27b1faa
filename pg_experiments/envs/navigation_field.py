"""The field of the navigation task: geometry, heights and shortest paths.

Only + - * and comparisons touch a position, so that these lines serve floats, NumPy arrays and tensors alike. A step of
`navigation.py` says the same of tensors with fewer operations, and is tested against the twins, which use these.
"""

import math
from typing import Any

WIDTH = 1.6  # m, along x
HEIGHT = 1.0  # m, along y
DIAGONAL = math.sqrt(WIDTH**2 + HEIGHT**2)  # m
START = (0.05 * WIDTH, 0.05 * HEIGHT)  # m, near the minimum in the lower left corner
TARGET = (WIDTH, HEIGHT)  # m, the maximum in the upper right corner
TARGET_RADIUS = 0.02 * DIAGONAL  # m
DISCRETE_STEP = WIDTH / 53  # m, length of every move of the discrete task
MAX_STEP = 0.12 * WIDTH  # m, longest move of the continuous task
SCALE = (2 / WIDTH, 2 / HEIGHT)  # 1/m, of what is observed of x and y
BEND = (3 / (8 * WIDTH**2), 3 / (8 * HEIGHT**2))  # 1/m², of the field along x and y
SLOPE = (1 / (8 * WIDTH), 1 / (8 * HEIGHT))  # 1/m, of the field in the lower left corner along x and y
UP, DOWN, RIGHT, LEFT, STAY = range(5)
CLIMB_REWARD = 10.0  # for the whole climb from 0 to 1
ACTION_COST = 0.05  # of every action, a move or not
DISCRETE_MAX_EPISODE_STEPS = 400
CONTINUOUS_MAX_EPISODE_STEPS = 100


def field_value(x: Any, y: Any) -> Any:
    """h(x, y) = (g(x / width) + g(y / height)) / 2 with g(u) = (u + 3u²) / 4.

    A paraboloid whose lowest point lies a little outside of the lower left corner: 0 in that corner, 1 in the
    upper right one, growing in x and in y everywhere.

    Args:
        x, y: position in m within the rectangle; floats, arrays or tensors of one shape.

    Returns:
        Height of the field, without unit, of the same type and shape.
    """
    return x * (x * BEND[0] + SLOPE[0]) + y * (y * BEND[1] + SLOPE[1])


def within_target(x: Any, y: Any) -> Any:
    """Whether a position (m) is at most 2 % of the diagonal away from the maximum: true or false for each."""
    right, up = TARGET[0] - x, TARGET[1] - y
    return right * right + up * up <= TARGET_RADIUS**2


def scaled_position(x: Any, y: Any) -> tuple[Any, Any]:
    """The position (m) on a scale where the rectangle is [-1, 1] by [-1, 1]: what the agent observes."""
    return x * SCALE[0] - 1, y * SCALE[1] - 1


def climb_reward(value_before: Any, value_after: Any) -> Any:
    """reward = 10 (h' - h) - 0.05, where h' counts as 1 as soon as the target is reached.

    The gains of an episode add up to 10 (h_end - h_start) on whatever way, and to 10 (1 - h_start) on every
    way that reaches the target. What is left to win is the number of actions: the best undiscounted return
    from h_start is 10 (1 - h_start) - 0.05 · (fewest actions).

    Source: a potential as in Ng, Harada and Russell (1999), "Policy invariance under reward transformations",
    but without the discount factor in it, so that the gains of an episode add up.

    Args:
        value_before, value_after: h and h' of the step, without unit, of one type and shape.

    Returns:
        Reward of the step, of the same type and shape.
    """
    return CLIMB_REWARD * (value_after - value_before) - ACTION_COST


def fewest_discrete_actions(x: float = START[0], y: float = START[1]) -> int:
    """Actions of the shortest discrete path from a position (m) to the target; 81 from the start.

    Moves to the right and up can be taken in any order; each number of the one leaves a smallest number of
    the other.
    """
    right_to_go, up_to_go = TARGET[0] - x, TARGET[1] - y
    fewest = math.inf
    for rights in range(math.ceil(right_to_go / DISCRETE_STEP) + 1):
        right_left = max(right_to_go - rights * DISCRETE_STEP, 0.0)  # the border stops the last move
        if right_left <= TARGET_RADIUS:
            reach = math.sqrt(TARGET_RADIUS**2 - right_left**2)
            fewest = min(fewest, rights + max(math.ceil((up_to_go - reach) / DISCRETE_STEP), 0))
    return int(fewest)


def fewest_continuous_actions(x: float = START[0], y: float = START[1]) -> int:
    """Actions of the straight continuous path from a position (m) to the target; 10 from the start."""
    distance = math.dist((x, y), TARGET) - TARGET_RADIUS
    return max(math.ceil(distance / MAX_STEP), 0)
