"""What TensorBoard shows of a run and of a sweep, read back from the event files as TensorBoard reads them."""

import re
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.custom_scalar import metadata as custom_scalar
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams import metadata as hparams
from tensorboard.plugins.hparams.api_pb2 import DATA_TYPE_BOOL, DATA_TYPE_FLOAT64, DATA_TYPE_STRING, Experiment
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.util.tensor_util import make_ndarray

from pg_experiments import compose, train
from pg_experiments.reports.sweep_events import write_sweep_events
from pg_experiments.tensorboard_summaries import CHARTS, experiment, hyperparameters, session

TINY = ("total_env_steps=1600", "env.num_envs=4", "evaluation.episodes=2", "logging.progress=none")


def plugin_data(folder: Path) -> dict[str, HParamsPluginData]:
    """What the HParams plugin finds in a folder's events, by tag."""
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return {
        tag: HParamsPluginData.FromString(content)
        for tag, content in accumulator.PluginTagToContent(hparams.PLUGIN_NAME).items()
    }


def experiment_of(folder: Path) -> Experiment:
    return plugin_data(folder)[hparams.EXPERIMENT_TAG].experiment


def leading(described: Experiment) -> list[str]:
    """The columns that TensorBoard puts first: it sorts by `differs`, then by name."""
    return sorted(info.name for info in described.hparam_infos if info.differs)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two discounts and two seeds, described as a sweep before they train."""
    folder = tmp_path_factory.mktemp("sweep") / "new"
    configs = [compose(*TINY, f"env.gamma={gamma}", f"seed={seed}") for gamma in (0.9, 0.99) for seed in range(2)]
    write_sweep_events(folder, configs)
    folders = [folder / f"env.gamma={config.env.gamma},seed={config.seed}" for config in configs]
    return folder, configs, train(configs, run_dirs=folders)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One run that belongs to no sweep."""
    folder = tmp_path_factory.mktemp("alone")
    config = compose(*TINY, "baseline=none", "optimizer.lr=0.002", "seed=7")
    train([config], run_dirs=[folder])
    return folder, config


def test_every_run_holds_its_numbers_without_the_environments_defaults(sweep):
    _, configs, results = sweep
    for config, result in zip(configs, results, strict=True):
        start = plugin_data(result.run_dir)[hparams.SESSION_START_INFO_TAG].session_start_info
        values = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
        assert values == hyperparameters(config)
        assert values["optimizer.lr"] == config.optimizer.lr
        assert values["env.gamma"] == config.env.gamma
        assert values["seed"] == config.seed
        assert values["policy"] == "gaussian"
        assert not [name for name in values if name.startswith("env.default_")]
        assert {"policy.initial_std", "total_env_steps"} <= set(values)  # what the defaults act through


def test_every_run_holds_its_final_evaluation_as_the_metric(sweep):
    folder, _, results = sweep
    (metric,) = experiment_of(folder).metric_infos
    for result in results:
        accumulator = EventAccumulator(str(result.run_dir))
        accumulator.Reload()
        assert accumulator.Scalars(metric.name.tag)[-1].value == pytest.approx(result.evaluation["return_mean"])


def test_a_sweep_is_described_once_with_the_swept_keys_first(sweep):
    folder, configs, results = sweep
    described = experiment_of(folder)
    assert leading(described) == ["env.gamma", "seed"]
    assert {info.name for info in described.hparam_infos} == set(hyperparameters(configs[0]))
    for result in results:  # TensorBoard takes any of several descriptions
        assert hparams.EXPERIMENT_TAG not in plugin_data(result.run_dir)
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1


def test_a_sweep_over_parts_describes_the_keys_of_all(tmp_path):
    configs = [compose("baseline=none"), compose("baseline=value_network")]
    write_sweep_events(tmp_path, configs)
    described = experiment_of(tmp_path)
    assert set(leading(described)) == {key for key in hyperparameters(configs[1]) if key.startswith("baseline")}


def test_a_run_alone_is_described_with_learning_rate_and_seed_first(alone):
    folder, config = alone
    described = experiment_of(folder)
    assert leading(described) == ["optimizer.lr", "seed"]
    assert {info.name for info in described.hparam_infos} == set(hyperparameters(config))


def test_values_have_the_types_of_their_columns():
    values = {"flag": True, "count": 3, "rate": 0.5, "part": "Adam", "other": [1]}
    (described,) = experiment(values).value
    infos = HParamsPluginData.FromString(described.metadata.plugin_data.content).experiment.hparam_infos
    assert {info.name: info.type for info in infos} == {
        "flag": DATA_TYPE_BOOL,
        "count": DATA_TYPE_FLOAT64,
        "rate": DATA_TYPE_FLOAT64,
        "part": DATA_TYPE_STRING,
        "other": DATA_TYPE_STRING,
    }
    (start,) = session(values)[0].value
    found = HParamsPluginData.FromString(start.metadata.plugin_data.content).session_start_info.hparams
    assert found["flag"].bool_value is True
    assert (found["count"].number_value, found["rate"].number_value) == (3, 0.5)
    assert (found["part"].string_value, found["other"].string_value) == ("Adam", "[1]")


def layout_of(folder: Path) -> Layout:
    """The Custom Scalars layout in a run's event file, read event by event."""
    (path,) = folder.glob("events.out.tfevents.*")
    (tensor,) = [
        value.tensor
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
        if value.tag == custom_scalar.CONFIG_SUMMARY_TAG
    ]
    return Layout.FromString(make_ndarray(tensor).item())


def test_the_layout_begins_with_return_entropy_gradient_norm_and_explained_variance(sweep):
    _, _, results = sweep
    for result in results:
        first = layout_of(result.run_dir).category[0]
        assert [chart.multiline.tag[0] for chart in first.chart] == [
            "^episode/return_mean$",
            "^evaluation/return_mean$",
            "^policy/entropy$",
            "^gradient/norm$",
            "^baseline/explained_variance$",
        ]
        assert not first.closed


def test_every_chart_of_the_layout_shows_exactly_one_tag_of_a_run(sweep):
    _, _, (result, *_) = sweep
    accumulator = EventAccumulator(str(result.run_dir))
    accumulator.Reload()
    tags = accumulator.Tags()["scalars"]
    charts = [chart for category in layout_of(result.run_dir).category for chart in category.chart]
    assert len(charts) == sum(map(len, CHARTS.values()))
    for chart in charts:
        shown = [tag for pattern in chart.multiline.tag for tag in tags if re.match(pattern, tag)]
        assert len(shown) == 1, chart.title
    titles = [chart.title for chart in charts]
    assert len(set(titles)) == len(titles)  # TensorBoard merges charts with equal titles
