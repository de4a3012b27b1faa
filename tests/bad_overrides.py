"""Strategies for override lists that are broken for certain, made from the schemas themselves.

A new key of a schema is covered as soon as it is there: what breaks it follows from its type and its metadata.
"""

import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import gymnasium
from hypothesis import assume
from hypothesis import strategies as st

from pg_experiments.config import GROUPS, SCHEMAS, Config
from pg_experiments.env_config import BACKENDS
from pg_experiments.wrapper_config import WRAPPERS

OWN_SPACES = ("env=gymnasium", "env.id=own_spaces:OwnSpaces-v0")
NEEDS = {  # what an option needs beside it to be valid with the defaults
    ("policy", "softmax"): ("env=cartpole",),
    ("policy", "tabular_softmax"): ("env=gymnasium", "env.id=FrozenLake-v1"),
    ("policy", "linear_softmax"): ("env=cartpole",),
    ("policy", "multi_categorical"): (*OWN_SPACES, "env.kwargs.kind=multi_discrete"),
    ("policy", "bernoulli"): (*OWN_SPACES, "env.kwargs.kind=multi_binary"),
    ("env", "cartpole"): ("policy=softmax",),
    ("env", "acrobot"): ("policy=softmax",),
    ("env", "mountain_car"): ("policy=softmax",),
    ("env", "frozen_lake"): ("policy=softmax",),
    ("env", "cliff_walking"): ("policy=softmax",),
    ("env", "navigation_discrete"): ("policy=softmax",),
    ("env", "lunar_lander"): ("policy=softmax",),
    ("env", "gymnasium"): ("policy=softmax", "env.id=CartPole-v1"),
    ("optimizer", "torch"): ("optimizer._target_=torch.optim.Adagrad",),
}
HARMLESS = ("checkpoint.every=2", "logging.every=3", "evaluation.every=5", "logging.tensorboard=false")
DISCRETE = ("cartpole", "acrobot", "mountain_car", "navigation_discrete")
CONTINUOUS = ("pendulum", "mountain_car_continuous", "navigation", "bioreactor")
NATIVE_ONLY = (
    "FrozenLakeConfig",
    "CliffWalkingConfig",
    "NavigationConfig",
    "NavigationDiscreteConfig",
    "BioreactorConfig",
)
FOR_BOXES = ("gaussian", "linear_gaussian", "squashed_gaussian", "beta", "von_mises")
WRONG_FITS = (  # policy and environment that do not go together
    *((policy, env) for policy in FOR_BOXES for env in (*DISCRETE, "frozen_lake", "cliff_walking")),
    *((policy, env) for policy in ("softmax", "linear_softmax", "tabular_softmax") for env in CONTINUOUS),
    *((policy, env) for policy in ("multi_categorical", "bernoulli") for env in (*DISCRETE, *CONTINUOUS)),
    *(("mixed", env) for env in DISCRETE),
    *(("tabular_softmax", env) for env in DISCRETE),
)
NO_NUMBER = st.sampled_from(("abc", "'1 2'", "true", "1-2", "{a:1}", "0x", "one", "--", "1..2", "'ü'", "''"))
NO_VALUE = st.sampled_from(("${nothing}", "${nothing.deeper}", "${no_resolver:1}", "${oc.env:PG_NO_SUCH}", "${", "${}"))
NOT_FINITE = st.sampled_from(("nan", "inf", "-inf", "1e400", "-1e400", "NaN"))
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Broken:
    """A command line that cannot be used.

    Attributes:
        overrides: as typed.
        names: the message must hold one of these.
        flags: such as `-m`.
    """

    overrides: tuple[str, ...]
    names: tuple[str, ...]
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Key:
    """One field of one schema.

    Attributes:
        name: dotted.
        kind: the type of its annotation.
        metadata: as `checked` made it.
        needs: overrides without which it is not there.
        schema: name of the dataclass.
    """

    name: str
    kind: Any
    metadata: dict[str, Any]
    needs: tuple[str, ...]
    schema: str
    optional: bool = field(default=False)

    def __str__(self) -> str:
        return f"{self.schema}:{self.name}"


def _keys_of(schema: type, prefix: str, needs: tuple[str, ...]) -> list[Key]:
    hints = typing.get_type_hints(schema)
    keys = []
    for item in fields(schema):
        kind = hints[item.name]
        if is_dataclass(kind):
            keys += _keys_of(kind, f"{prefix}{item.name}.", needs)  # type: ignore[arg-type]
        elif kind is not Any:  # Any: a group
            options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
            plain = next(option for option in options if option is not type(None))
            optional = type(None) in options
            keys.append(Key(prefix + item.name, plain, dict(item.metadata), needs, schema.__name__, optional))
    return keys


def all_keys() -> list[Key]:
    """Every field of every schema, where it can be given."""
    keys = _keys_of(Config, "", ())
    for group, options in SCHEMAS.items():
        for option, schema in options.items():
            needs = (f"{group}={option}", *NEEDS.get((group, option), ()))
            keys += _keys_of(schema, f"{group}.", needs)
    for option, schema in SCHEMAS["optimizer"].items():
        own = ("baseline.optimizer._target_=torch.optim.Adagrad",) if option == "torch" else ()
        keys += _keys_of(schema, "baseline.optimizer.", (f"optimizer@baseline.optimizer={option}", *own))
    return keys


def quoted(text: str) -> str:
    """Any text as one value of Hydra's grammar."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def words(*without: str) -> st.SearchStrategy[str]:
    """Text of all kinds, control characters and emoji included, that is none of these words."""
    plain = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).map(quoted)
    near = st.sampled_from(without).flatmap(typos) if without else plain
    return (plain | near).filter(lambda text: text.strip("'").strip() not in without)


@st.composite
def typos(draw: st.DrawFn, word: str) -> str:
    """The word with a letter too many, too few or wrong."""
    place = draw(st.integers(0, len(word) - 1))
    letter = draw(st.sampled_from(LETTERS))
    how = draw(st.sampled_from(("more", "less", "wrong")))
    wrong = word[:place] + {"more": letter + word[place], "less": "", "wrong": letter}[how] + word[place + 1 :]
    assume(wrong.strip(".") and wrong != word and ".." not in wrong and not wrong.startswith("."))
    return wrong


# --- values -----------------------------------------------------------------------------------------------------------


def broken_values(key: Key) -> st.SearchStrategy[str]:
    """Values that this key cannot have, from its type and its limits."""
    kind = typing.get_origin(key.kind) or key.kind
    null = [] if key.optional else [st.just("null")]
    if key.name.endswith("_target_"):
        return st.one_of(
            words().filter(lambda text: "." not in text), st.just("no_such_module.Thing"), _missing_names()
        )
    if key.name == "env.id":
        # Hypothesis draws texts also from the strings of the tests, and ids of environments are among them
        unknown = words().filter(lambda text: text.strip("'") not in ("", *gymnasium.registry) and ":" not in text)
        return unknown | st.just("no_such_module:Env-v0")
    if key.name == "env.backend":
        return st.one_of(words(*BACKENDS), *([st.sampled_from(BACKENDS[2:])] if key.schema in NATIVE_ONLY else []))
    if key.name == "sweep.name":  # without -m
        return st.from_regex(r"[a-z]{1,8}", fullmatch=True).filter(lambda text: text not in ("null", "on", "off"))
    if key.name == "sweep.preview":
        return st.sampled_from(("true", "yes", "on", "1")) | words("true", "yes", "on", "1", "y", "t", *NO)
    if key.name == "env.wrappers":
        return st.one_of(words(*WRAPPERS).map(lambda word: f"[{word}]"), words(), st.sampled_from(WRONG_WRAPPERS))
    if kind is bool:
        return st.one_of(words("true", "yes", "on", "1", "y", "t", *NO), st.sampled_from(("1.5", "[]", "{}")), *null)
    if kind is str:
        return st.one_of(words(*key.metadata["one_of"]), st.integers().map(str), st.just("[]"), NO_VALUE, *null)
    if kind is dict:
        return st.one_of(st.integers().map(str), words(), st.lists(st.integers(), min_size=1).map(_list))
    if kind is list:
        (item,) = typing.get_args(key.kind)
        one = _broken_numbers(item, key.metadata)
        deep = st.sampled_from(("[[1]]", "{a:1}", "8", "abc", "[{a:1}]", "[[]]", "[null]"))
        return st.one_of(one.map(lambda value: f"[{value}]"), deep, NO_VALUE, *_wrong_lengths(key.metadata), *null)
    assert kind in (int, float), f"{key.name} is of a new kind {kind}: say here what breaks it"
    return st.one_of(_broken_numbers(kind, key.metadata), st.sampled_from(("[]", "[1]", "{}")), NO_VALUE, *null)


NO = ("false", "no", "off", "0", "n", "f")


WRONG_WRAPPERS = (
    "{}",
    "[7]",
    "[[clip_reward]]",
    "[{stack_frames:{frames:0}}]",
    "[{stack_frames:{size:2}}]",
    "[{clip_reward:{low:2}}]",
    "[normalize_observation,repeat_action]",
    "[normalize_return,normalize_return]",
)


def _missing_names() -> st.SearchStrategy[str]:
    return st.sampled_from(("torch.optim", "builtins", "pg_experiments.envs.cartpole")).flatmap(
        lambda module: st.from_regex(r"[A-Z][a-z]{4,9}zz", fullmatch=True).map(lambda name: f"{module}.{name}")
    )


def _list(numbers: Sequence[object]) -> str:
    return f"[{','.join(map(str, numbers))}]"


def _wrong_lengths(metadata: dict[str, Any]) -> list[st.SearchStrategy[str]]:
    """Lists that are too short or too long, up to thousands of items."""
    if not metadata.get("items"):
        return []
    least, most = metadata["items"]
    lengths = [st.integers(most + 1, most + 20), st.just(1100)] + ([st.integers(0, least - 1)] if least else [])
    return [st.one_of(lengths).map(lambda length: _list([metadata["at_least"]] * length))]


def _broken_numbers(kind: type, metadata: dict[str, Any]) -> st.SearchStrategy[str]:
    above, least, most, below = (metadata.get(limit) for limit in ("above", "at_least", "at_most", "below"))
    values: list[st.SearchStrategy[str]] = [NO_NUMBER, NOT_FINITE]
    if kind is int:
        values.append(st.sampled_from(("1.5", "1e3", "-0.1", "1_0.0")))
        values.append(st.integers(max((most or 0) + 1, 2**63), 10**40).map(str))
        if least is not None:
            values.append(st.integers(max_value=int(least) - 1).map(str))
        if most is not None:
            values.append(st.integers(int(most) + 1, int(most) * 2).map(str))
        return st.one_of(values)
    lowest = least if least is not None else above
    if lowest is not None:
        values.append(st.floats(max_value=lowest, exclude_max=least is not None, allow_infinity=False).map(repr))
    if below is not None:
        values.append(st.floats(min_value=below, allow_infinity=False).map(repr))
    if most is not None:
        values.append(st.floats(min_value=most, exclude_min=True, allow_infinity=False).map(repr))
    values.append(st.integers(400, 5000).map(lambda digits: "9" * digits))
    return st.one_of(values)


@st.composite
def with_company(draw: st.DrawFn, override: str, names: tuple[str, ...], needs: tuple[str, ...] = ()) -> Broken:
    """The broken override among harmless ones, and after what it needs."""
    company = draw(st.lists(st.sampled_from(HARMLESS), max_size=2, unique=True))
    company = [item for item in company if item.partition("=")[0] != override.partition("=")[0].lstrip("+~")]
    given = override.partition("=")[0].lstrip("+~")
    needed = [item for item in needs if item.partition("=")[0] != given]
    place = draw(st.integers(0, len(company)))
    return Broken((*needed, *company[:place], override, *company[place:]), names)


def broken_key(key: Key) -> st.SearchStrategy[Broken]:
    """The key with a value that it cannot have."""
    prefixes = st.sampled_from(("", "", "", "++"))
    return st.tuples(prefixes, broken_values(key)).flatmap(
        lambda given: with_company(f"{given[0]}{key.name}={given[1]}", names_of(key), key.needs)
    )


def names_of(key: Key) -> tuple[str, ...]:
    """How a message may name it: keys of a class's constructor are found by the class, and named with it."""
    return (key.name,)


# --- names ------------------------------------------------------------------------------------------------------------

KNOWN = {key.name for key in all_keys()} | set(GROUPS)
PARTS = {name.rpartition(".")[0] for name in KNOWN} | {""}


@st.composite
def unknown_key(draw: st.DrawFn) -> Broken:
    """A key with a slip of the finger, given or taken away."""
    name = draw(st.sampled_from(sorted(KNOWN)))
    wrong = draw(typos(name))
    assume(wrong not in KNOWN and "kwargs." not in wrong and wrong not in PARTS and not wrong.endswith("."))
    assume(wrong not in ("experiment",) and not wrong.startswith(("env.kwargs", "optimizer.kwargs")))
    prefix = draw(st.sampled_from(("", "", "+", "++", "~")))
    value = draw(st.sampled_from(("1", "abc", "[1,2]", "null", "")))
    override = f"~{wrong}" if prefix == "~" else f"{prefix}{wrong}={value}"
    return draw(with_company(override, (wrong, wrong.partition(".")[0], wrong.rpartition(".")[0] or wrong)))


@st.composite
def unknown_option(draw: st.DrawFn) -> Broken:
    """A group with an option that it does not have."""
    group = draw(st.sampled_from((*GROUPS, "experiment", "optimizer@baseline.optimizer", "hydra/launcher")))
    choices = list(SCHEMAS.get(group, SCHEMAS["optimizer"]))
    value = draw(
        st.sampled_from(choices).flatmap(typos)
        | st.sampled_from(("3", "1.5", "[]", "[a]", "{a:1}", "''", "nothing", "'ü'", "'a b'", "../policy", "true"))
        | st.from_regex(r"[a-z_]{1,12}zz", fullmatch=True)
    )
    assume(value not in choices and value not in ("on", "off", "no", "yes", "null"))
    return draw(with_company(f"{group}={value}", (group, group.partition("@")[0])))


@st.composite
def conflict(draw: st.DrawFn) -> Broken:
    """Keys given twice in ways that exclude each other, added though they are there, removed though they are needed."""
    group = draw(st.sampled_from(GROUPS))
    one, other = draw(st.permutations((*SCHEMAS[group], f"{next(iter(SCHEMAS[group]))}")).map(lambda names: names[:2]))
    key = draw(st.sampled_from([key for key in all_keys() if not key.needs and key.kind in (int, float)]))
    bad = draw(_broken_numbers(key.kind, key.metadata))
    again = (f"{key.name}={key.metadata['at_least']}", f"{key.name}={bad}")
    return draw(
        st.sampled_from(
            (
                Broken((f"{group}={one}", f"{group}={other}zz"), (group,)),
                Broken((f"+{group}={one}zz",), (group,)),
                Broken((f"~{group}",), (group,)),
                Broken((f"~{group}={other}zz",), (group,)),
                Broken((*draw(st.permutations(again)), again[1]), (key.name,)),
                Broken((f"+{key.name}.deeper=1",), (key.name,)),
                Broken((f"{key.name}.deeper=1",), (key.name,)),
                Broken((f"~{key.name}",), (key.name,)),
            )
        )
    )


def wrong_fit() -> st.SearchStrategy[Broken]:
    """A policy that cannot act in the environment, whatever else is given."""
    return st.tuples(st.sampled_from(WRONG_FITS), st.integers(0, 2**63 - 1)).flatmap(
        lambda made: with_company(f"policy={made[0][0]}", ("policy",), (f"env={made[0][1]}", f"seed={made[1]}"))
    )


# --- syntax -----------------------------------------------------------------------------------------------------------


@st.composite
def wrong_syntax(draw: st.DrawFn) -> Broken:
    """What is no override at all, or has brackets and quotes that do not close."""
    text = draw(
        st.sampled_from(
            ("seed", "=", "=3", "", " ", "seed=[1", "seed=(1", "seed='1", 'seed="1', "seed={a:", "seed=]", "seed==1")
        )
        | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="="), max_size=20).filter(
            lambda text: not text.startswith(("-", "~"))
        )
        | st.text(st.characters(exclude_categories=["Cs"]), max_size=8).map(lambda text: f"optimizer.lr=[{text}")
        | st.sampled_from(("--nothing", "--lr=3", "-x", "--config-name=nothing", "--config-dir=nothing", "--cfg=all3"))
        | st.sampled_from(("a b=3", "seed 3", "policy softmax", "seed=1;2", "seed:=3", "\x00=1", "\x1b[31m=1", "😀=1"))
        | st.sampled_from(("+", "~", "++", "+=1", "~=1", "@=1", "/=1", ".=1", "a@=1", "policy@=gaussian", "..=2"))
    )
    assume("[" not in text or not text.endswith("]"))
    return draw(with_company(text, ("",)))


@st.composite
def sweep_without_flag(draw: st.DrawFn) -> Broken:
    """Several values of a key, but no -m."""
    key = draw(st.sampled_from([key for key in all_keys() if not key.needs and key.kind in (int, float)]))
    values = draw(
        st.lists(st.integers(1, 99), min_size=2, max_size=300).map(lambda numbers: ",".join(map(str, numbers)))
        | st.sampled_from(("range(3)", "choice(1,2)", "interval(1,2)", "shuffle(1,2)", "sort(1,2)", "glob(*)"))
    )
    return draw(with_company(f"{key.name}={values}", (key.name,)))


@st.composite
def hydra_nonsense(draw: st.DrawFn) -> Broken:
    """Keys of Hydra's own that are not there, or have no such value."""
    number = draw(st.integers(2, 10**6))
    word = draw(st.from_regex(r"[a-z]{3,9}zz", fullmatch=True))
    override, name = draw(
        st.sampled_from(
            (
                (f"hydra.{word}={number}", f"hydra.{word}"),
                (f"hydra.run.{word}={number}", f"hydra.run.{word}"),
                (f"hydra.run.dir.{word}={number}", "hydra.run.dir"),
                (f"hydra.run={number}", "hydra.run"),
                (f"hydra.run.dir=[{number}]", "hydra.run.dir"),
                ("hydra.run.dir=null", "hydra.run.dir"),
                (f"hydra.run.dir=${{{word}}}", word),
                (f"hydra.run.dir=${{{word}:{number}}}", word),
                (f"hydra.job.chdir={word}", "hydra.job.chdir"),
                (f"hydra.job.env_copy=[{word.upper()}]", word.upper()),
                (f"hydra.job.env_set={number}", "hydra.job.env_set"),
                (f"hydra.mode={word}", "hydra.mode"),
                (f"hydra.searchpath={number}", "hydra.searchpath"),
                (f"hydra.searchpath=[{number}]", "hydra.searchpath"),
                (f"hydra.searchpath=[{word}]", word),
                (f"hydra.callbacks={number}", "hydra.callbacks"),
                (f"+hydra.callbacks.{word}._target_={word}.Thing", word),
                (f"+hydra.callbacks.{word}={number}", f"hydra.callbacks.{word}"),
                (f"hydra.output_subdir=[{number}]", "hydra.output_subdir"),
                (f"hydra.output_subdir=../{word}", "hydra.output_subdir"),
                (f"hydra/job_logging={word}", "hydra/job_logging"),
                (f"hydra/hydra_logging={word}", "hydra/hydra_logging"),
                (f"hydra/launcher={word}", "hydra/launcher"),
                (f"hydra/sweeper={number}", "hydra/sweeper"),
                (f"hydra/{word}={number}", f"hydra/{word}"),
                (f"hydra={word}", "hydra"),
                ("~hydra", "hydra"),
                ("~hydra.run", "hydra.run"),
                ("~hydra.callbacks", "hydra.callbacks"),
                ("hydra=null", "hydra"),
            )
        )
    )
    return draw(with_company(override, (name,)))


# --- sweeps -----------------------------------------------------------------------------------------------------------


@st.composite
def bad_sweep(draw: st.DrawFn, keys: Sequence[Key]) -> Broken:
    """A sweep of which one value of one key cannot be, or whose launcher cannot be set up."""
    key = draw(st.sampled_from(keys))
    bad, good = draw(broken_values(key).filter(lambda value: len(value) < 1000)), draw(st.integers(1, 9))
    word = draw(st.from_regex(r"[a-z]{3,9}zz", fullmatch=True))
    number = draw(st.integers(-(10**20), -1))
    sweep_of_seeds = f"seed={draw(st.sampled_from(('1,2', 'range(3)', '4,5,6', 'choice(1,2)')))}"
    launcher = draw(st.sampled_from(("batched", "basic", "joblib")))
    broken = draw(
        st.sampled_from(
            (
                *[Broken((f"{key.name}={bad}", sweep_of_seeds), (key.name,))] * 4,
                *[Broken((f"hydra/launcher={launcher}", f"optimizer.lr=0.{good},{number}"), ("optimizer.lr",))] * 2,
                Broken(("hydra/sweeper=basic", f"optimizer.lr=0.{good},{number}"), ("optimizer.lr",)),
                Broken((f"policy=gaussian,{word}",), ("policy",)),
                Broken(("policy=gaussian,softmax", sweep_of_seeds), ("policy",)),
                Broken((f"optimizer.{word}={good},{good + 1}",), (f"optimizer.{word}",)),
                Broken((f"seed={good},{good}",), ("seed",)),
                Broken((f"seed=range({good},{good})",), ("seed",)),
                Broken((f"seed=range({good}",), ("seed",)),
                Broken((f"optimizer.lr=interval(0.{good},1)",), ("optimizer.lr",)),
                Broken((sweep_of_seeds, f"hydra.launcher.backend={word}"), ("hydra.launcher.backend",)),
                Broken((sweep_of_seeds, f"hydra.launcher.workers={number}"), ("hydra.launcher.workers",)),
                Broken((sweep_of_seeds, f"hydra.launcher.workers={word}"), ("hydra.launcher.workers",)),
                Broken((sweep_of_seeds, f"hydra.launcher.retries={number}"), ("hydra.launcher.retries",)),
                Broken((sweep_of_seeds, "hydra.launcher.retries=null"), ("hydra.launcher.retries",)),
                Broken((sweep_of_seeds, "hydra.launcher.backend=null"), ("hydra.launcher.backend",)),
                Broken((sweep_of_seeds, "hydra.launcher.max_runs_per_batch=0"), ("hydra.launcher.max_runs_per_batch",)),
                Broken((sweep_of_seeds, f"hydra.launcher.{word}=1"), (f"hydra.launcher.{word}",)),
                Broken((sweep_of_seeds, f"hydra.sweeper.{word}=1"), (f"hydra.sweeper.{word}",)),
                Broken((sweep_of_seeds, f"hydra.sweeper.max_batch_size={word}"), ("hydra.sweeper.max_batch_size",)),
                Broken((sweep_of_seeds, f"hydra.sweeper.max_batch_size={number}"), ("hydra.sweeper.max_batch_size",)),
                Broken((sweep_of_seeds, f"hydra/sweeper={word}"), ("hydra/sweeper",)),
                Broken((sweep_of_seeds, f"hydra.sweep.dir=[{good}]"), ("hydra.sweep.dir",)),
                Broken((sweep_of_seeds, f"hydra.sweep.subdir=../{word}"), ("hydra.sweep.subdir",)),
                Broken((sweep_of_seeds, f"hydra.sweep.subdir={word}"), (word,)),
                Broken((sweep_of_seeds, f"sweep.name='{word}/{word}'"), ("sweep.name",)),
                Broken((sweep_of_seeds, f"sweep.name='{word} ü'"), ("sweep.name",)),
                Broken((sweep_of_seeds, "sweep.name=.."), ("sweep.name",)),
                Broken((sweep_of_seeds, "sweep.name=''"), ("sweep.name",)),
                Broken((sweep_of_seeds, word), (word,)),
            )
        )
    )
    return Broken(broken.overrides, broken.names, ("-m",))
