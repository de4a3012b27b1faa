"""The bioreactor's numbers, and what is said with + - * / alone, for floats, NumPy arrays and tensors alike.

A chemostat with Monod growth: biomass X and substrate S in g/L, dilution rate D in 1/h,

    dX/dt = (μ(S) - D - k_d) X
    dS/dt = D (S_in - S) - μ(S) X / Y           μ(S) = μ_max S / (K_S + S)

Source: Monod (1949), "The growth of bacterial cultures", and (1950) for the continuous culture; k_d after
Herbert (1958).
"""

from typing import Any

MAX_GROWTH = 0.4  # 1/h, μ_max
HALF_SATURATION = 0.1  # g/L, K_S
DEATH = 0.01  # 1/h, k_d
YIELD = 0.5  # g biomass per g substrate, Y
FEED = 10.0  # g/L, S_in: substrate in what flows in
MAX_BIOMASS, MAX_SUBSTRATE = 10.0, 20.0  # g/L
MAX_DILUTION = 1.0  # 1/h
WASHOUT = 1e-3  # g/L: with less biomass the culture is lost
WASHOUT_REWARD = -10.0  # g/(L h)
LEAST_AFTER_LOSS = 0.1  # g/L: a sudden loss leaves at least this, so that it alone is no washout

STEP_HOURS = 0.5  # between two decisions
SUBSTEPS = 20  # Runge-Kutta steps of 1.5 min; at most 2 for the fastest rate there is, 80 1/h, where 2.8 are stable
MAX_EPISODE_STEPS = 100  # 50 h


def scaled_observation(biomass: Any, substrate: Any, before: tuple[Any, Any], dilution: Any) -> tuple[Any, ...]:
    """What the agent sees: five numbers without unit, mostly within [-1, 1].

    Biomass is linear, -1 for none and 1 for 5 g/L; substrate bends as growth does, -1 for none, 0 for 0.5 g/L and 1 for
    plenty; then come their differences to the step before, and the dilution rate of the last step, from -1 to 1.

    Args:
        biomass, substrate: now, g/L; floats, arrays or tensors of one shape.
        before: both one step earlier, g/L.
        dilution: 1/h.
    """
    return (
        biomass * 0.4 - 1,
        (substrate - 0.5) / (substrate + 0.5),
        (biomass - before[0]) * 2,
        (substrate - before[1]) * 0.5,
        dilution * 2 - 1,
    )
