"""Whether an exported policy acts as the original does: on observations of real episodes, and on random ones."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pg_experiments.envs.checks import name_of
from pg_experiments.envs.interface import BoxActions, DiscreteActions, Env, EnvSpec, MixedActions
from pg_experiments.errors import EnvError, UserError, reason_of
from pg_experiments.exporting.formats import Act
from pg_experiments.policies.distributions import Categorical, Distribution
from pg_experiments.policies.head import HeadPolicy
from pg_experiments.policies.interface import Policy
from pg_experiments.policies.networks import Parameters
from pg_experiments.randomness import generator_for
from pg_experiments.wrappers.normalize_observation import NormalizedPolicy

OBSERVATIONS = 1000  # half of them from episodes, as many as there are
COPIES = 8  # of the environment, for episodes
TOLERANCE = 1e-5
BATCHES = (1, 7)  # besides all at once: the size of a batch must not be built in
SPREAD = 3.0  # standard deviations of the random observations, in those of the observations of the episodes


class Check(NamedTuple):
    """What came out.

    Attributes:
        observations: on how many both were compared.
        deviation: the largest |exported - original| / max(1, |original|), of actions (continuous ones) and of
            probabilities or standard deviations.
        different_actions: how many discrete actions differ, although the original prefers its own by more than the
            tolerance.
    """

    observations: int
    deviation: float
    different_actions: int

    @property
    def passed(self) -> bool:
        return self.deviation <= TOLERANCE and not self.different_actions

    def line(self) -> str:
        """In words."""
        actions = f"; {self.different_actions} other actions" if self.different_actions else ""
        return f"largest deviation {self.deviation:.1e} on {self.observations:,} observations{actions}"


def sample_observations(
    policy: Policy, parameters: Parameters, env: Env, dtype: torch.dtype
) -> Float[Tensor, "samples observation"]:
    """Observations of deterministic episodes, and then random ones around them; of a finite environment every state.

    Raises:
        UserError: when the environment fails.
    """
    if env.spec.num_states and not env.spec.mask_size:
        states = torch.eye(env.spec.num_states, dtype=dtype)
        return states.repeat(-(-OBSERVATIONS // len(states)), 1)[: max(OBSERVATIONS, len(states))]
    try:
        seen = _played(policy, parameters, env, dtype)
    except Exception as error:  # of a user's environment: any kind
        raise UserError(f"cannot play episodes to check the export with: {reason_of(error)}") from error
    generator = generator_for(0, "export")
    noise = torch.randn(OBSERVATIONS - len(seen), seen.shape[1], generator=generator, dtype=dtype)
    made = seen.mean(0) + SPREAD * (1e-3 + seen.std(0)) * noise
    if env.spec.mask_size:  # with masks that there are
        made[:, -env.spec.mask_size :] = seen[torch.arange(len(made)) % len(seen), -env.spec.mask_size :]
    return torch.cat([seen, made])


def _played(policy: Policy, parameters: Parameters, env: Env, dtype: torch.dtype) -> Tensor:
    """Half of the observations; fewer where all episodes are over before."""
    generator = generator_for(0, "export")
    noise = torch.rand(1, COPIES, env.spec.reset_noise_size, generator=generator, dtype=dtype)
    state, observation = env.reset(noise)
    running = torch.ones(1, COPIES, dtype=torch.bool)
    seen = [observation[0]]
    with torch.no_grad():
        act = policy.actor(parameters)
        for _ in range(min(OBSERVATIONS // 2 // COPIES, env.spec.max_episode_steps) - 1):
            after = env.step(state, policy.env_action(act(observation).mode()), running)
            state, observation = after.state, after.observation
            running = running & ~after.terminated & ~after.truncated
            if not running.any(1).item():
                break
            seen.append(observation[running])
    whole = torch.cat(seen)
    if not bool(whole.isfinite().flatten().all(0)):
        raise EnvError(name_of(env), "an observation is not finite")
    return whole


def compare(policy: Policy, parameters: Parameters, spec: EnvSpec, act: Act, observation: Tensor) -> Check:
    """Let both act on the same observations.

    Args:
        policy, parameters: the original, of one run.
        spec: of its environment.
        act: the exported one.
        observation: `[samples, observation]`.
    """
    with torch.no_grad():
        distribution = policy(parameters, observation[None])
        action = policy.env_action(distribution.mode())[0]
        spread = _spread(policy, distribution)
        found_action, found_spread = act(observation)
        parts = [(observation[:size], act(observation[:size])) for size in BATCHES]
    deviations = [_deviation(found_spread, spread)] if spread is not None else []
    deviations += [_deviation(both[1], found_spread[: len(own)]) for own, both in parts]
    if isinstance(spec.actions, BoxActions | MixedActions):
        deviations += [_deviation(found_action, action)]
        deviations += [_deviation(both[0], found_action[: len(own)]) for own, both in parts]
        different = 0
    elif not isinstance(spec.actions, DiscreteActions):
        different = int((found_action != action).any(-1).sum(0))
    else:
        best = found_spread.gather(1, found_action[:, None])[:, 0]
        own = found_spread.gather(1, action[:, None])[:, 0]
        different = int(((found_action != action) & (best - own > TOLERANCE)).sum(0))
    return Check(len(observation), max(deviations), different)


def _spread(policy: Policy, distribution: Distribution) -> Tensor | None:
    """What the second output has to be; None for a distribution of the user's own."""
    if isinstance(distribution, Categorical):
        return torch.softmax(distribution.logits, -1)[0]
    inner = policy.inner if isinstance(policy, NormalizedPolicy) else policy
    return inner.head.how_sure(distribution)[0] if isinstance(inner, HeadPolicy) else None


def _deviation(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        return float("inf")
    relative = (found - expected).abs() / expected.abs().clamp(min=1)
    return float(relative.nan_to_num(float("inf")).flatten().amax(0))
