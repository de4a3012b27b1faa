"""A mistake costs a line: exit code 2, one line on stderr that names key, value and what is allowed, no files."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

import pg_experiments
from pg_experiments import ConfigError, UserError, compose, load_policy
from pg_experiments.errors import nearest
from pg_experiments.evaluate import main as evaluate_main
from pg_experiments.train import main as train_main
from pg_experiments.training import train

TYPE_CHECKS = False  # see conftest.py

TINY = ("env.num_envs=4", "total_env_steps=400", "evaluation.episodes=3", "logging.progress=none")
SOFTMAX_ON_GYMNASIUM = ("policy=softmax", "env=gymnasium")
TORCH = "optimizer=torch"


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code, its two streams, and the files and folders below the working folder."""

    code: int
    out: str
    err: str
    files: list[str]


@pytest.fixture
def run_train(tmp_path, monkeypatch, capfd):
    """Call the training command in an empty folder of its own, in process."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # the command sets it; put back afterwards

    def run(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["train", *arguments])
        code = 0
        try:
            train_main()
        except SystemExit as stop:
            code = stop.code
        finally:
            GlobalHydra.instance().clear()
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err, sorted(str(path) for path in folder.rglob("*")))

    return run


def assert_one_line(outcome: Outcome, *parts: str) -> None:
    """Exit code 2, and one line on stderr that begins with `error: ` and holds every part."""
    assert outcome.code == 2, outcome.err
    assert outcome.err.startswith("error: "), outcome.err
    assert outcome.err.endswith("\n"), outcome.err
    assert outcome.err.count("\n") == 1, outcome.err
    assert "Traceback" not in outcome.err
    for part in parts:
        assert part in outcome.err


def case(*arguments: str, says: tuple[str, ...]):
    """A bad command line and what its message must say."""
    return pytest.param(arguments, says, id=" ".join(arguments).encode("unicode_escape").decode())


NAMES = [
    case("optimizer.lrr=1", says=("optimizer.lrr=1", "no such key", "Did you mean 'optimizer.lr'?")),
    case("polcy=softmax", says=("polcy=softmax", "Did you mean 'policy'?")),
    case(
        "policy=gausian",
        says=("policy=gausian", "gaussian, linear", "tabular_softmax", "Did you mean 'gaussian'?"),
    ),
    case("env=cartpol", says=("env=cartpol", "pendulum", "Did you mean 'cartpole'?")),
    case("optimizer=adm", says=("optimizer=adm", "sgd", "Did you mean 'adam'?")),
    case("baseline=leave_one", says=("baseline=leave_one", "batch_mean", "Did you mean 'leave_one_out'?")),
    case("algorithm=reinforc", says=("algorithm=reinforc", "Did you mean 'reinforce'?")),
    case("experiment=pendulum_reinforc", says=("experiment=pendulum_reinforc", "Did you mean 'pendulum_reinforce'?")),
    case("policy=", says=("policy=", "gaussian, linear_gaussian")),
    case("+unknown=1", says=("unknown=1", "no such key")),
    case("+optimizer.lrr=1", says=("optimizer.lrr=1", "Did you mean 'lr'?")),
    case("++optimizer.lrr=1", says=("optimizer.lrr=1", "Did you mean 'lr'?")),
    case("++unknown.deeper=1", says=("unknown", "no such key")),
    case("+policy.hidden=8", says=("policy.hidden=8", "Did you mean 'hidden_sizes'?")),
    case("logging.evry=2", says=("logging.evry=2", "Did you mean 'logging.every'?")),
    case("baseline.optimizer.lrr=1", says=("baseline.optimizer.lrr=1", "Did you mean 'baseline.optimizer.lr'?")),
    case("optimizer@baseline.optimizer=sgdd", says=("sgdd", "Did you mean 'sgd'?")),
    case("hydra=foo", says=("hydra=foo",)),
    case("hydra.foo=1", says=("hydra.foo=1", "no such key")),
    case("~nothing", says=("nothing", "no such key")),
    case("~policy", says=("policy", "is required")),
    case("~optimizer.lr", says=("optimizer.lr",)),
]

TYPES = [
    case("optimizer.lr=abc", says=("optimizer.lr=abc", "must be a number")),
    case("env.gamma=high", says=("env.gamma=high", "must be a number")),
    case("seed=1.5", says=("seed=1.5", "must be a whole number")),
    case("seed=true", says=("seed=true", "must be a whole number")),
    case("seed=''", says=("seed=''", "must be a whole number")),
    case("seed=null", says=("seed=null",)),
    case("total_env_steps=1e3", says=("total_env_steps=1e3", "must be a whole number")),
    case("policy.hidden_sizes=8", says=("policy.hidden_sizes=8",)),
    case("policy.hidden_sizes=null", says=("policy.hidden_sizes=null",)),
    case("policy.hidden_sizes=[1.5]", says=("policy.hidden_sizes=[1.5]", "must be a whole number")),
    case("policy.hidden_sizes=[wide]", says=("policy.hidden_sizes=[wide]", "must be a whole number")),
    case("policy.hidden_sizes={a:1}", says=("policy.hidden_sizes={a:1}",)),
    case("optimizer.betas=[a,b]", says=("optimizer.betas=[a,b]", "must be a number")),
    case("logging.tensorboard=maybe", says=("logging.tensorboard=maybe",)),
    case("evaluation=3", says=("evaluation=3",)),
    case("logging=null", says=("logging=null",)),
    case("hydra.job.chdir=maybe", says=("hydra.job.chdir=maybe",)),
]

RANGES = [
    case("env.gamma=1.2", says=("env.gamma=1.2", "must be from 0 to 1")),
    case("env.gamma=-0.1", says=("env.gamma=-0.1", "must be from 0 to 1")),
    case("env.gamma=nan", says=("env.gamma=nan", "must be a finite number")),
    case("optimizer.lr=inf", says=("optimizer.lr=inf", "must be a finite number")),
    case("optimizer.lr=1e400", says=("optimizer.lr=inf", "must be a finite number")),
    case("optimizer.lr=-1", says=("optimizer.lr=-1", "must be at least 0")),
    case("optimizer.max_gradient_norm=0", says=("optimizer.max_gradient_norm=0", "must be above 0")),
    case("optimizer.betas=[2,0.9]", says=("optimizer.betas=2", "must be at least 0 and below 1")),
    case("optimizer.betas=[0.9,1.0]", says=("optimizer.betas=1.0", "must be at least 0 and below 1")),
    case("env.num_envs=0", says=("env.num_envs=0", "must be from 1 to 100000")),
    case("env.reward_scale=0", says=("env.reward_scale=0", "must be above 0")),
    case("env.max_episode_steps=0", says=("env.max_episode_steps=0", "must be at least 1")),
    case("env=navigation", "env.start_noise=0.1", says=("env.start_noise=0.1", "must be from 0 to 0.05")),
    case("policy.initial_std=0", says=("policy.initial_std=0", "must be above 0")),
    case("policy.hidden_sizes=[0]", says=("policy.hidden_sizes=0", "must be from 1 to 100000")),
    case("policy.hidden_sizes=[8,-3]", says=("policy.hidden_sizes=-3", "must be from 1 to 100000")),
    case("baseline.updates_per_iteration=0", says=("baseline.updates_per_iteration=0", "must be from 1 to 100000")),
    case("baseline.optimizer.lr=-1", says=("baseline.optimizer.lr=-1", "must be at least 0")),
    case("seed=-1", says=("seed=-1", "must be from 0 to 9223372036854775807")),
    case("seed=99999999999999999999", says=("seed=99999999999999999999", "must be from 0 to")),
    case("total_env_steps=0", says=("total_env_steps=0", "must be at least 1")),
    case("evaluation.episodes=0", says=("evaluation.episodes=0", "must be from 1 to 1000000")),
    case("evaluation.every=-1", says=("evaluation.every=-1", "must be at least 0")),
    case("checkpoint.every=-1", says=("checkpoint.every=-1", "must be at least 0")),
    case("logging.every=0", says=("logging.every=0", "must be at least 1")),
]

WORDS = [
    case("policy.activation=reluu", says=("policy.activation=reluu", "relu, tanh", "Did you mean 'relu'?")),
    case("policy.activation=''", says=("policy.activation=", "relu, tanh")),
    case("policy.activation='日本'", says=("policy.activation=日本", "relu, tanh")),
    case("optimizer.schedule=linearr", says=("optimizer.schedule=linearr", "cosine", "Did you mean 'linear'?")),
    case("algorithm.entropy_schedule=kl_adaptive", says=("algorithm.entropy_schedule=kl_adaptive", "linear, cosine")),
    case(
        "baseline.optimizer.schedule=kl_adaptive",
        says=("baseline.optimizer.schedule=kl_adaptive", "constant, linear or cosine"),
    ),
    case("device=gpu", says=("device=gpu", "must be one of cpu, cuda, cuda:N", "Did you mean 'cpu'?")),
    case("device=cuda:N", says=("device=cuda:N", "must be one of cpu, cuda, cuda:N")),
    case("device=mps", says=("device=mps", "must be one of cpu, cuda, cuda:N")),
    case("dtype=float16", says=("dtype=float16", "float32, float64")),
    case("logging.progress=fancy", says=("logging.progress=fancy", "auto, rich, plain, none")),
]

FITS = [
    case("policy=softmax", says=("policy=softmax", "needs discrete actions", "fitting: gaussian")),
    case("env=cartpole", says=("policy=gaussian", "needs continuous actions", "fitting: softmax")),
    case("env=navigation_discrete", says=("policy=gaussian", "needs continuous actions", "fitting: softmax")),
    case(
        "policy=tabular_softmax",
        "env=cartpole",
        says=("policy=tabular_softmax", "finitely many states", "fitting: softmax"),
    ),
    case("policy=beta", "env=cartpole", says=("policy=beta", "finite bounds", "softmax, linear_softmax, auto")),
    case("policy.fixed_std=true", "policy.state_dependent_std=true", says=("policy.fixed_std=True", "choose one")),
    case(
        "env=gymnasium",
        "env.id=FrozenLake-v1",
        says=("policy=gaussian", "4 discrete", "fitting: softmax, tabular_softmax"),
    ),
]

GYMNASIUM = [
    case(*SOFTMAX_ON_GYMNASIUM, says=("env.id", "is required")),
    case(*SOFTMAX_ON_GYMNASIUM, "env.id=CartPol-v1", says=("env.id=CartPol-v1", "Did you mean 'CartPole-v1'?")),
    case(*SOFTMAX_ON_GYMNASIUM, "env.id=CartPole-v99", says=("env.id=CartPole-v99", "Did you mean 'CartPole-v1'?")),
    case(
        *SOFTMAX_ON_GYMNASIUM,
        "env.id=pg_experiments/Navigation-v7",
        says=("env.id=pg_experiments/Navigation-v7", "Did you mean 'pg_experiments/Navigation-v0'?"),
    ),
    case(*SOFTMAX_ON_GYMNASIUM, "env.id='日本-v1'", says=("env.id=日本-v1", "no such environment")),
    case(*SOFTMAX_ON_GYMNASIUM, "env.id=", says=("env.id=", "no such environment")),
    case(*SOFTMAX_ON_GYMNASIUM, "env.id=no_such_module:Env-v0", says=("env.id=no_such_module:Env-v0",)),
    case(
        *SOFTMAX_ON_GYMNASIUM,
        "env.id=CartPole-v1",
        "env.kwargs.gravitas=1",
        says=("env.kwargs.gravitas=1", "CartPole-v1 takes no gravitas; it has sutton_barto_reward, render_mode"),
    ),
    case(*SOFTMAX_ON_GYMNASIUM, "env.id=CartPole-v1", "env.kwargs=3", says=("env.kwargs=3",)),
    case(*SOFTMAX_ON_GYMNASIUM, "env.id=Blackjack-v1", says=("env.max_episode_steps", "Blackjack-v1", "give one")),
    case(
        *SOFTMAX_ON_GYMNASIUM,
        "env.id=Blackjack-v1",
        "env.max_episode_steps=9",
        "policy=gaussian",
        says=("policy=gaussian", "2 discrete actions"),
    ),
]

TARGETS = [
    case(TORCH, says=("optimizer._target_", "is required")),
    case(TORCH, "optimizer._target_=torch.optim.LBFGS", says=("optimizer._target_=torch.optim.", "LBFGS")),
    case(TORCH, "optimizer._target_=torch.optim.Adafactor", says=("optimizer._target_=torch.optim.Adafactor", "AdamW")),
    case(TORCH, "optimizer._target_=torch.optim.ASGD", says=("optimizer._target_=torch.optim.", "ASGD", "AdamW")),
    case(TORCH, "optimizer._target_=torch.optim.Adammm", says=("torch.optim.Adammm", "Did you mean 'Adam'?")),
    case(TORCH, "optimizer._target_=", says=("optimizer._target_=", "package.module.Name")),
    case(TORCH, "optimizer._target_=no_such.Thing", says=("optimizer._target_=no_such.Thing", "cannot import no_such")),
    case("policy._target_=no_such.Thing", says=("policy._target_=no_such.Thing", "cannot import no_such")),
    case("baseline._target_=Thing", says=("baseline._target_=Thing", "package.module.Name")),
    case("optimizer.kwargs.amsgard=true", says=("optimizer", "Adam", "unexpected keyword argument 'amsgard'")),
    case("optimizer=sgd", "optimizer.nesterov=true", says=("optimizer.nesterov=True", "optimizer.momentum above 0")),
]

SYNTAX = [
    case("foo", says=("foo",)),
    case("seed=[1", says=("[1",)),
    case("seed ü", says=("seed ü",)),
    case("optimizer.lr=ü", says=("optimizer.lr=ü",)),
    case("seed=1,2", says=("seed=1,2", "--multirun")),
]


UNLIKELY = [
    case("policy=null", says=("policy=null", "gaussian")),
    case("policy=3", says=("policy=3", "gaussian")),
    case("baseline.optimizer=adam", says=("baseline.optimizer=adam", "optimizer@baseline.optimizer=adam")),
    case("optimizer.betas=[0.9]", says=("optimizer.betas=[0.9]", "must have 2 items")),
    case("optimizer.kwargs.capturable=true", says=("optimizer", "Adam", "capturable")),
    case("hydra/job_logging=loud", says=("hydra/job_logging=loud", "none")),
    case("policy.activation='relu\n'", says=("policy.activation=relu", "Did you mean 'relu'?")),
    case("seed=[1", says=("seed=[1",)),
    case("foo", says=("foo: must be key=value",)),
    case("env._target_=builtins.dict", says=("env._target_=builtins.dict",)),
    case(TORCH, "optimizer._target_=..Adam", says=("optimizer._target_=..Adam", "package.module.Name")),
    case(*SOFTMAX_ON_GYMNASIUM, "env.id='CartPole-v1:x:y'", says=("env.id=CartPole-v1:x:y",)),
    case(*SOFTMAX_ON_GYMNASIUM, "env.id=FrozenLake-v1", "env.kwargs.map_name=5x5", says=("env.kwargs", "5x5")),
    case(*SOFTMAX_ON_GYMNASIUM, "env.id=no_such:Env-v0", says=("env.id=no_such:Env-v0", "cannot import no_such")),
]


@pytest.mark.parametrize(
    ("arguments", "says"), [*NAMES, *TYPES, *RANGES, *WORDS, *FITS, *GYMNASIUM, *TARGETS, *SYNTAX, *UNLIKELY]
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(run_train, arguments, says):
    own = {argument.partition("=")[0] for argument in arguments}
    outcome = run_train(*arguments, *(item for item in TINY if item.partition("=")[0] not in own))
    assert_one_line(outcome, *says)
    assert outcome.out == ""
    assert outcome.files == []


def test_an_output_folder_below_a_regular_file_cannot_be_written(run_train, tmp_path):
    (tmp_path / "file").write_text("")
    outcome = run_train(f"hydra.run.dir={tmp_path / 'file' / 'run'}", *TINY)
    assert_one_line(outcome, str(tmp_path / "file" / "run"), "cannot be written", "Not a directory")
    assert outcome.files == []


def test_a_folder_that_holds_a_run_is_refused_before_anything_in_it_is_touched(run_train, tmp_path):
    used = tmp_path / "used"
    (used / ".hydra").mkdir(parents=True)
    (used / "result.json").write_text("{}")
    (used / ".hydra" / "config.yaml").write_text("as it was")
    before = {path: path.stat().st_mtime_ns for path in used.rglob("*")}
    outcome = run_train(f"hydra.run.dir={used}", *TINY)
    assert_one_line(outcome, f"hydra.run.dir={used}", "holds a run already")
    assert {path: path.stat().st_mtime_ns for path in used.rglob("*")} == before
    assert outcome.files == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
@pytest.mark.parametrize("flags", [(), ("-m", "seed=1,2"), ("-m", "seed=1,2", "hydra/launcher=basic")])
def test_a_device_that_is_not_there_stops_before_any_work(run_train, flags):
    outcome = run_train(*flags, "device=cuda:1", *TINY)
    assert_one_line(outcome, "device=cuda:1: is not there: torch", "must be cpu here")
    assert outcome.files == []


@pytest.mark.parametrize("group", ["policy", "baseline"])
@pytest.mark.parametrize("flags", [(), ("-m", "seed=1,2")])
def test_networks_that_do_not_fit_into_the_memory_are_refused_with_both_sizes(run_train, group, flags):
    outcome = run_train(*flags, f"{group}.hidden_sizes=[100000,100000]", *TINY)
    gigabytes = 8 * 4 * (100_000**2 + 100_000 * 6) / 1e9  # eight copies, of weights and of a few vectors
    assert_one_line(outcome, f"{group}.hidden_sizes=[100000, 100000]", f"need {gigabytes:.1f} GB", "GB (", "available")
    assert outcome.files == []


def test_the_python_api_refuses_too_many_runs_for_the_memory(monkeypatch):
    monkeypatch.setattr("pg_experiments.sizing.available_bytes", lambda device: 1e6)
    configs = [compose(*TINY, f"seed={seed}") for seed in range(10)]
    with pytest.raises(ConfigError, match=r"^policy.hidden_sizes=\[64, 64\]: the parameters of 10 runs .* need"):
        train(configs)
    assert len(train(configs[:1])) == 1


@pytest.mark.parametrize(
    "choice",
    [
        ("hydra/sweeper=basic",),
        ("hydra/sweeper=basic", "hydra/launcher=basic"),
        ("hydra/launcher=basic",),
        ("hydra.sweeper.max_batch_size=1",),
    ],
)
def test_one_bad_value_of_a_sweep_is_found_before_its_folder_is_made(run_train, choice):
    own = [item for item in TINY if "progress" not in item]
    outcome = run_train("-m", "seed=1,2", "optimizer.lr=0.1,-1", *choice, *own)
    assert_one_line(outcome, "optimizer.lr=-1", "must be at least 0")
    assert outcome.files == []


@pytest.mark.parametrize("values", ["choice(0.1,-1)", "interval(-1,1)", "'tag(log,interval(0.1,1e400))'", "0.1,nan"])
def test_every_value_that_a_search_may_choose_is_checked_before_its_first_trial(run_train, values):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra optuna")
    outcome = run_train("-m", "hydra/sweeper=optuna", f"optimizer.lr={values.strip(chr(39))}", *TINY)
    assert_one_line(outcome, "optimizer.lr=")
    assert outcome.files == []


def test_cfg_shows_also_what_could_not_be_trained_but_nothing_that_cannot_be_composed(run_train):
    shown = run_train("--cfg", "job", "optimizer.lr=-1", "policy=softmax")
    assert (shown.code, shown.err) == (0, "")
    assert "lr: -1.0" in shown.out
    assert_one_line(run_train("--cfg", "job", "optimizer.lrr=1"), "optimizer.lrr=1", "Did you mean 'optimizer.lr'?")
    assert_one_line(run_train("--cfg", "job", "optimizer.lr=abc"), "optimizer.lr=abc", "must be a number")
    assert_one_line(run_train("--cfg", "job", "--resolve", "optimizer.lr=${nothing}"), "nothing")
    assert shown.files == []


@pytest.mark.parametrize("flag", ["--nothing", "--config-dir=nothing", "--config-name=nothing", "--cfg=all3"])
def test_a_flag_that_cannot_be_used_is_one_line(run_train, flag):
    assert_one_line(run_train(flag, *TINY), flag.partition("=")[2] or flag)


def test_control_characters_do_not_reach_the_terminal(run_train):
    outcome = run_train("\x1b[31mred\x1b[0m\u2028\r", *TINY)
    assert_one_line(outcome, "\\x1b[31mred\\x1b[0m\\u2028\\r")


def test_the_later_of_two_overrides_of_one_key_holds(run_train):
    assert_one_line(run_train("seed=3", "seed=-4", *TINY), "seed=-4")
    assert_one_line(run_train("seed=abc", "seed=3", *TINY), "seed=abc")


def test_a_mistake_in_the_python_api_is_a_user_error_with_the_same_line():
    with pytest.raises(ConfigError, match=r"^optimizer\.lrr=1: there is no such key\. Did you mean 'optimizer\.lr'\?$"):
        compose("optimizer.lrr=1")
    with pytest.raises(ConfigError, match=r"^env\.gamma=1\.2: must be from 0 to 1$"):
        compose("env.gamma=1.2")
    with pytest.raises(UserError, match=r"^policy=softmax: needs discrete actions"):
        train([compose("policy=softmax", "env=pendulum")])


def test_a_mistake_names_its_key_as_an_attribute():
    with pytest.raises(ConfigError) as caught:
        compose("env.gamma=1.2")
    assert caught.value.key == "env.gamma"


def test_the_nearest_choice_is_left_out_when_none_is_near():
    assert nearest("sotfmax", ["softmax", "gaussian"]) == " Did you mean 'softmax'?"
    assert nearest("zzz", ["softmax", "gaussian"]) == ""


# --- evaluate ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder of a tiny finished run."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    train([compose(*TINY, "logging.tensorboard=false", "policy.hidden_sizes=[5]")], [folder])
    return folder


@pytest.fixture
def copied(trained, tmp_path) -> Path:
    """A copy of it, to be damaged."""
    folder = tmp_path / "copy"
    for path in [path for path in trained.rglob("*") if path.is_file()]:
        target = folder / path.relative_to(trained)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return folder


@pytest.fixture
def run_evaluate(capfd):
    """Call the evaluation command, in process."""

    def run(*arguments: str | Path) -> Outcome:
        code = 0
        try:
            evaluate_main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err, [])

    return run


def test_evaluating_a_folder_that_is_no_run_says_so(run_evaluate, tmp_path):
    assert_one_line(run_evaluate(tmp_path), str(tmp_path), "not a run's folder")
    missing = tmp_path / "missing"
    assert_one_line(run_evaluate(missing), str(missing), "there is no such folder")


def test_evaluating_a_run_without_a_checkpoint_names_the_missing_file(run_evaluate, copied):
    (copied / "checkpoints" / "last.pt").unlink()
    assert_one_line(run_evaluate(copied), str(copied), "checkpoints/last.pt")


def _garbage(path: Path) -> None:
    path.write_bytes(os.urandom(1000))


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-700])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [_garbage, _truncated, _empty])
def test_a_damaged_checkpoint_cannot_be_read(run_evaluate, copied, damage):
    path = copied / "checkpoints" / "last.pt"
    damage(path)
    assert_one_line(run_evaluate(copied), str(path), "cannot be read")
    with pytest.raises(UserError, match="cannot be read"):
        load_policy(copied)


def test_a_checkpoint_that_runs_code_is_refused(run_evaluate, copied):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (copied / "trapped",))

    path = copied / "checkpoints" / "last.pt"
    torch.save({"policy": Trap()}, path)
    assert_one_line(run_evaluate(copied), str(path), "cannot be read")
    assert not (copied / "trapped").exists()


def test_a_checkpoint_of_another_shape_names_the_tensor_that_does_not_fit(run_evaluate, copied):
    config = copied / ".hydra" / "config.yaml"
    text = config.read_text()
    assert text.count("- 5\n") == 1
    config.write_text(text.replace("- 5\n", "- 6\n"))
    assert_one_line(run_evaluate(copied), str(copied), "does not fit the config", "should be (1, 3, 6)")


@pytest.mark.parametrize("text", ["", "policy: [", "policy: 3\n", "seed: 3\n", "- 1\n"])
def test_a_damaged_config_of_a_run_is_one_line(run_evaluate, copied, text):
    (copied / ".hydra" / "config.yaml").write_text(text)
    assert_one_line(run_evaluate(copied), str(copied))


def test_a_wrong_value_in_a_runs_config_is_one_line_that_names_it(run_evaluate, copied):
    config = copied / ".hydra" / "config.yaml"
    config.write_text(re.sub("gamma: [0-9.]+\n", "gamma: 1.9\n", config.read_text()))
    assert_one_line(run_evaluate(copied), "env.gamma=1.9", "must be from 0 to 1")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--episodes", "0"), "--episodes=0: must be from 1 to 1000000"),
        (("--episodes", "-3"), "--episodes=-3: must be from 1 to 1000000"),
        (("--episodes", "many"), "argument --episodes"),
        (("--seed", "1.5"), "argument --seed"),
        (("--nothing",), "--nothing"),
    ],
)
def test_a_wrong_evaluation_option_exits_with_2_and_names_it(run_evaluate, trained, arguments, says):
    outcome = run_evaluate(trained, *arguments)
    assert outcome.code == 2
    assert says in outcome.err.splitlines()[-1]
    assert outcome.out == ""


def test_a_mistake_in_a_real_process_exits_with_2_and_no_traceback(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(pg_experiments.__file__).parents[1])}
    process = subprocess.run(
        [sys.executable, "-m", "pg_experiments.train", "optimizer.lrr=1"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.returncode == 2
    assert process.stdout == ""
    assert process.stderr == "error: optimizer.lrr=1: there is no such key. Did you mean 'optimizer.lr'?\n"
    assert list(tmp_path.iterdir()) == []
