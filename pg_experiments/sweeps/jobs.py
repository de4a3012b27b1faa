"""The jobs of a sweep, composed as Hydra composes them, but in a few milliseconds each. Imports no torch."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf._utils import OmegaConfDumper
from omegaconf.errors import OmegaConfBaseException

from pg_experiments.composition import one_line, to_config
from pg_experiments.config import GROUPS, Config
from pg_experiments.errors import UserError

VALUES = {field.name for field in fields(Config)} - set(GROUPS)  # top-level keys that choose no file


class _Dumper(getattr(yaml, "CDumper", yaml.Dumper)):  # type: ignore[misc]
    """OmegaConf's way to write YAML, where there is libyaml in a fifth of the time."""


_Dumper.add_representer(str, OmegaConfDumper.str_representer)


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        number: Hydra's `hydra.job.num`.
        name: of its folder, from the overrides that the sweep varies.
        setting: what the sweep varies in it besides the seed, such as `optimizer.lr=0.003`; may be empty.
        folder: where it lives.
        node: the composed config as Hydra has it, its `hydra` node included.
        config: the same, checked.
    """

    number: int
    name: str
    setting: str
    folder: Path
    node: DictConfig
    config: Config

    @property
    def overrides(self) -> list[str]:
        """As they would be typed for this run alone."""
        return [str(override) for override in self.node.hydra.overrides.task]


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
        self._settings = master.hydra.job.config.override_dirname
        self._bases: dict[tuple[str, ...], DictConfig] = {}
        self._parser = OverridesParser.create(config_loader=loader)
        self.sweep_dir = Path(str(master.hydra.sweep.dir)).resolve()

    def __call__(self, overrides: Sequence[str], number: int) -> Job:
        """The job with these overrides.

        Raises:
            UserError: when a key or value cannot be used; the message is one line.
        """
        try:
            node = self._compose(overrides, number)
            HydraConfig.instance().set_config(node)
            name = str(OmegaConf.select(node, "hydra.sweep.subdir"))
            folder = self.sweep_dir / name
            with read_write(node.hydra.runtime), open_dict(node.hydra.runtime):
                node.hydra.runtime.output_dir = str(folder)
            config = to_config(node)
            setting = self._varied(overrides, ["seed"], ", ", "=")
        except (HydraException, OmegaConfBaseException) as error:
            raise one_line(error, overrides) from error
        if self.sweep_dir not in folder.resolve().parents:
            raise UserError(f"hydra.sweep.subdir={name}: leads out of the sweep's folder {self.sweep_dir}")
        return Job(number, name, setting, folder, node, config)

    def _compose(self, overrides: Sequence[str], number: int) -> DictConfig:
        parsed = self._parser.parse_overrides(list(overrides))
        choices = [override for override in parsed if not _is_value(override)]
        key = tuple(str(override.input_line) for override in choices)
        if key not in self._bases:
            self._bases[key] = self._loader.load_sweep_config(self._master, list(key))
        node = copy.deepcopy(self._bases[key])
        ConfigLoaderImpl._apply_overrides_to_config([override for override in parsed if _is_value(override)], node)
        job, separators = node.hydra.job, self._settings
        with read_write(node.hydra), open_dict(node.hydra):
            task = [override.input_line for override in parsed if not override.is_hydra_override()]
            node.hydra.overrides.task = task
            job.id, job.num = str(number), number
            job.override_dirname = self._varied(overrides, [], separators.item_sep, separators.kv_sep)
        return node

    def _varied(self, overrides: Sequence[str], without: Sequence[str], item_separator: str, key_separator: str) -> str:
        """The overrides that the sweep varies, in one line, as Hydra's `override_dirname`."""
        excluded = [*self._settings.exclude_keys, *without]
        parsed = [item for item in self._parser.parse_overrides(list(overrides)) if not item.is_hydra_override()]
        return str(get_overrides_dirname(parsed, excluded, item_separator, key_separator))


def _is_value(override: Override) -> bool:
    """Whether it sets a value, and so leaves the defaults list as it is."""
    if override.package is not None or override.is_hydra_override():
        return False
    return "." in override.key_or_group or override.key_or_group in VALUES


def write_hydra_folder(job: Job) -> None:
    """What Hydra promises in `.hydra/`: `config.yaml`, `hydra.yaml` and `overrides.yaml`."""
    folder = job.folder / str(job.node.hydra.output_subdir or ".hydra")
    folder.mkdir(parents=True, exist_ok=True)
    config: Any = OmegaConf.to_container(job.node, enum_to_str=True)
    hydra = config.pop("hydra")
    for name, content in (("config", config), ("hydra", {"hydra": hydra}), ("overrides", hydra["overrides"]["task"])):
        text = yaml.dump(content, default_flow_style=False, allow_unicode=True, sort_keys=False, Dumper=_Dumper)
        (folder / f"{name}.yaml").write_text(text)
