"""The command line of a sweep, before Hydra reads it. Imports no torch."""

from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType

from pg_experiments.before_work import parsed_flags
from pg_experiments.composition import known_keys

EXCLUDED = "hydra.job.config.override_dirname.exclude_keys"


def prepared(arguments: Sequence[str]) -> list[str]:
    """The same command line, with what Hydra has to be told besides; as it is where it is no sweep.

    A sweeper hands a launcher whole jobs, and only the command line says which of their overrides vary: the others are
    left out of the names of the jobs' folders. And keys that only the options of a sweep have are let through.
    """
    flags = parsed_flags(arguments)
    if not flags.multirun:
        return list(arguments)
    parsed = OverridesParser.create().parse_overrides(flags.overrides)
    lacking = _lacking_keys(parsed, flags.overrides)
    told = [f"++{argument}" if argument in lacking else argument for argument in arguments]
    if shared := _shared_keys(parsed):
        place = list(arguments).index(flags.overrides[0])  # beside the others: the parser takes them in one piece
        told.insert(place, f"{EXCLUDED}=[{','.join(shared)}]")
    return told


def _shared_keys(parsed: Sequence[Override]) -> list[str]:
    """Keys that all jobs share, but for the seed; none where the command itself says which."""
    if any(item.key_or_group == EXCLUDED for item in parsed):
        return []
    named = {item.key_or_group for item in parsed if item.is_sweep_override()} | {"seed"}
    fixed = [item.key_or_group for item in parsed if item.key_or_group not in named and not item.is_hydra_override()]
    return list(dict.fromkeys(fixed))


def _lacking_keys(parsed: Sequence[Override], overrides: Sequence[str]) -> set[str]:
    """Overrides such as `algorithm.rollout_steps=16` beside `algorithm=ppo,trpo`, as typed.

    Hydra first composes without what is swept, where such a key may not be; with `++` it is the jobs that are checked.
    """
    swept = {item.key_or_group for item in parsed if item.is_sweep_override()}
    of_swept = {
        str(item.input_line): item.key_or_group
        for item in parsed
        if item.type is OverrideType.CHANGE
        and not item.is_sweep_override()
        and "." in item.key_or_group
        and {"experiment", item.key_or_group.partition(".")[0]} & swept
    }
    if not of_swept:
        return set()
    known = known_keys(overrides)
    return {typed for typed, key in of_swept.items() if key not in known}
