"""The jobs of a sweep, composed as Hydra composes them, but in about 8 ms each, checks included. Imports no torch.

A job that differs in its seed alone from one that was composed takes half a millisecond.
"""

import copy
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf._utils import OmegaConfDumper
from omegaconf.errors import OmegaConfBaseException

from pg_experiments.composition import folder_name, one_line, sets_value, to_config
from pg_experiments.config import Config, check_seed
from pg_experiments.errors import UserError


class _Dumper(getattr(yaml, "CDumper", yaml.Dumper)):  # type: ignore[misc]
    """OmegaConf's way to write YAML, where there is libyaml in a fifth of the time."""


_Dumper.add_representer(str, OmegaConfDumper.str_representer)


SUBDIR = "${folder_name:${hydra.job.override_dirname}}"  # our own hydra.sweep.subdir
PLAIN = re.compile(r"\$\{(?!seed\})[A-Za-z_][\w.]*\}")  # an interpolation that every seed reads the same from
OF_THE_JOB = ("job", "overrides", "runtime")  # what `_set_job` writes to in Hydra's node


@dataclass(frozen=True, eq=False)
class Base:
    """What Hydra composes from a choice of groups: all jobs that make the same choice share it.

    Attributes:
        node: all of it, `hydra` node included; the latest job's values are in it.
        rest: all of it but `hydra`, pickled: our own bytes, and three times as fast to copy as by `deepcopy`.
        texts: lines of YAML that were made before, by what they say: jobs differ in few of them.
        shown: the overrides that have changed `node`, by the first part of their keys.
    """

    node: DictConfig
    rest: bytes
    texts: dict[tuple[str, str, str], str] = field(default_factory=dict)
    shown: dict[str, list[str]] = field(default_factory=dict)

    @staticmethod
    def of(node: DictConfig) -> "Base":
        OmegaConf.set_readonly(node.hydra, False)
        OmegaConf.set_struct(node.hydra, False)
        rest = copy.deepcopy(node)
        with open_dict(rest):
            rest.pop("hydra")
        return Base(node, pickle.dumps(rest))

    def show(self, composed: DictConfig, parsed: Sequence[Override]) -> None:
        """Put a job's values into `node`, because ${...} in its `hydra` may point at them: those that are other ones.

        Args:
            composed: the job's config.
            parsed: its overrides.
        """
        changed: dict[str, list[str]] = {root: [] for root in self.shown}
        for override in parsed:
            changed.setdefault(override.key_or_group.partition(".")[0], []).append(str(override.input_line))
        for root, lines in changed.items():
            if root in composed and self.shown.get(root) != lines:
                self.node[root] = composed._get_node(root)
        self.shown.update(changed)

    @cached_property
    def subdir(self) -> str:
        """`hydra.sweep.subdir` as it is written."""
        return str(self.node.hydra.sweep._get_node("subdir")._value())

    @cached_property
    def hydra(self) -> dict[str, Any]:
        """The `hydra` node as plain values; those of a job are of any."""
        container = OmegaConf.to_container(self.node.hydra, enum_to_str=True)
        assert isinstance(container, dict)
        return {str(key): value for key, value in container.items()}

    def yaml_of(self, entries: Mapping[Any, Any], parent: str = "") -> str:
        """A mapping, or one under the key `parent`, as YAML: one after the other what its entries are as YAML."""
        lines = [f"{parent}:\n"] if parent else []
        for key, value in entries.items():
            identity = (parent, str(key), repr(value))
            text = self.texts.get(identity)
            if text is None:
                text = _dumped({parent: {key: value}} if parent else {key: value}).removeprefix(
                    lines[0] if parent else ""
                )
                if key not in OF_THE_JOB:
                    self.texts[identity] = text
            lines.append(text)
        return "".join(lines)


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        number: Hydra's `hydra.job.num`.
        name: of its folder, from the overrides that the sweep varies.
        setting: what the sweep varies in it besides the seed, such as `optimizer.lr=0.003`; may be empty.
        sweep_dir, folder: of the sweep, and of the job in it.
        overrides: as they would be typed for this run alone.
        override_dirname: those that the sweep varies, in Hydra's words.
        composed: Hydra's config without its `hydra` node, interpolations and all.
        config: the same, checked.
        base: shared with all jobs of the same choice of groups; for its `hydra` node.
        like: the job from which this one differs in its seed alone; None: composed by itself.
    """

    number: int
    name: str
    setting: str
    sweep_dir: Path
    folder: Path
    overrides: list[str]
    override_dirname: str
    composed: DictConfig
    config: Config
    base: Base
    like: "Job | None" = None

    @cached_property
    def values(self) -> dict[str, Any]:
        """`composed` as plain values, interpolations as they are written."""
        if self.like:
            return self.like.values | {"seed": self.config.seed}
        container = OmegaConf.to_container(self.composed, enum_to_str=True)
        assert isinstance(container, dict)
        return {str(key): value for key, value in container.items()}

    @cached_property
    def is_plain(self) -> bool:
        """Whether a job with another seed would be the same but for the seed and its name."""
        text = repr(self.values)
        reads_no_seed = text.count("${") == len(PLAIN.findall(text)) and "${" not in self.override_dirname
        return reads_no_seed and self.base.subdir == SUBDIR

    @property
    def node(self) -> DictConfig:
        """The config as Hydra hands it to a job, `hydra` node included."""
        node = copy.deepcopy(self.base.node)
        node.merge_with(self.composed)
        _set_job(node, self.number, self.overrides, self.override_dirname, self.folder)
        return node


class Composer:
    """Composes the configs of jobs.

    Hydra walks the whole defaults list for every job, about 80 ms. Jobs that differ in values only have the same one,
    so it is walked once for every choice of groups, and the values are then set on a copy, by Hydra's own code.

    Args:
        loader: Hydra's.
        master: the sweep's own config.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self._loader = loader
        self._master = master
        self._separators = master.hydra.job.config.override_dirname
        self._bases: dict[tuple[str, ...], Base] = {}
        self._overrides: dict[str, Override] = {}
        self._likes: dict[tuple[str, ...], Job] = {}
        self._parser = OverridesParser.create(config_loader=loader)
        self.sweep_dir = Path(str(master.hydra.sweep.dir)).resolve()

    def __call__(self, overrides: Sequence[str], number: int) -> Job:
        """The job with these overrides.

        Raises:
            UserError: when a key or value cannot be used; the message is one line.
        """
        try:
            parsed = [self._parsed(override) for override in overrides]
            besides_seed = tuple(item for item in overrides if not item.startswith("seed="))
            like = self._likes.get(besides_seed)
            if like and like.is_plain and _has_one_seed(parsed):
                return self._with_seed(like, parsed, number)
            base = self._base([override for override in parsed if not sets_value(override)])
            composed, node = pickle.loads(base.rest), base.node
            ConfigLoaderImpl._apply_overrides_to_config(
                [override for override in parsed if sets_value(override)], composed
            )
            lines = [str(override.input_line) for override in parsed if not override.is_hydra_override()]
            dirname = self._varied(parsed, [], self._separators.item_sep, self._separators.kv_sep)
            base.show(composed, parsed)
            _set_job(node, number, lines, dirname, self.sweep_dir)
            HydraConfig.instance().cfg = node  # type: ignore[assignment]  # what ${hydra:...} reads
            name = str(OmegaConf.select(node, "hydra.sweep.subdir"))
            config = to_config(composed)
        except (HydraException, OmegaConfBaseException) as error:
            raise one_line(error, overrides) from error
        folder = self.sweep_dir / name
        if self.sweep_dir not in folder.resolve().parents:
            raise UserError(f"hydra.sweep.subdir={name}: leads out of the sweep's folder {self.sweep_dir}")
        setting = self._varied(parsed, ["seed"], ", ", "=")
        job = Job(number, name, setting, self.sweep_dir, folder, lines, dirname, composed, config, base)
        if _has_one_seed(parsed):
            self._likes.setdefault(besides_seed, job)
        return job

    def _with_seed(self, like: Job, parsed: list[Override], number: int) -> Job:
        """A job that differs from `like` in its seed alone."""
        seed = next(int(str(override.value())) for override in parsed if override.key_or_group == "seed")
        check_seed(seed)
        lines = [str(override.input_line) for override in parsed if not override.is_hydra_override()]
        dirname = self._varied(parsed, [], self._separators.item_sep, self._separators.kv_sep)
        name = folder_name(dirname)
        return replace(
            like,
            number=number,
            name=name,
            folder=self.sweep_dir / name,
            overrides=lines,
            override_dirname=dirname,
            composed=_with(like.composed, "seed", seed),
            config=replace(like.config, seed=seed),
            like=like,
        )

    def _parsed(self, override: str) -> Override:
        """Most overrides are those of every job."""
        if override not in self._overrides:
            (self._overrides[override],) = self._parser.parse_overrides([override])
        return self._overrides[override]

    def _base(self, choices: Sequence[Override]) -> Base:
        key = tuple(str(override.input_line) for override in choices)
        if key not in self._bases:
            self._bases[key] = Base.of(self._loader.load_sweep_config(self._master, list(key)))
        return self._bases[key]

    def _varied(self, parsed: list[Override], without: Sequence[str], item_separator: str, key_separator: str) -> str:
        """The overrides that the sweep varies, in one line, as Hydra's `override_dirname`."""
        excluded = [*self._separators.exclude_keys, *without]
        parsed = [override for override in parsed if not override.is_hydra_override()]
        return str(get_overrides_dirname(parsed, excluded, item_separator, key_separator))


def _with(node: DictConfig, key: str, value: Any) -> DictConfig:
    """A node with another value at a key that nothing in it points at; all else is shared, where a copy takes 5 ms."""
    other = object.__new__(DictConfig)
    other.__dict__.update(node.__dict__)
    other.__dict__["_content"] = {**node.__dict__["_content"], key: copy.deepcopy(node._get_node(key))}
    other[key] = value
    return other


def _has_one_seed(parsed: Sequence[Override]) -> bool:
    """Whether the seed is given, once, as a plain whole number."""
    given = [override for override in parsed if override.key_or_group == "seed"]
    return len(given) == 1 and given[0].type is OverrideType.CHANGE and type(given[0].value()) is int


def _set_job(node: DictConfig, number: int, overrides: Sequence[str], dirname: str, folder: Path) -> None:
    """What Hydra writes into its node for one job."""
    node.hydra.job.id, node.hydra.job.num = str(number), number
    node.hydra.job.override_dirname = dirname
    node.hydra.overrides.task = list(overrides)
    node.hydra.runtime.output_dir = str(folder)


def write_hydra_folder(job: Job) -> None:
    """What Hydra promises in `.hydra/`: `config.yaml`, `hydra.yaml` and `overrides.yaml`."""
    base, hydra = job.base, dict(job.base.hydra)
    hydra["job"] = hydra["job"] | {"id": str(job.number), "num": job.number, "override_dirname": job.override_dirname}
    hydra["overrides"] = hydra["overrides"] | {"task": job.overrides}
    hydra["runtime"] = hydra["runtime"] | {"output_dir": str(job.folder)}
    folder = job.folder / str(base.node.hydra.output_subdir or ".hydra")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(base.yaml_of(job.values))
    (folder / "hydra.yaml").write_text(base.yaml_of(hydra, "hydra"))
    (folder / "overrides.yaml").write_text(_dumped(job.overrides))


def _dumped(content: Any) -> str:
    return str(yaml.dump(content, default_flow_style=False, allow_unicode=True, sort_keys=False, Dumper=_Dumper))
