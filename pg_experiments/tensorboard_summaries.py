"""What TensorBoard's HParams and Custom Scalars tabs are told: plain protobufs, which `records.EventFile` writes."""

from collections.abc import Collection, Mapping
from typing import Any

from pg_experiments.config import GROUPS, OPTION_OF, Config, walk

METRIC = "evaluation/return_mean"
VIDEO = "evaluation/episode"
FIRST = ("optimizer.lr", "seed")  # the columns that are looked for first, in every run
CHARTS = {
    "learning": {
        "episode return, sampled actions": ["episode/return_mean"],
        "final evaluation, deterministic actions": [METRIC],
        "entropy (nats per action)": ["policy/entropy"],
        "gradient norm": ["gradient/norm"],
        "explained variance of the baseline": ["baseline/explained_variance"],
    },
    "more": {
        "policy loss": ["loss/policy"],
        "baseline loss": ["loss/baseline"],
        "learning rate": ["optimizer/lr"],
        "episode length (steps)": ["episode/length_mean"],
        "env steps per second": ["time/env_steps_per_second"],
    },
}


def hyperparameters(config: Config) -> dict[str, bool | int | float | str]:
    """What tells runs apart in the HParams tab: the name and the keys of every part, seed and length of the run.

    What another key points at (`env.default_...`) is left out, as is what has no value.
    """
    values: dict[str, bool | int | float | str] = {}
    for key, value, metadata in walk(config):
        group, _, name = key.partition(".")
        if name == "_target_":
            values[group] = OPTION_OF.get(str(value)) or str(value).rpartition(".")[2]
        elif (group in GROUPS or metadata.get("per_run")) and value is not None and not name.startswith("default_"):
            values[key] = value if isinstance(value, bool | int | float | str) else str(value)
    return values


def custom_layout() -> Any:
    """The Custom Scalars tab: return, entropy, gradient norm and explained variance first, the rest below them.

    Every run's events hold it, so that the folder of a run, of a sweep and of everything show the same; TensorBoard
    merges equal ones.
    """
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING
    from tensorboard.plugins.custom_scalar import metadata
    from tensorboard.plugins.custom_scalar.layout_pb2 import Category, Chart, Layout, MultilineChartContent

    categories = [
        Category(
            title=category,
            chart=[
                Chart(title=title, multiline=MultilineChartContent(tag=[f"^{tag}$" for tag in tags]))
                for title, tags in charts.items()
            ],
        )
        for category, charts in CHARTS.items()
    ]
    text = Layout(category=categories).SerializeToString()
    tensor = TensorProto(dtype=DT_STRING, string_val=[text], tensor_shape=TensorShapeProto())
    plugin = SummaryMetadata.PluginData(plugin_name=metadata.PLUGIN_NAME)
    value = Summary.Value(tag=metadata.CONFIG_SUMMARY_TAG, tensor=tensor, metadata=SummaryMetadata(plugin_data=plugin))
    return Summary(value=[value])


def experiment(values: Mapping[str, Any], first: Collection[str] = FIRST) -> Any:
    """The columns of the HParams tab: the hyperparameters `first`, then the others, and the final evaluation.

    Args:
        values: of one run, by name; they give the columns' names and types.
        first: names to show first. TensorBoard sorts by a mark that a value differs between runs, then by name.
    """
    from tensorboard.plugins.hparams import metadata
    from tensorboard.plugins.hparams.api_pb2 import (
        DATA_TYPE_BOOL,
        DATA_TYPE_FLOAT64,
        DATA_TYPE_STRING,
        Experiment,
        HParamInfo,
        MetricInfo,
        MetricName,
    )
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    kinds = {bool: DATA_TYPE_BOOL, int: DATA_TYPE_FLOAT64, float: DATA_TYPE_FLOAT64}
    infos = [
        HParamInfo(name=name, type=kinds.get(type(value), DATA_TYPE_STRING), differs=name in first)
        for name, value in sorted(values.items(), key=lambda item: item[0] not in first)
    ]
    metric = MetricInfo(name=MetricName(tag=METRIC), display_name="final return mean")
    content = Experiment(hparam_infos=infos, metric_infos=[metric])
    return _hparams_summary(metadata.EXPERIMENT_TAG, HParamsPluginData(experiment=content))


def session(values: Mapping[str, Any]) -> list[Any]:
    """One run of the HParams tab with its values."""
    from tensorboard.plugins.hparams import metadata
    from tensorboard.plugins.hparams.api_pb2 import STATUS_SUCCESS
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo

    start = SessionStartInfo()
    for name, value in values.items():
        if isinstance(value, bool):
            start.hparams[name].bool_value = value
        elif isinstance(value, int | float):
            start.hparams[name].number_value = value
        else:
            start.hparams[name].string_value = str(value)
    return [
        _hparams_summary(metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start)),
        _hparams_summary(
            metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=SessionEndInfo(status=STATUS_SUCCESS))
        ),
    ]


def animation(gif: bytes, width: int, height: int) -> Any:
    """An episode among the images: TensorBoard hands a gif to the browser as it is, which shows it move."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=gif)
    return Summary(value=[Summary.Value(tag=VIDEO, image=image)])


def _hparams_summary(tag: str, data: Any) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.plugins.hparams import metadata

    data.version = metadata.PLUGIN_DATA_VERSION
    plugin = SummaryMetadata.PluginData(plugin_name=metadata.PLUGIN_NAME, content=data.SerializeToString())
    value = Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin), tensor=metadata.NULL_TENSOR)
    return Summary(value=[value])
