"""The report of a sweep: which runs are one setting, what the numbers are, and that nothing is left out in silence."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from rich.console import Console
from scipy import stats

from pg_experiments import UserError, compose, train
from pg_experiments.composition import compose_node
from pg_experiments.report import main, report
from pg_experiments.reports.collect import Run, collect
from pg_experiments.reports.picture import DPI, HEIGHT, WIDTH, draw
from pg_experiments.reports.settings import Comparison, compare
from pg_experiments.reports.statistics import GRID_POINTS, RESAMPLES, curve, score
from pg_experiments.reports.table import caption, print_table

TINY = ("total_env_steps=3000", "env.num_envs=4", "evaluation.episodes=2", "logging.progress=none")
STEPS = np.array([100.0, 200.0, 300.0, 400.0])


def write_run(
    folder: Path,
    *overrides: str,
    status: str | None = "completed",
    evaluation: float = 1.0,
    env_steps: np.ndarray = STEPS,
    returns: np.ndarray | None = None,
) -> Path:
    """A run's folder as Hydra and `train` leave it, without training; status None leaves out `result.json`."""
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(compose_node(overrides), folder / ".hydra" / "config.yaml")
    OmegaConf.save(OmegaConf.create(list(overrides)), folder / ".hydra" / "overrides.yaml")
    returns = np.full(len(env_steps), evaluation) if returns is None else returns
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["iteration", "env_steps", "episode/return_mean", "evaluation/return_mean"])
        writer.writerows([i + 1, int(x), y, ""] for i, (x, y) in enumerate(zip(env_steps, returns, strict=True)))
    if status:
        scores = {"return_mean": evaluation, "episodes": 100} if status == "completed" else None
        (folder / "result.json").write_text(json.dumps({"status": status, "evaluation": scores}))
    return folder


def compared(folder: Path) -> Comparison:
    return compare(collect(folder))


def table_of(comparison: Comparison) -> str:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        print_table(comparison, console)
    return console.export_text()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Two learning rates with five seeds each, of different lengths."""
    folder = tmp_path_factory.mktemp("made")
    random = np.random.default_rng(1)
    for rate in ("0.01", "0.002"):
        for seed in range(5):
            steps = STEPS + 7 * seed
            write_run(
                folder / f"optimizer.lr={rate},seed={seed}",
                f"optimizer.lr={rate}",
                f"seed={seed}",
                evaluation=-100 * float(rate) - seed**2,
                env_steps=steps,
                returns=random.normal(size=len(steps)),
            )
    return folder


@pytest.fixture
def sweep(made, tmp_path) -> Path:
    """The same, to be damaged."""
    return shutil.copytree(made, tmp_path / "sweep")


# --- collect ----------------------------------------------------------------------------------------------------------


def test_runs_are_read_as_training_wrote_them(tmp_path):
    configs = [compose(*TINY, f"seed={seed}") for seed in range(2)]
    results = train(configs, run_dirs=[tmp_path / "deep" / f"{seed}" for seed in range(2)])
    runs = collect(tmp_path)
    assert [(run.seed, run.status, run.problems) for run in runs] == [(0, "completed", ()), (1, "completed", ())]
    for run, result in zip(runs, results, strict=True):
        assert (run.evaluation, run.episodes) == (result.evaluation["return_mean"], 2)
        assert run.config["optimizer.lr"] == 5e-3
        with (run.folder / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert run.env_steps.tolist() == [float(row["env_steps"]) for row in rows] == [800, 1600, 2400, 3200]
        assert run.return_mean.tolist() == [float(row["episode/return_mean"]) for row in rows]


def test_runs_come_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 9, 1):
        write_run(tmp_path / str(number), f"seed={number}")
    assert [run.seed for run in collect(tmp_path)] == [1, 9, 10]


def test_a_folder_without_runs_and_no_folder_are_one_line(tmp_path, capsys):
    for folder, reason in ((tmp_path, "holds no runs"), (tmp_path / "none", "there is no such folder")):
        with pytest.raises(SystemExit) as stop:
            main([str(folder)])
        assert stop.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {folder}: {reason}")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("result.json", "{"),
        ("result.json", "[1]"),
        ("result.json", "null"),
        ("result.json", '{"status": "completed"}'),
        ("result.json", '{"status": "great", "evaluation": null}'),
        ("result.json", '{"status": "completed", "evaluation": {"return_mean": NaN, "episodes": 1}}'),
        ("result.json", '{"status": "completed", "evaluation": {"return_mean": "high", "episodes": 1}}'),
        ("metrics.csv", "iteration,loss\n1,2\n"),
        ("metrics.csv", "env_steps,episode/return_mean\n100,5\n200,high\n"),
        ("metrics.csv", "env_steps,episode/return_mean\n100,5\n50,5\n"),
        ("metrics.csv", "env_steps,episode/return_mean\n100,5\n200,nan\n"),
        ("metrics.csv", "env_steps,episode/return_mean\n100,5\n200\n300,5\n"),
        ("metrics.csv", "\x00\xff\x00"),
        (".hydra/config.yaml", "{"),
        (".hydra/config.yaml", "- 1"),
        (".hydra/config.yaml", "a: ${b}"),
        (".hydra/config.yaml", "a: !!python/object/apply:os.system ['touch executed']"),
    ],
)
def test_a_damaged_file_is_named_and_the_others_are_compared(sweep, name, content, monkeypatch):
    monkeypatch.chdir(sweep)
    damaged = sweep / "optimizer.lr=0.01,seed=3" / name
    damaged.write_bytes(content.encode("latin-1"))
    comparison = compared(sweep)
    (note,) = comparison.notes
    assert note.startswith(f"{damaged}: ")
    good, other = comparison.settings
    assert (len(good.completed), len(good.runs)) == (5, 5)
    expected = {"metrics.csv": (5, 5), "result.json": (4, 5), ".hydra/config.yaml": (4, 4)}
    assert (len(other.completed), len(other.runs)) == expected[name]
    assert other.missing() == ("1 unfinished" if name == "result.json" else "")
    assert curve(other) is not None
    assert not Path("executed").exists()


def test_the_command_warns_of_a_damaged_file_and_goes_on(sweep, capsys):
    damaged = sweep / "optimizer.lr=0.01,seed=3" / "result.json"
    damaged.write_text("{")
    main([str(sweep)])
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith(f"warning: {damaged}: cannot be used")
    assert "1 unfinished" in captured.out


def test_a_row_that_is_being_written_is_no_damage(tmp_path):
    run = write_run(tmp_path / "run", status=None)
    with (run / "metrics.csv").open("a") as file:
        file.write("5,50")
    (read,) = collect(tmp_path)
    assert read.problems == ()
    assert read.env_steps.tolist() == STEPS.tolist()


def test_a_run_that_never_started_is_unfinished(sweep, capsys):
    for name in ("metrics.csv", "result.json"):
        (sweep / "optimizer.lr=0.01,seed=3" / name).unlink()
    report(sweep)
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "4 of 5" in captured.out
    assert "1 unfinished" in captured.out


# --- settings ---------------------------------------------------------------------------------------------------------


def labels(folder: Path) -> tuple[str, list[str]]:
    comparison = compared(folder)
    return comparison.name, [setting.label for setting in comparison.settings]


def test_learning_rates_are_sorted_as_numbers(tmp_path):
    for rate in ("1e-2", "2e-3", "1e-1", "1e-5"):
        write_run(tmp_path / rate, f"optimizer.lr={rate}")
    assert labels(tmp_path) == ("learning rate", ["1e-05", "0.002", "0.01", "0.1"])


def test_several_keys_are_a_label_with_the_learning_rate_first(tmp_path):
    for gamma in ("0.9", "0.99"):
        for rate in ("3e-3", "1e-3"):
            write_run(tmp_path / f"{gamma}{rate}", f"optimizer.lr={rate}", f"env.gamma={gamma}")
    name, texts = labels(tmp_path)
    assert name == "several keys"
    assert texts == [
        "optimizer.lr=0.001, env.gamma=0.9",
        "optimizer.lr=0.001, env.gamma=0.99",
        "optimizer.lr=0.003, env.gamma=0.9",
        "optimizer.lr=0.003, env.gamma=0.99",
    ]


def test_settings_of_many_keys_are_called_as_they_were_typed(tmp_path):
    for experiment in ("cartpole_ppo", "cartpole_trpo"):
        for seed in (0, 1):
            write_run(tmp_path / f"{experiment} {seed}", f"experiment={experiment}", f"seed={seed}", "env.num_envs=8")
    comparison = compared(tmp_path)
    assert comparison.name == "experiment"
    assert [setting.values for setting in comparison.settings] == [
        {"experiment": "cartpole_ppo"},
        {"experiment": "cartpole_trpo"},
    ]
    assert [len(setting.runs) for setting in comparison.settings] == [2, 2]
    write_run(tmp_path / "another", "policy=softmax", "env=cartpole", "optimizer.lr=0.5")
    labels = {setting.label for setting in compared(tmp_path).settings}
    assert labels == {
        "experiment=cartpole_ppo, env.num_envs=8",
        "experiment=cartpole_trpo, env.num_envs=8",
        "policy=softmax, env=cartpole, optimizer.lr=0.5",
    }


def test_what_was_typed_does_not_hide_a_difference_of_the_configs(tmp_path):
    """Such as one between two versions of an experiment's file."""
    for version, more in enumerate(((), ("optimizer.lr=0.5",))):
        folder = write_run(tmp_path / str(version), "experiment=cartpole_ppo", *more)
        write_run(tmp_path / f"trpo {version}", "experiment=cartpole_trpo", *more)
        for path in (folder, tmp_path / f"trpo {version}"):
            name = "cartpole_trpo" if "trpo" in path.name else "cartpole_ppo"
            OmegaConf.save(OmegaConf.create([f"experiment={name}"]), path / ".hydra" / "overrides.yaml")
    settings = compared(tmp_path).settings
    assert len(settings) == 4
    assert "optimizer.lr" in settings[0].values


def test_a_short_name_means_one_key(tmp_path):
    """`lr` is the optimizer's, so the value network's has its whole name."""
    for place, (rate, coefficient) in enumerate(((0.1, 0.0), (0.2, 0.0), (0.1, 0.5))):
        typed = (f"baseline.optimizer.lr={rate}", f"algorithm.entropy_coefficient={coefficient}")
        write_run(tmp_path / str(place), *typed)
        write_run(tmp_path / f"{place} fast", *typed, "optimizer.lr=0.7")
    assert list(compared(tmp_path).settings[0].short_values) == ["lr", "baseline.optimizer.lr", "entropy_coefficient"]


def test_the_seed_and_what_changes_nothing_make_no_setting(tmp_path):
    for seed in range(3):
        write_run(tmp_path / str(seed), f"seed={seed}", f"logging.every={seed + 1}", f"checkpoint.every={seed}")
    assert labels(tmp_path) == ("", ["policy=gaussian, env=Pendulum"])


def test_a_key_that_follows_another_one_is_left_out(tmp_path):
    for std in ("0.5", "2"):
        write_run(tmp_path / std, f"env.default_initial_std={std}")
    assert labels(tmp_path) == ("env.default_initial_std", ["0.5", "2"])


def test_a_key_that_follows_another_one_is_left_out_of_configs_from_python(tmp_path):
    for std in (0.5, 2.0):
        folder = write_run(tmp_path / str(std))
        config = {"env": {"default_initial_std": std}, "policy": {"initial_std": std}, "seed": 0}
        OmegaConf.save(OmegaConf.create(config), folder / ".hydra" / "config.yaml")
    assert labels(tmp_path) == ("policy.initial_std", ["0.5", "2"])


def test_a_number_and_an_interpolation_with_its_value_are_the_same(tmp_path):
    for seed in range(2):
        folder = write_run(tmp_path / str(seed), f"seed={seed}")
        if seed:
            path = folder / ".hydra" / "config.yaml"
            OmegaConf.save(OmegaConf.create(OmegaConf.to_container(OmegaConf.load(path), resolve=True)), path)
    assert len(labels(tmp_path)[1]) == 1


def test_what_belongs_to_an_environment_is_no_setting_of_its_own(tmp_path):
    for env, policy in (("pendulum", "gaussian"), ("cartpole", "softmax")):
        for rate in ("0.1", "0.2"):
            run = (f"policy={policy}", f"env={env}", f"optimizer.lr={rate}")
            write_run(tmp_path / f"{env}{rate}", *run, evaluation=float(rate))
    assert labels(tmp_path)[1] == [
        "env=CartPole, policy=softmax, optimizer.lr=0.1",
        "env=CartPole, policy=softmax, optimizer.lr=0.2",
        "env=Pendulum, policy=gaussian, optimizer.lr=0.1",
        "env=Pendulum, policy=gaussian, optimizer.lr=0.2",
    ]
    assert table_of(compared(tmp_path)).count("★") == 3  # the best of each environment, and the explanation


def test_what_belongs_to_an_id_of_gymnasium_is_no_setting_of_its_own(tmp_path):
    for env in ("hopper", "half_cheetah", "pendulum"):
        write_run(tmp_path / env, f"env={env}")
    assert labels(tmp_path)[1] == [
        "env=GymnasiumEnv, env.id=HalfCheetah-v5",
        "env=GymnasiumEnv, env.id=Hopper-v5",
        "env=Pendulum, env.id=absent",
    ]


def test_a_setting_without_differences_is_called_by_the_id_of_its_environment(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / str(seed), "env=hopper", f"seed={seed}")
    assert "Hopper-v5" in table_of(compared(tmp_path))


def test_settings_that_share_the_highest_mean_are_all_marked(tmp_path):
    for rate, value in (("0.1", 500.0), ("0.2", 500.0), ("0.3", 499.0)):
        run = ("policy=softmax", "env=cartpole", f"optimizer.lr={rate}")
        write_run(tmp_path / rate, *run, evaluation=value)
    table = table_of(compared(tmp_path))
    assert table.count("★") == 3  # two settings and the explanation
    assert "of its environment" not in table


def test_the_same_run_in_two_folders_counts_once_and_is_named(sweep, tmp_path_factory, capsys):
    again = tmp_path_factory.mktemp("again")
    shutil.copytree(sweep / "optimizer.lr=0.01,seed=3", again / "copy")
    write_run(again / "new", "optimizer.lr=0.01", "seed=5")
    report(sweep, again)
    captured = capsys.readouterr()
    assert "6 of 6" in captured.out
    (line,) = captured.err.splitlines()
    assert line.startswith(f"warning: {again / 'copy'}: left out")
    assert (sweep / "sweep.png").is_file()
    assert not (again / "sweep.png").exists()


def test_values_of_somebody_else_cannot_steer_the_terminal_or_be_a_formula(tmp_path, capsys):
    for value in ("[bold]a\x1b[31m$", "b$\\frac$"):
        folder = write_run(tmp_path / str(len(value)))
        OmegaConf.save(OmegaConf.create({"env": {"id": value}}), folder / ".hydra" / "config.yaml")
    report(tmp_path)
    out = capsys.readouterr().out
    assert "[bold]a?[31m$" in out
    assert "\x1b[31m" not in out


# --- statistics -------------------------------------------------------------------------------------------------------


def test_the_interval_is_student_t_over_seeds(sweep):
    for setting in compared(sweep).settings:
        values = [run.evaluation for run in setting.runs]
        found = score(setting)
        expected = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert found is not None
        assert (found.low, found.high) == pytest.approx(expected, rel=1e-12)
        assert found.mean == pytest.approx(np.mean(values))
        assert found.std == pytest.approx(np.std(values, ddof=1))
        assert found.worst.seed == 4


def test_the_mean_curve_is_over_the_env_steps_that_all_runs_have(sweep):
    for setting in compared(sweep).settings:
        found = curve(setting)
        assert found is not None
        assert (found.env_steps[0], found.env_steps[-1], len(found.env_steps)) == (128, 400, GRID_POINTS)
        at = 271.0
        expected = np.mean([np.interp(at, run.env_steps, run.return_mean) for run in setting.runs])
        runs = np.array([np.interp(found.env_steps, run.env_steps, run.return_mean) for run in setting.runs])
        assert np.allclose(found.mean, runs.mean(0), rtol=0, atol=1e-14)
        assert np.interp(at, found.env_steps, found.mean) == pytest.approx(expected, abs=0.02)


def test_the_band_is_scipys_bootstrap_and_the_same_every_time(sweep):
    setting = compared(sweep).settings[0]
    found, again = curve(setting), curve(setting)
    assert found is not None
    assert again is not None
    runs = np.array([np.interp(found.env_steps, run.env_steps, run.return_mean) for run in setting.runs])
    interval = stats.bootstrap(
        (runs,), np.mean, axis=0, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert np.array_equal(found.low, interval.low)
    assert np.array_equal(found.high, interval.high)
    assert np.array_equal(found.low, again.low)
    for place in (0, 150):  # point by point, with other resamples: within what 1000 of them scatter
        other = stats.bootstrap((runs[:, place],), np.mean, method="percentile", rng=np.random.default_rng(5))
        width = other.confidence_interval.high - other.confidence_interval.low
        assert found.low[place] == pytest.approx(other.confidence_interval.low, abs=0.15 * width)
        assert found.high[place] == pytest.approx(other.confidence_interval.high, abs=0.15 * width)


def test_one_seed_has_no_interval_and_its_curve_is_the_run(tmp_path):
    write_run(tmp_path / "run", evaluation=-42.0, returns=np.array([1.0, 5.0, 2.0, 4.0]))
    comparison = compared(tmp_path)
    (setting,) = comparison.settings
    found, line = score(setting), curve(setting)
    assert found is not None
    assert line is not None
    assert (found.mean, found.std, found.low, found.high) == (-42.0, None, None, None)
    assert (line.env_steps.tolist(), line.mean.tolist(), line.low) == (STEPS.tolist(), [1, 5, 2, 4], None)
    row = table_of(comparison).splitlines()[2]
    assert row.split() == ["gaussian", "Pendulum", "1", "of", "1", "-42.00", "-", "-", "-42.00", "(0)"]


# --- table ------------------------------------------------------------------------------------------------------------


def test_failed_runs_are_counted_and_are_not_in_the_mean(sweep):
    for seed in (0, 2):
        shutil.rmtree(sweep / f"optimizer.lr=0.01,seed={seed}")
        write_run(sweep / f"optimizer.lr=0.01,seed={seed}", "optimizer.lr=0.01", f"seed={seed}", status="failed")
    comparison = compared(sweep)
    text = table_of(comparison)
    assert "3 of 5" in text
    assert "2 failed" in text
    assert "Means are over the completed runs only" in " ".join(text.split())
    found = score(comparison.settings[1])
    assert found is not None
    assert found.mean == pytest.approx(np.mean([-1 - seed**2 for seed in (1, 3, 4)]))


def test_a_setting_of_failed_runs_only_has_a_row_without_numbers(sweep, capsys):
    for seed in range(5):
        (sweep / f"optimizer.lr=0.01,seed={seed}" / "result.json").write_text(
            '{"status": "failed", "evaluation": null}'
        )
    report(sweep)
    out = capsys.readouterr().out
    assert "0 of 5" in out
    assert "5 failed" in out
    assert "★" not in out  # nothing to be better than


def test_the_table_fits_into_80_columns_and_says_what_it_shows(sweep):
    comparison = compared(sweep)
    text = table_of(comparison)
    assert max(map(len, text.splitlines())) <= 80
    lines = text.splitlines()
    assert lines[1].split()[:2] == ["learning", "rate"]
    assert lines[2].split() == ["★", "0.002", "5", "of", "5", "-6.20", "6.60", "-14.39", "to", "1.99", "-16.20", "(4)"]
    assert lines[3].split()[:1] == ["0.01"]
    said = caption(comparison)
    for part in ("final deterministic evaluation", "100 episodes", "seeds 0 to 4", "95 % interval (Student's t)"):
        assert part in said


# --- picture ----------------------------------------------------------------------------------------------------------


def test_the_report_writes_a_picture_of_the_right_size_and_says_where(sweep, capsys):
    report(sweep)
    path = sweep / "sweep.png"
    assert f"picture: {path}" in capsys.readouterr().out
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(content[16:20]), int.from_bytes(content[20:24])) == (WIDTH * DPI, HEIGHT * DPI)
    assert sorted(entry.name for entry in sweep.iterdir() if entry.is_file()) == ["sweep.png"]


def test_the_drawn_lines_are_the_means_and_the_single_runs(sweep):
    comparison = compared(sweep)
    (axes,) = draw(comparison).axes
    drawn = [line.get_xydata() for line in axes.lines]
    for setting in comparison.settings:
        found = curve(setting)
        assert found is not None
        assert any(np.array_equal(line, np.column_stack([found.env_steps, found.mean])) for line in drawn)
        for run in setting.runs:
            assert any(np.array_equal(line, np.column_stack([run.env_steps, run.return_mean])) for line in drawn)
    assert len(drawn) == 2 + 10
    assert "too narrow with fewer than 10 seeds" in axes.figure.get_supxlabel()
    (legend,) = axes.figure.legends
    assert [text.get_text().split("\n")[0] for text in legend.get_texts()] == ["★ 0.002", "0.01"]


@pytest.mark.parametrize(("settings", "panels"), [(1, 1), (8, 1), (9, 9), (31, 30)])
def test_any_number_of_settings_is_drawn(settings, panels):
    runs = [
        Run(Path(f"{k}{seed}"), "completed", config, config, float(k), 5, STEPS, STEPS * k)
        for k in range(settings)
        for seed in range(2)
        for config in [{"optimizer.lr": 0.1 * (k + 1), "seed": seed}]
    ]
    figure = draw(compare(runs))
    assert len(figure.axes) == panels
    title = figure.get_suptitle()
    assert f"{2 * settings} runs" in title
    assert ("the best 30 of 31 settings" in title) == (settings == 31)


def test_settings_without_any_curve_are_drawn_as_nothing(tmp_path, capsys):
    for seed in range(2):
        (write_run(tmp_path / str(seed), f"seed={seed}", status=None) / "metrics.csv").unlink()
    report(tmp_path)
    assert "No run has completed" in capsys.readouterr().out
    assert (tmp_path / "sweep.png").is_file()


def test_runs_without_a_common_env_step_have_no_mean_curve(tmp_path):
    for seed in range(2):
        write_run(tmp_path / str(seed), f"seed={seed}", env_steps=STEPS + 1000 * seed)
    (setting,) = compared(tmp_path).settings
    assert curve(setting) is None


def test_a_picture_that_cannot_be_written_is_one_line_after_the_table(sweep, capsys):
    (sweep / "sweep.png").mkdir()  # for root, no folder is read-only
    with pytest.raises(SystemExit) as stop:
        main([str(sweep)])
    captured = capsys.readouterr()
    assert stop.value.code == 2
    assert captured.err.startswith(f"error: {sweep / 'sweep.png'}: cannot be written")
    assert "5 of 5" in captured.out
    assert not list(sweep.glob(".sweep*"))


def test_reporting_twice_gives_the_same_picture(sweep):
    report(sweep)
    first = (sweep / "sweep.png").read_bytes()
    report(sweep)
    assert (sweep / "sweep.png").read_bytes() == first


def test_only_unreadable_configs_are_a_user_error(tmp_path):
    (write_run(tmp_path / "run") / ".hydra" / "config.yaml").write_text("{")
    with pytest.raises(UserError, match="no run with a config"):
        report(tmp_path)


def test_help_and_report_import_no_torch(sweep):
    script = (
        "import sys; from pathlib import Path; import pg_experiments.report as command\n"
        "late = {'torch', 'matplotlib', 'scipy.stats', 'omegaconf'}\n"
        "assert not late & set(sys.modules), late & set(sys.modules)\n"
        f"command.report(Path({str(sweep)!r}))\n"
        "assert 'torch' not in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, capture_output=True)
