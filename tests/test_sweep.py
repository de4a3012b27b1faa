"""A sweep: which jobs train together, every job's folder, and that none of it changes a run."""

import io
import itertools
import json
import os
from datetime import datetime
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import _save_config
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict, read_write
from rich.console import Console
from sweeping import FILES, TINY, folders_of, hashes_of, results_of, run, sweep  # noqa: F401 - fixtures
from sweeping import alone as alone_hash

from pg_experiments import compose, train
from pg_experiments.composition import conf_dir, folder_name, free_keys, register
from pg_experiments.errors import UserError
from pg_experiments.saved_config import load_config
from pg_experiments.sweeps.arguments import prepared
from pg_experiments.sweeps.display import SweepDisplay, SweepStatus, _drawn, status_of
from pg_experiments.sweeps.grouping import differing_keys, group_by_structure, make_plan
from pg_experiments.sweeps.jobs import Base, Composer, Job, write_hydra_folder
from pg_experiments.sweeps.worker import Task

# --- grouping ---------------------------------------------------------------------------------------------------------

LIMIT = (50, "a reason")

composed = cache(compose)  # takes a while, and is asked for a few configs only


def job(number: int, *overrides: str) -> Job:
    config = composed(*TINY, *overrides)
    name, empty = ",".join(overrides), OmegaConf.create()
    return Job(number, name, "", Path(), Path(str(number)), list(overrides), name, empty, config, Base(empty, b""))


@pytest.fixture(scope="module")
def mixed() -> list[Job]:
    """Twelve jobs of three structures: 6, 4 and 2."""
    overrides = [[f"seed={seed}", f"optimizer.lr={0.001 * (seed + 1)}"] for seed in range(6)]
    overrides += [["policy.hidden_sizes=[4]", f"seed={seed}"] for seed in range(4)]
    overrides += [["optimizer=sgd", f"env.gamma={gamma}"] for gamma in (0.9, 0.8)]
    order = [0, 6, 10, 1, 7, 2, 11, 3, 8, 4, 9, 5]
    return [job(number, *overrides[index]) for number, index in enumerate(order)]


def test_jobs_are_grouped_by_structure_in_their_order(mixed):
    groups = group_by_structure(mixed)
    assert [[one.number for one in group] for group in groups] == [[0, 3, 5, 7, 9, 11], [1, 4, 8, 10], [2, 6]]


def test_per_run_numbers_and_what_changes_no_run_do_not_split_a_group():
    overrides = ["seed=1", "optimizer.lr=0.5", "env.gamma=0.5", "total_env_steps=7", "optimizer.max_gradient_norm=1"]
    overrides += ["algorithm.entropy_coefficient=0.1", "env.reward_scale=2", "logging.every=3", "sweep.name=x"]
    assert len(group_by_structure([job(0), *(job(1, override) for override in overrides)])) == 1


@pytest.mark.parametrize("workers", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("limit", [1, 2, 5, 50])
def test_every_job_is_in_exactly_one_batch_of_one_structure_and_allowed_size(mixed, workers, limit):
    groups = group_by_structure(mixed)
    plan = make_plan(groups, workers, [(limit, "a reason")] * len(groups))
    assert sorted(one.number for batch in plan.batches for one in batch) == list(range(12))
    assert all(len(group_by_structure(batch)) == 1 for batch in plan.batches)
    assert max(len(batch) for batch in plan.batches) <= limit
    assert 1 <= plan.workers <= min(workers, len(plan.batches))
    share = -(-12 // workers)
    for group in groups:
        sizes = [len(batch) for batch in plan.batches if batch[0] in group]
        assert len(sizes) == -(-len(group) // min(limit, share))  # no more batches than needed
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("jobs", "workers"), [(8, 2), (9, 2), (12, 3), (3, 3), (2, 3)])
def test_one_group_is_spread_over_all_workers(jobs, workers):
    plan = make_plan([[job(number, f"seed={number}") for number in range(jobs)]], workers, [LIMIT])
    assert len(plan.batches) == plan.workers == min(workers, jobs)


def test_the_longest_batch_is_first():
    jobs = [job(0), job(1, "policy.hidden_sizes=[4]", "total_env_steps=9000"), job(2, "optimizer=sgd", "seed=3")]
    plan = make_plan(group_by_structure(jobs), 1, [LIMIT] * 3)
    assert [batch[0].number for batch in plan.batches] == [1, 0, 2]


def test_the_line_says_how_many_how_and_why(mixed):
    groups = group_by_structure(mixed)
    line = make_plan(groups, 2, [(2, "memory, 900 MB a run"), LIMIT, LIMIT]).line()
    assert "\n" not in line
    assert line.startswith("12 jobs in 3 groups of equal structure (they differ in policy.hidden_sizes, optimizer.")
    assert "5 batches of 4 or 2 runs on 2 workers" in line
    assert line.endswith("at most 2 runs in a batch: memory, 900 MB a run")
    assert set(differing_keys(groups)) >= {"policy.hidden_sizes", "optimizer._target_"}


def test_the_line_of_one_group_names_no_difference():
    line = make_plan([[job(0), job(1, "seed=1")]], 1, [LIMIT]).line()
    assert line.startswith("2 jobs in 1 group of equal structure: 1 batch of 2 runs on 1 worker; an equal share")


# --- every job's folder -----------------------------------------------------------------------------------------------

GRID = ("optimizer.lr=1e-3,1e-2", "seed=range(2)", "policy.hidden_sizes=[8],[4,4]")


@pytest.fixture(scope="module")
def alone() -> dict[str, tuple[str, dict]]:
    """Hash and evaluation of every job of `GRID`, each trained by itself."""
    expected = {}
    for lr, seed, sizes in itertools.product(("0.001", "0.01"), (0, 1), ("[8]", "[4,4]")):
        overrides = (f"optimizer.lr={lr}", f"seed={seed}", f"policy.hidden_sizes={sizes}")
        (result,) = train([compose(*TINY, *overrides)])
        expected[folder_name(",".join(sorted(overrides)))] = (result.parameters_sha256, result.evaluation)
    assert len({value[0] for value in expected.values()}) == 8
    return expected


@pytest.mark.parametrize(("workers", "most"), [(1, "null"), (2, 1), (2, "null"), (3, 2), (2, 5)])
def test_every_job_is_the_run_alone_whatever_the_batches_and_workers(run, tmp_path, alone, workers, most):  # noqa: F811
    launcher = (f"hydra.launcher.workers={workers}", f"hydra.launcher.max_runs_per_batch={most}")
    ended = run("-m", *TINY, *GRID, *launcher, "sweep.name=s")
    assert (ended.code, ended.err) == (0, "")
    assert "8 jobs in 2 groups of equal structure (they differ in policy.hidden_sizes): " in ended.out
    results = results_of(tmp_path / "outputs" / "sweeps" / "s")
    assert {name: (one["parameters_sha256"], one["evaluation"]) for name, one in results.items()} == alone
    biggest = max(result["runs_in_batch"] for result in results.values())
    assert biggest == {(1, "null"): 4, (2, 1): 1, (2, "null"): 4, (3, 2): 2, (2, 5): 4}[workers, most]


def test_every_job_keeps_what_hydra_promises(sweep, tmp_path):  # noqa: F811
    assert sweep("seed=range(2)", "optimizer=adam,sgd").code == 0
    folders = folders_of(tmp_path / "outputs" / "sweeps" / "s")
    assert list(folders) == [f"optimizer={name},seed={seed}" for name in ("adam", "sgd") for seed in (0, 1)]
    for name, folder in folders.items():
        files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        (events,) = [name for name in files if name.startswith("events.out.tfevents.")]
        assert files - {events} == FILES
        optimizer, seed = (part.partition("=")[2] for part in name.split(","))
        assert load_config(folder) == compose(*TINY, "sweep.name=s", f"optimizer={optimizer}", f"seed={seed}")
        overrides = OmegaConf.load(folder / ".hydra" / "overrides.yaml")
        assert sorted(overrides) == sorted([*TINY, "sweep.name=s", f"optimizer={optimizer}", f"seed={seed}"])
        hydra = OmegaConf.load(folder / ".hydra" / "hydra.yaml").hydra
        assert hydra.runtime.output_dir == str(folder)
        assert hydra.runtime.choices.optimizer == optimizer
        log = (folder / "train.log").read_text()
        assert "training begins as run" in log
        assert "completed after" in log
        assert "evaluation: mean return" in log


def test_options_of_a_sweep_share_a_key_that_the_default_option_lacks(run, tmp_path):  # noqa: F811
    shared = ("sweep.name=s", "algorithm=ppo,trpo", "optimizer=sgd", "baseline=value_network")
    assert run("-m", *TINY, *shared, "algorithm.rollout_steps=8").code == 0
    for name, folder in folders_of(tmp_path / "outputs" / "sweeps" / "s").items():
        assert name in ("algorithm=ppo", "algorithm=trpo")
        assert load_config(folder).algorithm.rollout_steps == 8
    for key, near in (("rollout_stepz", " Did you mean 'rollout_steps'?"), ("epochs", "")):  # trpo has no epochs
        ended = run("-m", *TINY, "algorithm=ppo,trpo", "optimizer=sgd", "baseline=value_network", f"algorithm.{key}=2")
        assert (ended.code, ended.err) == (2, f"error: algorithm.{key}=2: there is no such key.{near}\n")


def test_the_flag_of_a_sweep_may_stand_at_its_end(run, tmp_path):  # noqa: F811
    assert run(*TINY, "sweep.name=s", "seed=0,1", "-m").code == 0
    assert folders_of(tmp_path / "outputs" / "sweeps" / "s").keys() == {"seed=0", "seed=1"}


def test_a_sweep_leaves_its_own_config_beside_the_jobs_and_nothing_elsewhere(sweep, tmp_path):  # noqa: F811
    assert sweep("seed=range(2)").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]
    visible = {path.name for path in (tmp_path / "outputs" / "sweeps" / "s").iterdir() if not path.name.startswith(".")}
    assert visible >= {"seed=0", "seed=1", "multirun.yaml", "sweep.json"}
    assert not (tmp_path / "outputs" / "sweeps" / "s" / ".progress").exists()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("env.id=a/b", "env.id=a_b"),
        ("note=" + "x" * 300, "note=" + "x" * 299 + "y"),
        ("name=grün", "name=grin"),
        ("name=日本", "name=日光"),
        ("x=..", "x=."),
        ("x='a b'", "x='a_b'"),
        ("x=a:b", "x=a;b"),
    ],
)
def test_different_overrides_have_different_portable_folder_names(first, second):
    names = [folder_name(text) for text in (first, second)]
    assert len(set(names)) == 2
    for name in names:
        assert name.isascii()
        assert len(name) <= 120
        assert os.sep not in name
        assert not name.startswith(".")


def test_long_overrides_have_folders_of_their_own(sweep, tmp_path):  # noqa: F811
    sizes = ["[" + ",".join(["4"] * 150 + [last]) + "]" for last in ("4", "8")]
    ended = sweep(f"policy.hidden_sizes={','.join(sizes)}", "sweep.preview=true")
    assert ended.code == 0
    names = [line.split()[1] for line in ended.out.splitlines() if "policy.hidden_sizes=_4_" in line or "=_4," in line]
    assert len({name for name in names if len(name) > 100}) >= 2


def test_two_sweeps_of_one_second_have_two_folders(run, tmp_path, monkeypatch):  # noqa: F811
    clock = SimpleNamespace(now=lambda: datetime(2020, 2, 3, 4, 5, 6))
    monkeypatch.setattr("hydra.core.utils.datetime", clock)
    tiny = ("total_env_steps=1", "logging.tensorboard=false", "hydra.launcher.workers=1")
    assert [run("-m", *TINY, *tiny, "seed=1,2").code for _ in range(2)] == [0, 0]
    names = [path.name for path in (tmp_path / "outputs" / "sweeps").iterdir()]
    assert len(names) == 2
    assert all(name.startswith("2020-02-03_04-05-06_") for name in names)


# --- Composer equals Hydra --------------------------------------------------------------------------------------------

JOBS = [
    [],
    ["seed=3"],
    ["policy=softmax", "env=cartpole", "optimizer=sgd", "optimizer.momentum=0.9"],
    ["experiment=pendulum_reinforce", "seed=1"],
    ["experiment=pendulum_reinforce", "env.gamma=0.5", "optimizer.eps=1e-6"],
    ["optimizer@baseline.optimizer=sgd", "baseline.optimizer.lr=1e-2"],
    ["optimizer.lr=1e-3", "++optimizer.eps=1e-5", "+optimizer.kwargs.amsgrad=true"],
    ["optimizer.kwargs={a:1,b:2}", "~optimizer.kwargs.a", "~experiment"],
    ["optimizer.kwargs={a:1,b:2}", "~optimizer.kwargs.b=2"],
    ["env.kwargs.mass=2", "env=gymnasium", "env.id=Acrobot-v1", "policy=softmax"],
    ["env=gymnasium", "env.id='Acrobot-v1'", "env.kwargs={a:1,b:[2,3]}"],
    ["policy.hidden_sizes=[8,8]", "optimizer.betas=[0.5,0.9]"],
    ["total_env_steps=${env.default_env_steps}", "policy.initial_std=${env.gamma}"],
    ["baseline=none", "policy.activation='tanh'", 'dtype="float64"'],
    ["optimizer.max_gradient_norm=null", "logging.progress=none", "logging={every:3}"],
    ["hydra.job.name=other", "seed=4"],
    ["seed=1", "seed=2"],
]


@pytest.fixture(scope="module")
def loader() -> ConfigLoaderImpl:
    register()
    return ConfigLoaderImpl(config_search_path=create_config_search_path(str(conf_dir())))


def master_of(loader: ConfigLoaderImpl, tmp_path: Path, *overrides: str):
    sweep_dir = f"hydra.sweep.dir={tmp_path}"
    node = loader.load_configuration("config", [*overrides, sweep_dir, "hydra.job.name=train"], RunMode.MULTIRUN)
    HydraConfig.instance().set_config(node)
    return node


@pytest.mark.parametrize("overrides", JOBS, ids=" ".join)
def test_a_job_is_composed_as_hydra_composes_it(loader, tmp_path, overrides):
    overrides = free_keys(overrides)
    master = master_of(loader, tmp_path, "hydra.job.config.override_dirname.exclude_keys=[dtype]")
    composer = Composer(loader, master)
    composer(["seed=9", "optimizer.lr=0.5"], 0)  # a job before it leaves nothing behind
    own = composer(overrides, 7).node
    theirs = loader.load_sweep_config(master, overrides)
    plain, expected = (OmegaConf.to_container(node, enum_to_str=True) for node in (own, theirs))
    hydra, hydra_expected = plain.pop("hydra"), expected.pop("hydra")
    assert plain == expected
    assert list(plain) == list(expected)
    assert hydra["overrides"] == hydra_expected["overrides"]
    assert hydra["runtime"]["choices"] == hydra_expected["runtime"]["choices"]
    assert own.hydra.job.override_dirname == theirs.hydra.job.override_dirname
    assert own.hydra.job.num == 7
    for key in set(hydra) - {"overrides", "runtime", "job"}:
        assert hydra[key] == hydra_expected[key], key


SEEDED = [
    ["optimizer.lr=0.5", "seed=N"],
    ["seed=N", "policy=softmax", "env=cartpole", "env.gamma=${optimizer.lr}"],
    ["seed=N", "env.gamma=0.${seed}"],
    ["evaluation.episodes=${seed}", "seed=N"],
    ["seed=N", "hydra.job.name=other"],
    ["optimizer.lr=0.1", "++seed=N"],
    ["seed=3", "seed=N"],
]


@pytest.mark.parametrize("overrides", SEEDED, ids=" ".join)
def test_a_job_that_differs_in_its_seed_alone_is_what_it_would_be_without_the_other(loader, tmp_path, overrides):
    first, second = ([item.replace("=N", f"={seed}") for item in overrides] for seed in (5, 12))
    master = master_of(loader, tmp_path)
    composer = Composer(loader, master)
    before, own, expected = composer(first, 0), composer(second, 1), Composer(loader, master)(second, 1)
    for name in ("number", "name", "setting", "folder", "overrides", "override_dirname", "config", "values"):
        assert getattr(own, name) == getattr(expected, name), name
    assert OmegaConf.to_container(own.node, resolve=False) == OmegaConf.to_container(expected.node, resolve=False)
    assert own.composed == expected.composed
    assert (before.config.seed, before.composed.seed, before.values["seed"]) == (5, 5, 5)
    write_hydra_folder(own)
    files = {path.name: path.read_text() for path in (own.folder / ".hydra").iterdir()}
    write_hydra_folder(expected)
    assert files == {path.name: path.read_text() for path in (own.folder / ".hydra").iterdir()}


@pytest.mark.parametrize("seed", ["-1", str(2**63), "null", "x"])
def test_a_seed_that_cannot_be_is_found_behind_one_that_can(loader, tmp_path, seed):
    composer = Composer(loader, master_of(loader, tmp_path))
    composer(["seed=1"], 0)
    with pytest.raises(UserError, match=r"^seed=?"):
        composer([f"seed={seed}"], 1)


def test_a_folder_may_be_named_by_any_value_of_its_own_job(loader, tmp_path):
    name = "hydra.sweep.subdir=${seed}_${optimizer.lr}_${policy.activation}"
    composer = Composer(loader, master_of(loader, tmp_path, "policy=softmax", "env=cartpole", name))
    given = [["optimizer.lr=0.5"], ["seed=3"], ["seed=3", "policy.activation=tanh"], ["seed=4"], ["optimizer.lr=0.5"]]
    jobs = [composer(["policy=softmax", "env=cartpole", *own], number) for number, own in enumerate(given)]
    settings = [(job.config.seed, job.config.optimizer.lr, job.config.policy.activation) for job in jobs]
    assert [job.name for job in jobs] == ["_".join(map(str, setting)) for setting in settings]
    assert len(set(settings)) == 4


@pytest.mark.parametrize("overrides", [JOBS[2], JOBS[3], JOBS[9], JOBS[11]], ids=" ".join)
def test_the_files_of_a_job_read_as_those_that_hydra_writes(loader, tmp_path, overrides):
    composer = Composer(loader, master_of(loader, tmp_path))
    own = composer(free_keys(overrides), 0)
    write_hydra_folder(composer([*free_keys(overrides), "total_env_steps=9", "sweep.name=x"], 1))  # leaves nothing
    write_hydra_folder(own)
    config = own.node.copy()
    with read_write(config), open_dict(config):
        hydra = config.pop("hydra")
    theirs = tmp_path / "theirs"
    for name, node in (
        ("config", config),
        ("hydra", OmegaConf.create({"hydra": OmegaConf.to_container(hydra)})),
        ("overrides", own.node.hydra.overrides.task),
    ):
        _save_config(node, f"{name}.yaml", theirs)
        written = (own.folder / ".hydra" / f"{name}.yaml").read_text()
        assert yaml.safe_load(written) == yaml.safe_load((theirs / f"{name}.yaml").read_text())


def test_folders_are_named_by_what_the_sweep_varies():
    key = "hydra.job.config.override_dirname.exclude_keys"
    given = ["-m", "policy=softmax", "env=cartpole", "seed=1,2", "policy=softmax,gaussian"]
    named = ["-m", f"{key}=[env]", *given[1:]]
    assert prepared(given) == named  # the policy is given twice; the last varies
    assert prepared(given[1:]) == given[1:]


# --- what a person sees -----------------------------------------------------------------------------------------------

STATUS = SweepStatus(
    jobs=200,
    kept=7,
    finished=120,
    running=70,
    failed=3,
    env_steps=12_345_678,
    total_env_steps=200_000_000,
    seconds=100.0,
    steps_before=345_678,
    returns={
        f"optimizer.lr={0.001 * number:.3f}, policy.hidden_sizes=[64,64]": [number, number + 2] for number in range(30)
    },
)


def test_a_line_says_where_the_sweep_is():
    assert STATUS.line() == (
        "7 kept, 120 of 200 runs finished, 70 running, 3 failed | 12.35M of 200.00M env steps | 120k env steps/s | "
        "26 min 04 s left"
    )
    assert SweepStatus(jobs=2, kept=0).line().endswith("| ? left")
    just_begun = SweepStatus(jobs=2, kept=0, env_steps=950, total_env_steps=20_000, seconds=10.0)
    assert just_begun.line().endswith("| 950 of 20k env steps | ? env steps/s | ? left")


def test_settings_are_sorted_by_their_median():
    status = SweepStatus(jobs=5, kept=0, returns={"a": [1.0, 9.0, 2.0], "b": [3.0], "c": []})
    assert status.settings() == [("b", 3.0, 3.0), ("a", 9.0, 2.0)]


def test_plain_lines_name_the_best_setting(capsys):
    SweepDisplay("plain").close(STATUS)
    line = capsys.readouterr().out
    assert "120 of 200 runs finished, 70 running, 3 failed" in line
    assert "best so far optimizer.lr=0.029, policy.hidden_sizes=[64,64]: median return 30.0" in line


def test_the_plain_line_of_a_sweep_over_seeds_has_no_setting_to_name(capsys):
    SweepDisplay("plain").close(SweepStatus(jobs=2, kept=0, returns={"": [1.0, 2.0]}))
    assert capsys.readouterr().out.endswith(" left | median return 1.500\n")


def test_the_drawn_display_fits_into_80_columns():
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(_drawn(STATUS))
    lines = console.export_text().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    text = "\n".join(lines)
    for part in ("120 of 200 runs finished", "120k env steps/s", "26 min 04 s left", "optimizer.lr=0.029", "30.0"):
        assert part in text
    assert "and 10 more" in text


def test_the_status_counts_what_is_through_and_what_workers_report(tmp_path):
    jobs = [job(number, f"seed={number}") for number in range(5)]
    task = Task([one.config for one in jobs[2:]], [one.folder for one in jobs[2:]], tmp_path / "report.json")
    report = {"env_steps": 70, "failed": 1, "running": 1, "returns": [4.0, float("nan"), 8.0]}
    task.report.write_text(json.dumps(report))
    results = {
        0: {"status": "completed", "env_steps": 600, "evaluation": {"return_mean": 10.0}},
        1: {"status": "failed", "env_steps": 30, "evaluation": None},
    }
    status = status_of(jobs, 0, {task: jobs[2:]}, results, 0.0)
    assert (status.finished, status.running, status.failed) == (2, 1, 2)
    assert (status.env_steps, status.total_env_steps) == (700, 3000 - 570)  # a failed run plays no more
    assert status.returns == {"": [10.0, 4.0, 8.0]}


# --- before any work --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["seed=range(0)"], "seed=range(0): gives no value, so the sweep has 0 jobs"),
        (["seed=1,1"], "jobs 0 and 1 of the sweep would share this folder"),
        (["optimizer.lr=1e-3,0.001"], "jobs 0 and 1 of the sweep would share this folder"),
        (["optimizer.lr=1,1.0"], "optimizer.lr=1.0: is the same run as optimizer.lr=1 (jobs 0 and 1)"),
        (["env.gamma=0.9,1.5"], "env.gamma=1.5: must be from 0 to 1"),
        (["seed=1,x"], "seed=x: must be a whole number"),
        (["env=cartpole,pendulum"], "(job 1: env=pendulum)"),
        (["policy=softmax,softmux"], "Did you mean 'softmax'?"),
        (["optimizer.lrr=1,2"], "Did you mean 'optimizer.lr'?"),
        (["optimizer.lr=interval(0,1)"], "hydra/sweeper=optuna searches"),
        (["hydra.launcher.workers=0"], "hydra.launcher.workers=0: must be at least 1"),
        (["hydra.launcher.max_runs_per_batch=0"], "must be at least 1"),
        (["hydra.launcher.retries=-1"], "must be at least 0"),
        (["hydra.launcher.backend=ra"], "must be one of processes, ray, submitit. Did you mean 'ray'?"),
        (["sweep.name=a/b"], "must be the name of a folder"),
        (["sweep.name=.."], "must be the name of a folder"),
        (["hydra.sweep.subdir=../${seed}", "seed=1,2"], "leads out of the sweep's folder"),
        (["baseline=batch_mean,none", "env.num_envs=1"], "needs env.num_envs of at least 2"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_in_a_sweep_is_one_line_and_leaves_nothing(run, tmp_path, overrides, says):  # noqa: F811
    ended = run("-m", *TINY, *overrides)
    assert ended.code == 2
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert says in ended.err
    assert ended.out == ""
    assert list(tmp_path.iterdir()) == []


TWO = "hydra.launcher.workers=2"  # counting cores would start `lscpu`


def test_a_preview_says_what_would_be_done_and_does_none_of_it(run, tmp_path, monkeypatch):  # noqa: F811
    def refuse(*_arguments, **_named):
        raise AssertionError("a process was started")

    monkeypatch.setattr("subprocess.Popen", refuse)
    monkeypatch.setattr("multiprocessing.process.BaseProcess.start", refuse)
    monkeypatch.setattr("os.fork", refuse)
    monkeypatch.setattr("pg_experiments.sweeps.preview.TRIAL_SECONDS", 0.05)
    ended = run("-m", *TINY, "seed=range(3)", "policy.hidden_sizes=[8],[4]", "sweep.preview=true", "sweep.name=s", TWO)
    assert (ended.code, ended.err) == (0, "")
    assert "preview of a sweep of 6 in outputs/sweeps/s; nothing is started" in ended.out
    for seed in range(3):
        assert f"seed={seed}" in ended.out
    assert "6 jobs in 2 groups of equal structure (they differ in policy.hidden_sizes)" in ended.out
    assert "group 0: 3 like " in ended.out
    assert "GB are available" in ended.out
    assert "estimated time: " in ended.out
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_over_nothing_is_one_job(run, tmp_path):  # noqa: F811
    assert run("-m", *TINY, "sweep.name=s").code == 0
    assert hashes_of(tmp_path / "outputs" / "sweeps" / "s") == {"job": alone_hash()}
