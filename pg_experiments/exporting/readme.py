"""The README.md beside an exported policy: what goes in, what comes out, how it is called, and where it comes from."""

import inspect
import math
from collections.abc import Sequence
from typing import Any

from pg_experiments.config import Config, config_sha256
from pg_experiments.env_config import GymnasiumConfig
from pg_experiments.envs.checks import innermost, name_of
from pg_experiments.envs.interface import (
    Actions,
    DiscreteActions,
    Env,
    EnvSpec,
    MixedActions,
    MultiBinaryActions,
    MultiDiscreteActions,
    action_width,
)
from pg_experiments.errors import printable
from pg_experiments.exporting.check import TOLERANCE, Check
from pg_experiments.exporting.formats import Format
from pg_experiments.policies.head import HeadPolicy
from pg_experiments.policies.interface import Policy
from pg_experiments.policies.softmax import TabularSoftmax
from pg_experiments.reports.collect import Run
from pg_experiments.runs import name_of_option
from pg_experiments.surroundings import versions, versions_of
from pg_experiments.wrapper_config import (
    NormalizeObservationConfig,
    OwnWrapperConfig,
    RepeatActionConfig,
    StackFramesConfig,
    TimeAwarenessConfig,
)

TITLE = "# A policy exported by pg_experiments"  # the first line of every such file: by it ours are known
TARGET_PLACES = 6  # digits of a bound


def readme(
    chosen: Format,
    file: str,
    config: Config,
    run: Run,
    checkpoint: str,
    env: Env,
    settings: Sequence[Any],
    check: Check,
    policy: Policy,
) -> str:
    """The text.

    Args:
        chosen: the format.
        file: name of the policy's file.
        config: of the run.
        run: what its folder says of its outcome.
        checkpoint: that was exported.
        env: that the policy was trained in, its wrappers around it.
        settings: of those wrappers.
        check: of the exported file against the original policy.
        policy: the one that has learned, without a normalisation around it.
    """
    spec = env.spec
    sections = [
        TITLE,
        f"`{file}` holds the deterministic policy of one run as {chosen.about}. It needs no pg_experiments.",
        f"## Call it\n\n```python\n{_code(chosen, file, config, spec, policy)}\n```",
        "## In and out\n\n" + "\n".join(_table(config, spec, policy)),
        "## The environment\n\n" + _environment(env, config),
        *_around(settings, innermost(env).spec),
        "## Where it comes from\n\n" + "\n".join(_origin(chosen, config, run, checkpoint, check)),
    ]
    return "\n\n".join(sections) + "\n"


def outputs(policy: Policy) -> tuple[str, str]:
    """The names of what a policy's module returns.

    Args:
        policy: the one that learns, without a normalisation around it.
    """
    return "action", _sure(policy)[0]


def _sure(policy: Policy) -> tuple[str, str]:
    """A word for the second output, and a sentence about it."""
    if isinstance(policy, HeadPolicy):
        return policy.head.sure
    return ("probabilities", "of the actions, from 0 on") if isinstance(policy, TabularSoftmax) else ("how_sure", "")


def _code(chosen: Format, file: str, config: Config, spec: EnvSpec, policy: Policy) -> str:
    replaced = {"FILE": file, "SIZE": str(spec.observation_size), "DTYPE": config.dtype, "SPREAD": outputs(policy)[1]}
    code = chosen.code.strip()
    if spec.mask_size:  # of which zeros are none
        code = code.replace("zeros(", "ones(")
    for word, text in replaced.items():
        code = code.replace(word, text)
    return code


def _table(config: Config, spec: EnvSpec, policy: Policy) -> list[str]:
    """Names, shapes, types and ranges of input and outputs."""
    lines = ["| name | shape | type | what it is |", "|---|---|---|---|"]
    seen = "the one-hot vector of the state" if spec.num_states else "as below, not normalised"
    if spec.mask_size:
        seen += f", and behind it the mask of legal actions: {spec.mask_size} numbers, 1 for legal, 0 for illegal"
    lines.append(f"| in: `observation` | batch x {spec.observation_size} | {config.dtype} | {seen} |")
    shape, kind, about = _of_action(spec.actions, config.dtype)
    lines.append(f"| out: `action` | {shape} | {kind} | {about} |")
    name, sentence = _sure(policy)
    lines.append(f"| out: `{name}` | batch x its size | {config.dtype} | {sentence} |")
    lines.append("")
    lines.append(
        "The batch may have any size; each observation is acted on alone. Nothing is remembered between calls."
    )
    return lines


def _of_action(actions: Actions, dtype: str) -> tuple[str, str, str]:
    """Shape, type and meaning of the action."""
    if isinstance(actions, DiscreteActions):
        return "batch", "int64", f"the most probable one, 0 to {actions.count - 1}"
    shape = f"batch x {action_width(actions)}"
    if isinstance(actions, MultiDiscreteActions):
        counts = ", ".join(f"0 to {count - 1}" for count in actions.counts)
        return shape, "int64", f"the most probable option of every choice, {counts}"
    if isinstance(actions, MultiBinaryActions):
        return shape, "int64", "1 for every switch that is on, else 0"
    if isinstance(actions, MixedActions):
        parts = "; ".join(_of_action(part, dtype)[2] for part in actions.parts)
        return shape, dtype, f"the parts, side by side: {parts}"
    bounds = ", ".join(
        f"{low:.{TARGET_PLACES}g} to {high:.{TARGET_PLACES}g}"
        for low, high in zip(actions.low, actions.high, strict=True)
    )
    return shape, dtype, f"to be sent, within {bounds}"


def _environment(env: Env, config: Config) -> str:
    base = innermost(env)
    about = getattr(base, "about", None) or inspect.getdoc(type(base)) or "It says nothing about itself."
    limit = f"An episode has at most {base.spec.max_episode_steps} steps."
    if isinstance(config.env, GymnasiumConfig):
        return f"{printable(str(about))} {limit}"
    name = printable(name_of(base))
    return f"`{name}`, whose own description is\n\n```text\n{about}\n```\n\n{limit}"


def _around(settings: Sequence[Any], spec: EnvSpec) -> list[str]:
    """What the caller has to do, in the order of the wrappers, the first nearest to the environment.

    Args:
        settings: of the wrappers.
        spec: of the environment inside all of them.
    """
    lines, limit = [], spec.max_episode_steps
    repeats = math.prod(each.times for each in settings if isinstance(each, RepeatActionConfig))
    if spec.mask_size and any(isinstance(each, StackFramesConfig | TimeAwarenessConfig) for each in settings):
        lines.append(
            f"- Keep the {spec.mask_size} numbers of the action_mask apart: below, an observation is what stands "
            "before them. The newest ones then come last in the row."
        )
    for each in settings:
        if isinstance(each, RepeatActionConfig):
            limit, repeats = -(-limit // each.times), repeats // each.times
            lines.append(f"- Play every action {each.times} times in a row, then ask again.")
        elif isinstance(each, StackFramesConfig):
            lines.append(
                f"- Stack: the policy sees the last {each.frames} observations in one row, the oldest first. At the "
                f"beginning of an episode all {each.frames} are the first one: "
                f"`row = numpy.tile(first, {each.frames})`, and then "
                "`row = numpy.concatenate([row[len(first):], observation])`."
            )
        elif isinstance(each, TimeAwarenessConfig):
            elapsed = "t" if repeats == 1 else f"{repeats} t"
            lines.append(
                f"- Append the time to the observation: {elapsed} / {limit} before decision t of the episode, counted "
                "from 0."
            )
        elif isinstance(each, OwnWrapperConfig):
            lines.append(f"- Apply `{printable(each.target)}` with its options {printable(str(dict(each.options)))}.")
        elif isinstance(each, NormalizeObservationConfig):
            lines.append("- Nothing for `normalize_observation`: mean, scale and limit are inside of the file.")
    if not lines:
        return []
    return [
        "## What you have to do around it\n\nIn this order, the first nearest to the environment:\n\n"
        + "\n".join(lines)
    ]


def _origin(chosen: Format, config: Config, run: Run, checkpoint: str, check: Check) -> list[str]:
    evaluation = (
        f"mean return {run.evaluation:.6g} over {run.episodes} deterministic episodes, at the end of the training"
        if run.evaluation is not None
        else "none"
    )
    used = ", ".join(f"{name} {found}" for name, found in (versions() | versions_of(chosen.modules)).items())
    return [
        f"- Run: `{printable(run.folder.resolve().name)}`, {run.status}; checkpoint `{printable(checkpoint)}`.",
        f"- Policy: `{printable(name_of_option(config.policy))}`; seed {config.seed}.",
        f"- Config hash (`config_sha256`): `{config_sha256(config)}`.",
        f"- Evaluation of the run: {evaluation}.",
        f"- Checked: read back by its own runtime and compared with the original policy: {check.line()}, in batches "
        f"of 1, of 7 and of all; allowed is {TOLERANCE:g}, relative where a value is larger than 1.",
        f"- Written with {used}.",
    ]
