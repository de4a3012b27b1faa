"""Which runs are repetitions of each other: settings, which are what differs between runs apart from the seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pg_experiments.config import OPTION_OF
from pg_experiments.errors import printable
from pg_experiments.reports.collect import Run

# keys that change nothing about what is compared
NOT_SETTINGS = ("seed", "logging.", "checkpoint.", "sweep.", "evaluation.video")
LEARNING_RATE = "optimizer.lr"
ENV_ID = "env.id"  # decides the other keys of `env` as a class does, where it is Gymnasium's
TASK = ("env._target_", ENV_ID, "env.max_episode_steps")  # with another one of these, returns mean something else
ABSENT = "absent"
MOST_KEYS = 3  # that settings are told apart by where what was typed is fewer
NOT_TYPED = "-"


@dataclass(frozen=True)
class Setting:
    """Runs that differ in nothing but the seed.

    Attributes:
        values: what is special about them, as text by name: `learning rate` if that is all that differs, otherwise
            dotted keys. Without any difference `policy` and `env`.
        short: for each of these names the shortest that can mean nothing else: `lr` for `optimizer.lr`, but not for
            `baseline.optimizer.lr`.
        task: environment and time limit; only within one can returns be compared.
        runs: each seed once.
    """

    values: Mapping[str, str]
    short: Mapping[str, str]
    task: str
    runs: tuple[Run, ...]

    @property
    def label(self) -> str:
        """In one line: `0.003`, or `optimizer.lr=0.003, env.gamma=0.99`."""
        return ", ".join(self._lines(self.values))

    @property
    def short_values(self) -> dict[str, str]:
        """`values` by their short names; a single one keeps its own."""
        return {self.short[name] if len(self.values) > 1 else name: text for name, text in self.values.items()}

    @property
    def short_lines(self) -> list[str]:
        """The same with a line each: `lr=0.003` and `gamma=0.99`."""
        return self._lines(self.short_values)

    @staticmethod
    def _lines(values: Mapping[str, str]) -> list[str]:
        if len(values) == 1:
            return list(values.values())
        return [f"{name}={text}" for name, text in values.items() if text != NOT_TYPED] or [NOT_TYPED]

    @property
    def completed(self) -> list[Run]:
        """The runs that ended well and were evaluated: the ones that means are over."""
        return [run for run in self.runs if run.status == "completed" and run.evaluation is not None]

    def missing(self) -> str:
        """What became of the others, such as `2 failed, 1 unfinished`; an empty string when there are none."""
        others = [run for run in self.runs if run not in self.completed]
        counts: dict[str, int] = {}
        for run in others:
            status = "not evaluated" if run.status == "completed" else run.status
            counts[status] = counts.get(status, 0) + 1
        return ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))


@dataclass(frozen=True)
class Comparison:
    """All settings, in order.

    Attributes:
        name: of what differs: `learning rate`, a key, `several keys`, or an empty string.
        settings: sorted, numbers as numbers.
        notes: one line for every run that is not among them, or could be read in part only.
    """

    name: str
    settings: tuple[Setting, ...]
    notes: tuple[str, ...]


def compare(runs: Sequence[Run]) -> Comparison:
    """Sort runs into settings.

    A key makes a difference when its value does, and also what is *written* there: one that only follows another,
    `${...}`, is the same text everywhere. A seed that a setting has twice counts once: with equal configs the two are
    one run, not two pieces of evidence.
    """
    notes = [problem for run in runs for problem in run.problems]
    runs = [run for run in runs if run.written]
    keys = differing_keys(runs)
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        group = groups.setdefault(tuple(_hashable(run.config.get(key, ABSENT)) for key in keys), [])
        double = next((other for other in group if other.seed == run.seed), None)
        if double is None:
            group.append(run)
        elif run.status == "completed" and double.status != "completed":
            group[group.index(double)] = run
            notes.append(f"{double.folder}: left out, {run.folder} is the same run and completed")
        else:
            notes.append(f"{run.folder}: left out, it is the same run as {double.folder}")
    ordered = sorted(groups.values(), key=lambda group: [_order(group[0].config.get(key, ABSENT)) for key in keys])
    names = {LEARNING_RATE: "learning rate"} if keys == [LEARNING_RATE] else {key: _short(key) for key in keys}
    env = ENV_ID if all(run.config.get(ENV_ID) for run in runs) else "env._target_"
    shown = names or {"policy._target_": "policy", env: "env"}
    values = [{name: _text(key, group[0].config.get(key, ABSENT)) for key, name in shown.items()} for group in ordered]
    if len(keys) > MOST_KEYS and (typed := _as_typed(ordered)) and len(typed[0]) < len(keys):
        values, names = typed, {name: name for name in typed[0]}
    short = _short_names(list(values[0]) if values else [], {key for run in runs for key in run.written})
    settings = tuple(
        Setting(own, short, task_of(group[0].config), tuple(sorted(group, key=lambda run: _order(run.seed))))
        for group, own in zip(ordered, values, strict=True)
    )
    name = "several keys" if len(names) > 1 else "".join(names.values())
    return Comparison(name, settings, tuple(map(printable, notes)))


def differing_keys(runs: Sequence[Run]) -> list[str]:
    """Dotted keys that tell the settings apart: environment, other parts, learning rate, then in the config's order.

    Left out are the seed and keys without influence, keys that are fixed by the choice of a part (with `env` differ
    `env.gamma` and many more), and an `env.default_...` or `algorithm.default_...` beside the key that takes its value.
    """
    every_key = list(dict.fromkeys(key for run in runs for key in run.written))
    values = {
        key: [_hashable(run.written.get(key, ABSENT)) for run in runs]
        for key in every_key
        if not key.startswith(NOT_SETTINGS)
    }
    keys = [
        key
        for key, column in values.items()
        if len(set(column)) > 1 and len({_hashable(run.config.get(key, ABSENT)) for run in runs}) > 1
    ]
    parts = [key for key in keys if key.endswith("_target_") or key == ENV_ID]

    def follows_a_part(key: str) -> bool:
        owners = [part for part in parts if part != key and key.startswith(part.rpartition(".")[0] + ".")]
        if key.endswith("_target_"):
            owners = [part for part in owners if part != ENV_ID]
        return any(len(set(zip(values[part], values[key], strict=True))) == len(set(values[part])) for part in owners)

    keys = [key for key in keys if not follows_a_part(key)]
    defaults = [key for key in keys if key.startswith(("env.default_", "algorithm.default_"))]
    for default in defaults:  # configs written from Python have no interpolations left
        if any(values[key] == values[default] for key in keys if key not in defaults):
            keys.remove(default)
    return sorted(keys, key=lambda key: (key not in TASK, not key.endswith("_target_"), key != LEARNING_RATE))


def _as_typed(groups: Sequence[Sequence[Run]]) -> list[dict[str, str]]:
    """What was typed for each group and not for all of them, such as `experiment=cartpole_ppo`, as text by key.

    Empty where that does not tell the groups apart, or differs within one.
    """
    typed = [[_typed(run) for run in group] for group in groups]
    if not all(own and own == every[0] for every in typed for own in every):
        return []
    first = [every[0] for every in typed]
    keys = [
        key for key in dict.fromkeys(key for own in first for key in own) if len({own.get(key) for own in first}) > 1
    ]
    values = [{printable(key): printable(own.get(key, NOT_TYPED)) for key in keys} for own in first]
    return values if keys and len({tuple(own.values()) for own in values}) == len(groups) else []


def _typed(run: Run) -> dict[str, str]:
    """Values by key, without those that are no settings."""
    parts = [item.lstrip("+~").partition("=") for item in run.typed]
    return {key: value for key, _, value in parts if not key.startswith((*NOT_SETTINGS, "hydra"))}


def _short_names(names: Sequence[str], keys: set[str]) -> dict[str, str]:
    """For each name its last words, as few as no other key ends in that has as few words as the name."""
    short = {}
    for name in names:
        words = name.split(".")
        others = [key.removesuffix("._target_").split(".") for key in keys if key.removesuffix("._target_") != name]
        rivals = [other for other in others if len(other) <= len(words)]
        fewest = next(
            count
            for count in range(1, len(words) + 1)
            if count == len(words) or all(other[-count:] != words[-count:] for other in rivals)
        )
        short[name] = ".".join(words[-fewest:])
    return short


def task_of(config: Mapping[str, Any]) -> str:
    """A setting's `task`."""
    name = ENV_ID if config.get(ENV_ID) is not None else TASK[0]  # the class of all of Gymnasium's tells nothing
    texts = [_text(name, config[name])] if config.get(name) is not None else []
    limit = config.get(TASK[2])
    return " ".join([*texts, f"({limit} steps)"] if limit is not None else texts)


def _short(key: str) -> str:
    """`env._target_` is the choice of `env`."""
    return printable(key).removesuffix("._target_")


def _text(key: str, value: Any) -> str:
    if key.endswith("_target_"):
        return OPTION_OF.get(str(value)) or printable(str(value)).rpartition(".")[2]
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    if isinstance(value, list):  # as it is typed
        return "[" + ",".join(_text("", item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{printable(str(name))}:{_text('', item)}" for name, item in value.items()) + "}"
    return printable(str(value))


def _hashable(value: Any) -> Any:
    """Equal for equal values, `1` and `1.0` included, and no other: `true` is not `1`."""
    return (isinstance(value, bool), value) if isinstance(value, bool | int | float | str | None) else repr(value)


def _order(value: Any) -> tuple[int, float, str]:
    """Nothing, then numbers as numbers, then texts."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return 1, value, ""
    return (0, 0, "") if value in (None, ABSENT) else (2, 0, str(value))
