"""The export command: every policy in every format acts as the original; what cannot be exported is said in a line."""

import logging
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import Ended, call

from pg_experiments import compose, load_policy, train
from pg_experiments.config import SCHEMAS, config_sha256
from pg_experiments.envs.interface import BoxActions, DiscreteActions
from pg_experiments.export import FORMAT_NAMES, README, main
from pg_experiments.exporting.check import OBSERVATIONS, TOLERANCE, Check, compare, sample_observations
from pg_experiments.exporting.formats import FORMATS, read, write
from pg_experiments.policies.networks import ACTIVATIONS
from pg_experiments.policies.standalone import ACTIVATION_MODULES
from pg_experiments.runs import DTYPES, build, stack

TYPE_CHECKS = False  # see conftest.py

SEED = 71
TINY = (
    "env.num_envs=4",
    "env.max_episode_steps=20",
    "total_env_steps=1",
    "evaluation.episodes=2",
    "logging.progress=none",
    "logging.tensorboard=false",
    "baseline=none",
    f"seed={SEED}",
)
DOORS = ("env=gymnasium", "env.id=masked_envs:GymnasiumDoors-v0", "env.action_mask=true")
OWN_SPACES = ("env=gymnasium", "env.id=own_spaces:OwnSpaces-v0")
NORMALIZED = "env.wrappers=[normalize_observation]"
VARIANTS = {  # by name, which begins with the policy's: every policy, and what changes its computation
    "softmax": ("policy=softmax", "env=cartpole", "policy.activation=tanh"),
    "softmax of five actions, normalised": ("policy=softmax", "env=navigation_discrete", NORMALIZED),
    "softmax without hidden layers": ("policy=softmax", "env=cartpole", "policy.hidden_sizes=[]", "dtype=float64"),
    "gaussian": ("policy=gaussian", "env=pendulum", "policy.activation=elu", "dtype=float64"),
    "gaussian, normalised, with its own std": (
        "policy=gaussian",
        "env=navigation",
        "policy.state_dependent_std=true",
        "policy.activation=sigmoid",
        NORMALIZED,
    ),
    "gaussian with a fixed std": ("policy=gaussian", "env=pendulum", "policy.fixed_std=true"),
    "tabular_softmax": ("policy=tabular_softmax", "env=frozen_lake"),
    "softmax with masks, normalised": ("policy=softmax", *DOORS, NORMALIZED),
    "tabular_softmax with masks": (
        "policy=tabular_softmax",
        "env=gymnasium",
        "env.id=Taxi-v4",
        "env.action_mask=true",
    ),
    "multi_categorical with masks": ("policy=multi_categorical", *DOORS, "env.kwargs.several=true"),
    "linear_softmax": ("policy=linear_softmax", "env=cartpole"),
    "linear_gaussian": ("policy=linear_gaussian", "env=pendulum"),
    "squashed_gaussian": ("policy=squashed_gaussian", "env=pendulum", NORMALIZED),
    "beta": ("policy=beta", "env=navigation"),
    "von_mises": ("policy=von_mises", "env=pendulum"),
    "multi_categorical": ("policy=multi_categorical", *OWN_SPACES, "env.kwargs.kind=multi_discrete", NORMALIZED),
    "bernoulli": ("policy=bernoulli", *OWN_SPACES, "env.kwargs.kind=multi_binary"),
    "mixed": ("policy=mixed", *OWN_SPACES, "env.kwargs.kind=dict"),
    "mixed over the dimensions of a box": ("policy=mixed", "env=navigation", "policy.parts=[von_mises,beta]"),
    "auto": ("policy=auto", "env=pendulum"),
}


def larger(parameters: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Parameters of which no two outputs are nearly the same, as they are after much training."""
    generator = torch.Generator().manual_seed(SEED)
    noise = {name: torch.randn(part.shape, generator=generator, dtype=part.dtype) for name, part in parameters.items()}
    return {
        name: part if name.startswith("observation_statistics") else part + 0.5 * noise[name]
        for name, part in parameters.items()
    }


@pytest.fixture(autouse=True)
def _handlers_of_other_tests_are_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library's log handler that was made in another test complains on stderr that its stream is closed."""
    monkeypatch.setattr(logging, "raiseExceptions", False)


@cache
def original(variant: str) -> tuple[Any, ...]:
    """Policy, parameters, environment and some observations."""
    config = compose(*VARIANTS[variant], *TINY)
    (result,) = train([config])
    policy = result.policy
    parameters = larger({each: policy.get_buffer(each.replace(".", "_")) for each in policy.names})
    env = build(stack([config])).env
    return policy.policy, parameters, env, sample_observations(policy.policy, parameters, env, DTYPES[config.dtype])


@pytest.mark.parametrize("format_name", FORMAT_NAMES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_exported_policy_acts_as_the_original(tmp_path: Path, variant: str, format_name: str) -> None:
    policy, parameters, env, observation = original(variant)
    chosen, path = FORMATS[format_name], tmp_path / "policy"
    write(chosen, policy.action_module(parameters), ("action", "how_sure"), observation[:3], path)
    act = read(chosen, path)
    found = compare(policy, parameters, env.spec, act, observation)
    assert found.passed, found
    assert found.observations == OBSERVATIONS
    action, how_sure = act(observation)
    if isinstance(env.spec.actions, BoxActions):
        low, high = (torch.tensor(bound) for bound in (env.spec.actions.low, env.spec.actions.high))
        assert bool(((action >= low) & (action <= high)).all())
        if "gaussian" in variant and "squashed" not in variant:
            assert bool(((action == low) | (action == high)).any()), "no action was clipped"
        assert how_sure.shape == action.shape
    elif not isinstance(env.spec.actions, DiscreteActions):
        assert len(action.unique(dim=0)) > 1
    else:
        assert action.dtype == torch.int64
        assert len(action.unique()) > 1
        torch.testing.assert_close(how_sure.sum(1), torch.ones(len(action), dtype=how_sure.dtype))


def test_every_policy_and_format_and_activation_is_exported() -> None:
    assert {name.split()[0].strip(",") for name in VARIANTS} == set(SCHEMAS["policy"])
    assert tuple(FORMATS) == FORMAT_NAMES
    assert set(ACTIVATION_MODULES) == set(ACTIVATIONS)
    used = {text.partition("activation=")[2] for overrides in VARIANTS.values() for text in overrides}
    assert used - {""} | {"relu"} == set(ACTIVATIONS)


def test_another_policy_does_not_pass_the_check() -> None:
    for variant in ("softmax", "gaussian"):
        policy, parameters, env, observation = original(variant)
        module = policy.action_module(larger(parameters))
        found = compare(policy, parameters, env.spec, module, observation)
        assert not found.passed
        assert found.deviation > 100 * TOLERANCE
    assert Check(1000, 0.0, 1).passed is False
    assert Check(1000, float("nan"), 0).passed is False


def test_a_small_change_of_one_number_does_not_pass_the_check() -> None:
    policy, parameters, env, observation = original("gaussian")
    changed = parameters | {"layer2.bias": parameters["layer2.bias"] + 1e-4}
    assert not compare(policy, parameters, env.spec, policy.action_module(changed), observation).passed


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    wrappers = "env.wrappers=[{repeat_action:{times:2}},{stack_frames:{frames:2}},time_awareness,normalize_observation]"
    train([compose("policy=gaussian", "env=pendulum", wrappers, *TINY)], [folder])
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> Ended:
    return call(main, capsys, arguments)


@pytest.mark.parametrize("format_name", FORMAT_NAMES)
def test_the_code_in_the_readme_runs_in_a_process_that_has_no_pg_experiments(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], format_name: str
) -> None:
    file = tmp_path / f"policy{FORMATS[format_name].suffix}"
    ended = run(capsys, trained, "--format", format_name, "--output", file)
    assert (ended.code, ended.err) == (0, "")
    assert re.search(r"checked: largest deviation \d\.\de[-+]\d\d on 1,000 observations\n$", ended.out)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([file.name, README])
    code = re.search(r"```python\n(.*?)```", (tmp_path / README).read_text(), re.DOTALL)[1]
    assert len(code.strip().splitlines()) == 5
    forbidden = "import sys; sys.modules['pg_experiments'] = None; import warnings; warnings.simplefilter('ignore')\n"
    answer = subprocess.run([sys.executable, "-c", forbidden + code], cwd=tmp_path, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    expected = load_policy(trained)(np.zeros(7))
    assert float(re.search(r"-?\d[\d.e-]*", answer.stdout)[0]) == pytest.approx(float(expected), abs=1e-4)


def test_the_readme_says_what_goes_in_and_out_and_what_has_to_be_done_around(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = run(capsys, trained, "--format", "torchscript")
    assert ended.code == 0, ended.err
    text = (trained / "export" / "torchscript" / README).read_text()
    assert "| in: `observation` | batch x 7 | float32 |" in text
    assert "| out: `action` | batch x 1 | float32 | to be sent, within -2 to 2 |" in text
    assert "(cos angle, sin angle, angular" in text
    places = [text.index(part) for part in ("Play every action 2 times", "Stack:", "Append the time", "t / 10")]
    assert places == sorted(places)
    assert config_sha256(compose("policy=gaussian", "env=pendulum")) not in text
    assert re.search(r"`config_sha256`\): `[0-9a-f]{64}`", text)
    assert "over 2 deterministic episodes" in text
    assert "1,000 observations" in text


@pytest.mark.parametrize(
    ("wrappers", "formula"),
    [
        ("time_awareness", "t / 10"),
        ("{repeat_action:{times:4}},time_awareness", "t / 3"),
        ("time_awareness,{repeat_action:{times:4}}", "4 t / 10"),
        ("{repeat_action:{times:2}},time_awareness,{repeat_action:{times:3}}", "3 t / 5"),
    ],
)
def test_the_time_in_the_readme_is_the_one_that_the_policy_has_seen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrappers: str, formula: str
) -> None:
    task = (*TINY, "env.max_episode_steps=10", f"env.wrappers=[{wrappers}]")
    config = compose("policy=softmax", "env=cartpole", *task)
    train([config], [tmp_path / "run"])
    assert run(capsys, tmp_path / "run", "--format", "torch").code == 0
    said = re.search(
        r"Append the time to the observation: (.*) before", (tmp_path / "run/export/torch" / README).read_text()
    )
    assert said[1] == formula
    factor, _, limit = said[1].partition("t / ")
    env = build(stack([config])).env
    state, observation = env.reset(torch.full((1, 1, env.spec.reset_noise_size), 0.5))
    running = torch.ones(1, 1, dtype=torch.bool)
    for decision in range(env.spec.max_episode_steps):
        assert observation[0, 0, -1].item() == pytest.approx(float(factor or 1) * decision / float(limit))
        state, observation, *_ = env.step(state, torch.full((1, 1), decision % 2), running)


def test_the_readme_keeps_the_mask_apart_from_what_is_stacked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrappers = "env.wrappers=[time_awareness,{stack_frames:{frames:3}}]"
    train([compose("policy=softmax", *DOORS, wrappers, *TINY)], [tmp_path / "run"])
    ended = run(capsys, tmp_path / "run", "--format", "torch", "--trust", "masked_envs")
    assert ended.code == 0, ended.err
    text = (tmp_path / "run/export/torch" / README).read_text()
    places = [text.index(part) for part in ("of the action_mask apart", "Append the time", "Stack:")]
    assert places == sorted(places)


@pytest.mark.parametrize("format_name", FORMAT_NAMES)
@pytest.mark.parametrize(
    "task",
    [
        ("env=pendulum", "env.max_episode_steps=1"),
        ("env=gymnasium", "env.id=own_spaces:OwnSpaces-v0", "env.kwargs.kind=whole_box", "env.max_episode_steps=1"),
    ],
)
def test_a_policy_whose_episodes_are_one_step_is_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], format_name: str, task: tuple[str, ...]
) -> None:
    """Nothing has been played when it is traced, so nothing that it keeps was made before."""
    train([compose("policy=gaussian", *TINY, *task)], [tmp_path / "run"])
    ended = run(capsys, tmp_path / "run", "--format", format_name, "--trust", "own_spaces")
    assert (ended.code, ended.err) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--format", "onx"], "--format=onx: must be one of onnx, torchscript, torch. Did you mean 'onnx'?"),
        (["--checkpoint", "iteration_7"], "no checkpoint iteration_7; there are "),
        (["--output", "."], "--output=.: is a folder; give the name of a file in it"),
        (["--output", "policy.onnx"], "--output=policy.onnx: must end in .ts"),
        (["--output", "README.md"], "--output=README.md: is the name of the text beside the policy"),
    ],
)
def test_a_mistake_costs_a_line_and_writes_nothing(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = run(capsys, trained, "--format", "torchscript", "--output", "policy.ts", *arguments)
    assert ended.code == 2
    assert re.fullmatch(r"error: [^\n]+\n", ended.err)
    assert says in ended.err
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_through_a_link_that_leads_out_of_somebodys_folder(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs, elsewhere = shutil.copytree(trained, tmp_path / "run"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.rmtree(theirs / "export", ignore_errors=True)  # of another test
    (theirs / "export").symlink_to(elsewhere)
    ended = run(capsys, theirs, "--format", "torchscript")
    assert ended.code == 2
    assert re.fullmatch(r"error: \S+policy.ts: leads out of [^\n]+\n", ended.err)
    assert list(elsewhere.iterdir()) == []


def test_a_folder_that_is_not_there_or_has_no_checkpoint_is_said(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = run(capsys, tmp_path / "nothing")
    assert (ended.code, ended.err) == (2, f"error: {tmp_path / 'nothing'}: there is no such folder\n")
    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    (tmp_path / "run" / ".hydra" / "config.yaml").write_text((trained / ".hydra" / "config.yaml").read_text())
    ended = run(capsys, tmp_path / "run")
    assert ended.code == 2
    assert "it has no checkpoints/last.pt" in ended.err


@pytest.mark.parametrize("module", FORMATS["onnx"].modules)
def test_without_the_extra_the_error_names_the_command(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], module: str
) -> None:
    monkeypatch.setattr("pg_experiments.exporting.formats.find_spec", lambda name: None if name == module else name)
    ended = run(capsys, trained, "--output", tmp_path / "policy.onnx")
    needs = "--format=onnx: needs the extra onnx: pip install 'pg_experiments[onnx]'"
    assert (ended.code, ended.err) == (2, f"error: {needs}\n")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_replaced_only_when_asked_for_and_another_readme_never(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "policy.ts"
    given = (trained, "--format", "torchscript", "--output", file)
    file.write_text("mine")
    ended = run(capsys, *given)
    assert (ended.code, file.read_text()) == (2, "mine")
    assert f"{file}: is there already; add --overwrite" in ended.err
    assert run(capsys, *given, "--overwrite").code == 0
    assert file.read_bytes() != b"mine"
    (tmp_path / README).write_text("# Mine\n")
    ended = run(capsys, *given, "--overwrite")
    assert (ended.code, (tmp_path / README).read_text()) == (2, "# Mine\n")
    assert "was not written by this command" in ended.err


def test_a_policy_that_acts_differently_is_not_written_and_the_old_file_stays(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "policy.ts"
    given = (trained, "--format", "torchscript", "--output", file, "--overwrite")
    assert run(capsys, *given).code == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def twice(path: Path) -> Any:
        act = torch.jit.load(str(path))
        return lambda observation: tuple(2 * output for output in act(observation))

    broken = FORMATS["torchscript"].__class__(**{**vars(FORMATS["torchscript"]), "read": twice})
    monkeypatch.setitem(FORMATS, "torchscript", broken)
    ended = run(capsys, *given)
    assert ended.code == 1
    assert re.fullmatch(r"error: --format=torchscript: the exported policy acts differently: [^\n]+\n", ended.err)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


OWN = '''
from pg_experiments.policies.gaussian import Gaussian


class Plain:
    """A policy without `action_module`."""

    def __init__(self, spec):
        import torch

        self._own = Gaussian(spec, (3,), "relu", False, torch.ones(1))
        for name in ("init", "actor", "draw_noise", "env_action"):
            setattr(self, name, getattr(self._own, name))

    def __call__(self, parameters, observation):
        return self._own(parameters, observation)
'''


def test_a_policy_of_the_users_needs_trust_and_an_action_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_parts_to_export.py").write_text(OWN)
    (tmp_path / "conf" / "policy").mkdir(parents=True)
    (tmp_path / "conf" / "policy" / "plain.yaml").write_text("_target_: own_parts_to_export.Plain\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = compose("policy=plain", "env=pendulum", *TINY, config_dir=str(tmp_path / "conf"))
    train([config], [tmp_path / "run"])
    ended = run(capsys, tmp_path / "run", "--format", "torchscript")
    assert ended.code == 2
    assert "policy._target_=own_parts_to_export.Plain" in ended.err
    assert "add --trust own_parts_to_export" in ended.err
    ended = run(capsys, tmp_path / "run", "--format", "torchscript", "--trust", "own_parts_to_export")
    assert ended.code == 2
    assert ended.err == "error: policy=Plain: has no action_module, see pg_experiments.policies.interface\n"
    assert not (tmp_path / "run" / "export").exists()
