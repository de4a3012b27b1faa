"""What the training command leaves in a folder is read back by every other command, with every option."""

import pytest
from commands import call
from test_config import FILES, PARTNERS
from test_run_folder import run_train

from pg_experiments import compose, load_policy
from pg_experiments.config import differences
from pg_experiments.evaluate import main as evaluate_main
from pg_experiments.report import main as report_main
from pg_experiments.saved_config import load_config

TYPE_CHECKS = False  # see conftest.py
READ_BACK = [f"{group}/{option}" for group, option in FILES if group != "env"]  # those are in `test_backends.py`


@pytest.mark.parametrize("choice", READ_BACK)
def test_a_run_of_the_command_is_resumed_evaluated_reported_and_loaded_with_every_option(choice, tmp_path, capsys):
    """What `train` in Python writes is resolved; what the command leaves holds references, which are read."""
    own = (choice.replace("/", "="), *PARTNERS.get(choice, ()), "total_env_steps=1", "evaluation.episodes=1")
    command = (*own, "hydra.run.dir=run", "checkpoint.resume=true", "logging.progress=none")
    assert run_train(tmp_path, *command) == 0, capsys.readouterr().err
    assert run_train(tmp_path, *command) == 0, capsys.readouterr().err
    assert not differences(load_config(tmp_path / "run", ["own_spaces"]), compose(*own))
    capsys.readouterr()
    trust = ("--trust", "own_spaces")
    evaluated = call(evaluate_main, capsys, [tmp_path / "run", "--episodes", "1", *trust])
    assert (evaluated.code, evaluated.err) == (0, "")
    reported = call(report_main, capsys, [tmp_path / "run"])
    assert (reported.code, reported.err) == (0, "")
    assert load_policy(tmp_path / "run", trust="own_spaces").names


def test_a_reference_to_a_reference_is_read_back(tmp_path, capsys):
    chain = ("baseline=value_network", "baseline.optimizer.lr=${optimizer.lr}", "env=cartpole", "policy=softmax")
    own = (*chain, "total_env_steps=1", "evaluation.episodes=1")
    assert run_train(tmp_path, *own, "hydra.run.dir=run", "logging.progress=none") == 0, capsys.readouterr().err
    assert "lr: ${optimizer.lr}" in (tmp_path / "run" / ".hydra" / "config.yaml").read_text()
    assert load_config(tmp_path / "run").baseline.optimizer.lr == compose(*own).optimizer.lr
