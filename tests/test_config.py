"""Every YAML file, every schema, and what composing, building and a user's own part do with them."""

import sys
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import FrozenInstanceError, asdict, fields
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from pg_experiments import UserError, compose, load_policy
from pg_experiments.composition import conf_dir
from pg_experiments.config import COMMON_KEYS, GROUPS, SCHEMAS, Config, walk
from pg_experiments.env_config import GYMNASIUM_TASKS
from pg_experiments.runs import build, stack
from pg_experiments.train import main as train_main
from pg_experiments.training import train

TINY = ("env.num_envs=4", "total_env_steps=400", "evaluation.episodes=3", "logging.progress=none")

OWN_SPACES = ("env=gymnasium", "env.id=own_spaces:OwnSpaces-v0")
PARTNERS = {  # what a file needs beside it, where the defaults do not fit
    "policy/softmax": ("env=cartpole",),
    "policy/tabular_softmax": ("env=gymnasium", "env.id=FrozenLake-v1"),
    "policy/linear_softmax": ("env=cartpole",),
    "policy/multi_categorical": (*OWN_SPACES, "env.kwargs.kind=multi_discrete"),
    "policy/bernoulli": (*OWN_SPACES, "env.kwargs.kind=multi_binary"),
    "env/cartpole": ("policy=softmax",),
    "env/acrobot": ("policy=softmax",),
    "env/mountain_car": ("policy=softmax",),
    "env/frozen_lake": ("policy=softmax",),
    "env/cliff_walking": ("policy=softmax",),
    "env/navigation_discrete": ("policy=softmax",),
    "env/gymnasium": ("policy=softmax", "env.id=CartPole-v1"),
    "env/lunar_lander": ("policy=softmax",),
    "optimizer/torch": ("optimizer._target_=torch.optim.Adagrad",),
    "baseline/shared_value": ("algorithm=actor_critic",),
}

PER_RUN = {  # the numbers in which runs of one batch may differ; a new one has to be put here, and into the docs
    "": {"seed", "total_env_steps"},
    "policy": {"initial_std", "initial_shape", "initial_concentration"},
    "env": {"gamma", "reward_scale", "default_initial_std", "default_env_steps"},
    "optimizer": {"lr", "max_gradient_norm", "target_kl"},
    "baseline": {"decay", "ridge", "coefficient"},
    "algorithm": {
        "entropy_coefficient",
        "gae_lambda",
        "clip_range",
        "clip_range_value",
        "target_kl",
        "damping",
        "default_lr",
        "default_sgd_lr",
        "default_max_gradient_norm",
        "default_baseline_lr",
    },
}


def options(group: str) -> list[str]:
    """The names of a group's YAML files."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


FILES = [(group, option) for group in GROUPS for option in options(group)]


def composed(group: str, option: str) -> Config:
    """The config with this option of this group, and partners that fit."""
    return compose(f"{group}={option}", *PARTNERS.get(f"{group}/{option}", ()))


def leaves(container: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every leaf of nested dicts by dotted key."""
    if isinstance(container, dict) and container:
        for key, value in container.items():
            yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, container


def yaml_of(path: Path) -> dict[str, object]:
    """A YAML file as it is written, without its defaults list and Hydra's own part."""
    node = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    assert isinstance(node, dict)
    return {key: value for key, value in node.items() if key not in ("defaults", "hydra")}


# --- files and schemas ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("group", "option"), FILES)
def test_every_file_composes_and_builds(group, option):
    config = composed(group, option)
    assert type(getattr(config, group)) is SCHEMAS[group][option]
    parts = build(stack([config]))
    assert getattr(parts, group) is not None


@pytest.mark.parametrize("option", options("experiment"))
def test_every_experiment_composes_and_builds(option):
    build(stack([compose(f"experiment={option}")]))


@pytest.mark.parametrize("option", options("experiment"))
def test_an_experiment_names_every_group_so_that_new_defaults_do_not_change_it(option):
    node = OmegaConf.load(conf_dir() / "experiment" / f"{option}.yaml")
    named = {
        str(key).removeprefix("override /") for entry in node.defaults if not isinstance(entry, str) for key in entry
    }
    assert set(GROUPS) <= named


@pytest.mark.parametrize("option", options("experiment"))
def test_what_an_experiment_says_is_what_its_config_has(option):
    node = OmegaConf.load(conf_dir() / "experiment" / f"{option}.yaml")
    composed = {key: value for key, value, _ in walk(compose(f"experiment={option}"))}
    said = OmegaConf.to_container(node)
    del said["defaults"]
    assert {key: composed[key] for key, _ in leaves(said)} == dict(leaves(said))


def test_there_is_a_folder_for_every_group_and_no_other():
    folders = {path.name for path in conf_dir().iterdir() if path.is_dir()}
    assert folders == {*GROUPS, "experiment"}
    assert set(SCHEMAS) == set(GROUPS)
    assert {field.name for field in fields(Config)} >= set(GROUPS)


@pytest.mark.parametrize("group", GROUPS)
def test_every_file_has_a_schema_and_every_schema_a_file(group):
    assert options(group) == sorted(SCHEMAS[group])


@pytest.mark.parametrize(("group", "option"), FILES)
def test_a_file_shows_every_key_of_its_schema(group, option):
    """Only `_target_` and an optimizer's free `kwargs` may stay out of sight."""
    schema = {field.name for field in fields(SCHEMAS[group][option])}
    shown = set(yaml_of(conf_dir() / group / f"{option}.yaml"))
    own_group = {"optimizer"} if group == "baseline" and "optimizer" in schema else set()
    assert shown <= schema
    assert schema - shown <= {"_target_"} | ({"kwargs"} if group == "optimizer" else set()) | own_group


def test_the_main_file_shows_every_key_of_its_schema():
    shown = {key for key, _ in leaves(yaml_of(conf_dir() / "config.yaml"))}
    schema = asdict(Config())
    assert shown == {key for key, _ in leaves({key: schema[key] for key in schema if key not in GROUPS})}


@pytest.mark.parametrize(("group", "option"), FILES)
def test_a_file_and_its_schema_have_the_same_defaults(group, option):
    """Apart from the task's and the optimizer's own numbers, which the file chooses, and from interpolations."""
    defaults = asdict(SCHEMAS[group][option]())
    chosen = {field.name for field in fields(COMMON_KEYS[group])} if group in COMMON_KEYS else set()
    chosen |= {"id"} if option in GYMNASIUM_TASKS else set()
    for key, value in yaml_of(conf_dir() / group / f"{option}.yaml").items():
        if key in chosen or (isinstance(value, str) and value.startswith("${")):
            continue
        if (group, key) == ("baseline", "optimizer"):  # adds a number to one of the group's own files
            continue
        assert type(value) is type(defaults[key]), key
        assert value == defaults[key], key


def test_the_main_file_and_its_schema_have_the_same_defaults():
    defaults = dict(leaves(asdict(Config())))
    for key, value in leaves(yaml_of(conf_dir() / "config.yaml")):
        assert value == defaults[key] or (isinstance(value, str) and value.startswith("${")), key


def test_interpolated_defaults_follow_the_algorithm_unless_they_are_given():
    for algorithm in options("algorithm"):
        config = compose(f"algorithm={algorithm}")
        is_sgd = config.optimizer._target_ == "torch.optim.SGD"
        assert config.optimizer.lr == (config.algorithm.default_sgd_lr if is_sgd else config.algorithm.default_lr)
        assert config.optimizer.max_gradient_norm == config.algorithm.default_max_gradient_norm
        assert config.baseline.optimizer.lr == config.algorithm.default_baseline_lr
        assert config.baseline.updates_per_iteration == config.algorithm.default_baseline_updates
    assert compose("algorithm=actor_critic").optimizer.lr != compose("algorithm=reinforce").optimizer.lr
    assert compose("algorithm=actor_critic", "optimizer.lr=0.25").optimizer.lr == 0.25


def test_interpolated_defaults_follow_the_environment_unless_they_are_given():
    for env in ("pendulum", "navigation"):
        config = compose("policy=gaussian", f"env={env}")
        assert config.total_env_steps == config.env.default_env_steps
        assert config.policy.initial_std == config.env.default_initial_std
    assert compose("env=navigation").env.default_initial_std != compose("env=pendulum").env.default_initial_std
    assert compose("env.default_env_steps=1234").total_env_steps == 1234
    given = compose("total_env_steps=77", "policy.initial_std=0.25")
    assert (given.total_env_steps, given.policy.initial_std) == (77, 0.25)


# --- nothing changes a config -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("group", "option"), FILES)
def test_building_changes_no_config(group, option):
    config = composed(group, option)
    before = deepcopy(config)
    build(stack([config, config]))
    assert config == before
    assert asdict(config) == asdict(composed(group, option))


def test_training_changes_no_config(tmp_path):
    configs = [compose(*TINY, f"seed={seed}") for seed in range(2)]
    before = deepcopy(configs)
    train(configs, [tmp_path / "0", tmp_path / "1"])
    assert configs == before


@pytest.mark.parametrize("part", ["", "policy", "env", "optimizer", "baseline", "algorithm", "logging", "evaluation"])
def test_a_config_and_its_parts_are_frozen(part):
    config = compose()
    owner = getattr(config, part) if part else config
    name = fields(owner)[-1].name
    with pytest.raises(FrozenInstanceError):
        setattr(owner, name, None)


def test_two_configs_share_no_list():
    first, second = compose(), compose()
    first.policy.hidden_sizes.append(3)
    assert second.policy.hidden_sizes == compose().policy.hidden_sizes != first.policy.hidden_sizes


# --- structure and numbers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", ["", *GROUPS])
def test_the_per_run_numbers_are_exactly_the_documented_ones(group):
    schemas = SCHEMAS[group].values() if group else [Config]
    marked = {field.name for schema in schemas for field in fields(schema) if field.metadata.get("per_run")}
    assert marked == PER_RUN[group]


def test_every_per_run_number_of_a_config_becomes_one_value_per_run():
    config = compose()
    runs = stack([config, compose("optimizer.lr=0.25", "optimizer.max_gradient_norm=3", "seed=7")])
    marked = {key for key, _, metadata in walk(config) if metadata.get("per_run")}
    assert set(runs.numbers) == marked
    assert {"baseline.optimizer.lr", "env.gamma", "policy.initial_std"} <= marked
    assert all(number.shape == (2,) and number.dtype == torch.float64 for number in runs.numbers.values())
    assert runs.numbers["optimizer.lr"].tolist() == [config.optimizer.lr, 0.25]
    assert runs.numbers["optimizer.max_gradient_norm"].tolist() == [float("inf"), 3.0]  # null is no limit
    assert runs.numbers["seed"].tolist() == [0, 7]


def test_runs_that_differ_in_every_per_run_number_train_as_one_program():
    first = compose(*TINY)
    other = compose(
        *TINY,
        "seed=9",
        "total_env_steps=1000",
        "policy.initial_std=0.5",
        "env.gamma=0.5",
        "env.reward_scale=0.2",
        "env.default_initial_std=0.3",
        "env.default_env_steps=9",
        "optimizer.lr=0.1",
        "optimizer.max_gradient_norm=1",
        "optimizer.target_kl=0.1",
        "baseline.optimizer.target_kl=0.2",
        "baseline.optimizer.lr=0.2",
        "baseline.optimizer.max_gradient_norm=2",
        "algorithm.entropy_coefficient=0.1",
        "algorithm.default_lr=0.3",
        "algorithm.default_sgd_lr=0.3",
        "algorithm.default_max_gradient_norm=4",
        "algorithm.default_baseline_lr=0.4",
    )
    values = {key: value for key, value, metadata in walk(first) if metadata.get("per_run")}
    changed = {key: value for key, value, metadata in walk(other) if metadata.get("per_run")}
    assert [key for key in values if values[key] == changed[key]] == []
    together = train([first, other])
    assert [result.env_steps for result in together] == [800, 1600]
    assert together[0].parameters_sha256 == train([first])[0].parameters_sha256
    assert together[1].parameters_sha256 == train([other])[0].parameters_sha256


@pytest.mark.parametrize(
    ("override", "key", "values"),
    [
        ("policy.hidden_sizes=[8]", "policy.hidden_sizes", ("[64, 64]", "[8]")),
        ("policy.activation=tanh", "policy.activation", ("relu", "tanh")),
        ("env.num_envs=5", "env.num_envs", ("4", "5")),
        ("env.max_episode_steps=9", "env.max_episode_steps", ("200", "9")),
        ("optimizer=sgd", "optimizer._target_", ("torch.optim.Adam", "torch.optim.SGD")),
        ("optimizer.betas=[0.8,0.9]", "optimizer.betas", ("[0.9, 0.999]", "[0.8, 0.9]")),
        ("baseline=none", "baseline._target_", ("ValueNetwork", "NoBaseline")),
        ("algorithm.normalize_advantage=false", "algorithm.normalize_advantage", ("True", "False")),
        ("dtype=float64", "dtype", ("float32", "float64")),
        ("evaluation.episodes=4", "evaluation.episodes", ("3", "4")),
    ],
)
def test_training_refuses_runs_of_different_structure_and_names_key_and_values(tmp_path, override, key, values):
    tiny = [item for item in TINY if not item.startswith(override.partition("=")[0] + "=")]
    configs = [compose(*TINY), compose(*TINY, "seed=1"), compose(*tiny, override)]
    with pytest.raises(UserError) as caught:
        train(configs, [tmp_path / str(run) for run in range(3)])
    message = str(caught.value)
    assert message.startswith(f"{key}: ")
    assert f"{values[0]} in run 0" in message
    assert f"{values[1]} in run 2" in message
    assert list(tmp_path.iterdir()) == []


def test_training_needs_at_least_one_config_and_a_folder_for_each(tmp_path):
    with pytest.raises(UserError, match="at least one config"):
        train([])
    with pytest.raises(UserError, match="1 configs, 2 different folders"):
        train([compose(*TINY)], [tmp_path / "0", tmp_path / "1"])


# --- a user's own part ------------------------------------------------------------------------------------------------

MODULE = """
from dataclasses import dataclass

import torch

from pg_experiments.envs.pendulum import Pendulum
from pg_experiments.policies.gaussian import Gaussian


@dataclass(frozen=True)
class MyBaseline:
    scale: float

    def init(self, generators, dtype):
        return None

    def values_then_learn(self, learner, experience, progress):
        return self.scale * experience.observation[..., 0], {"my/number": progress * 0 + self.scale}


def my_policy(spec, width):
    return Gaussian(
        spec=spec,
        hidden_sizes=[width],
        activation="tanh",
        state_dependent_std=False,
        initial_std=torch.full((1,), 0.5),
    )


@dataclass(frozen=True)
class MyEnv(Pendulum):
    max_episode_steps: int = 7
"""


@pytest.fixture
def own_parts(tmp_path, monkeypatch) -> Path:
    """A `--config-dir` folder with an own baseline, policy and environment, and their module on `sys.path`."""
    folder = tmp_path / "own_conf"
    texts = {
        "baseline/mine": "_target_: mypart.MyBaseline\nscale: 2.0\n",
        "policy/mine": "_target_: mypart.my_policy\nwidth: 3\n",
        "env/mine": "_target_: mypart.MyEnv\nmax_episode_steps: 9\nnum_envs: 4\n"
        "default_env_steps: 50\ndefault_initial_std: 1.0\n",
        "env/bare": "_target_: mypart.MyEnv\nmax_episode_steps: 9\n",
    }
    for name, text in texts.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "mypart.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(modules))
    monkeypatch.delitem(sys.modules, "mypart", raising=False)
    return folder


@pytest.mark.parametrize(
    "parts",
    [
        ("baseline=mine", "baseline.scale=3.0"),
        ("policy=mine", "policy.width=5"),
        ("env=mine", "env.max_episode_steps=8"),
        ("baseline=mine", "policy=mine", "env=mine"),
    ],
)
def test_an_own_part_trains_through_the_python_api(own_parts, tmp_path, parts):
    tiny = [item for item in TINY if not ("env=mine" in parts and item.startswith("env."))]
    config = compose(*parts, *tiny, config_dir=own_parts)
    (result,) = train([config], [tmp_path / "run"])
    assert result.status == "completed", result.error
    action = load_policy(tmp_path / "run", trust="mypart")([1.0, 0.0, 0.0])
    assert torch.equal(action, result.policy([1.0, 0.0, 0.0]))


def test_an_own_env_is_completed_by_the_keys_that_every_env_has(own_parts):
    config = compose("env=mine", config_dir=own_parts)
    common = {field.name for field in fields(COMMON_KEYS["env"])}
    assert set(config.env) == common | {"max_episode_steps"}
    assert config.env["gamma"] == COMMON_KEYS["env"]().gamma
    assert config.env["num_envs"] == 4
    assert config.total_env_steps == 50


def test_an_own_env_need_not_name_the_keys_that_others_interpolate(own_parts):
    config = compose("env=bare", config_dir=own_parts)
    assert config.total_env_steps == COMMON_KEYS["env"]().default_env_steps
    assert config.policy.initial_std == COMMON_KEYS["env"]().default_initial_std


def test_the_keys_of_an_own_part_reach_it(own_parts, tmp_path):
    config = compose("baseline=mine", "baseline.scale=3.5", *TINY, config_dir=own_parts)
    train([config], [tmp_path])
    header, first = (tmp_path / "metrics.csv").read_text().splitlines()[:2]
    assert float(dict(zip(header.split(","), first.split(","), strict=True))["my/number"]) == 3.5


def test_an_own_part_trains_from_the_command_line(own_parts, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    arguments = ["--config-dir", str(own_parts), "baseline=mine", "policy=mine", "env=mine", *TINY[1:]]
    monkeypatch.setattr(sys, "argv", ["train", *arguments, "hydra.run.dir=run"])
    try:
        train_main()
    finally:
        GlobalHydra.instance().clear()
    assert "completed" in capsys.readouterr().out
    assert (folder / "run" / "result.json").exists()


def test_a_key_that_an_own_part_does_not_take_is_named(own_parts):
    config = compose("baseline=mine", "+baseline.scael=1", *TINY, config_dir=own_parts)
    with pytest.raises(UserError, match=r"^baseline\.scael: MyBaseline takes no scael\. Did you mean 'scale'\?$"):
        train([config])


def test_a_common_key_of_an_own_env_is_checked(own_parts):
    with pytest.raises(UserError, match=r"^env\.gamma=1\.5: must be from 0 to 1$"):
        compose("env=mine", "+env.gamma=1.5", config_dir=own_parts)


# --- any optimizer of torch -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [
        ("torch.optim.Adagrad", "optimizer.kwargs.lr_decay=0.1"),
        ("torch.optim.NAdam", "optimizer.kwargs.betas=[0.8,0.9]"),
        ("torch.optim.RAdam",),
        ("torch.optim.Adamax",),
        ("torch.optim.Adadelta", "optimizer.kwargs.rho=0.5"),
    ],
)
def test_another_optimizer_of_torch_trains_with_its_own_arguments(overrides):
    target, *kwargs = overrides
    (result,) = train([compose("optimizer=torch", f"optimizer._target_={target}", *kwargs, *TINY)])
    assert result.status == "completed", result.error


def test_kwargs_may_be_given_as_one_dict():
    config = compose("optimizer=torch", "optimizer._target_=torch.optim.NAdam", "optimizer.kwargs={betas:[0.8,0.9]}")
    assert config.optimizer.kwargs == {"betas": [0.8, 0.9]}


def test_the_torch_option_is_the_named_option_bit_for_bit():
    target = "optimizer._target_=torch.optim.Adam"
    named = train([compose("optimizer=adam", "optimizer.eps=1e-3", *TINY)])[0]
    free = train([compose("optimizer=torch", target, "optimizer.kwargs.eps=1e-3", *TINY)])[0]
    other = train([compose("optimizer=torch", target, "optimizer.kwargs.eps=1e-2", *TINY)])[0]
    assert free.parameters_sha256 == named.parameters_sha256 != other.parameters_sha256
