"""The training loop when something goes wrong: a part that raises, an interruption at a bad moment, a used folder."""

import copy
import json

import pytest
import torch

from pg_experiments import Interrupted, UserError, compose, load_policy, train
from pg_experiments.batch import Batch, OneOf
from pg_experiments.envs.cartpole import CartPole

SMALL = (
    "policy=softmax",
    "env=cartpole",
    "env.num_envs=4",
    "optimizer.schedule=constant",  # so that a longer budget begins like a shorter one
    "baseline.optimizer.schedule=constant",
    "evaluation.episodes=3",
    "logging.progress=none",
)


def configs(*budgets: int):
    return [compose(*SMALL, f"seed={seed}", f"total_env_steps={budget}") for seed, budget in enumerate(budgets)]


def after(calls: int, error: BaseException, function):
    """`function`, but the call after `calls` others raises `error` instead."""
    counted = []

    def wrapped(*arguments, **named):
        counted.append(1)
        if len(counted) > calls:
            raise error
        return function(*arguments, **named)

    return wrapped


def test_an_environment_that_raises_fails_the_runs_with_its_reason_and_their_last_whole_state(tmp_path, monkeypatch):
    folders = [tmp_path / "0", tmp_path / "1"]
    monkeypatch.setattr(CartPole, "step", after(400, FileNotFoundError("model.xml"), CartPole.step))
    results = train(configs(10_000, 10_000), folders)
    for result, folder in zip(results, folders, strict=True):
        assert result.status == "failed"
        assert result.error == "FileNotFoundError: model.xml"
        assert result.iterations > 0
        assert json.loads((folder / "result.json").read_text())["error"] == result.error
        load_policy(folder)


def test_an_interruption_while_a_run_leaves_mixes_up_no_runs(tmp_path, monkeypatch):
    alone = [train([config])[0] for config in configs(200, 100_000)[:1]]
    with monkeypatch.context() as patch:
        patch.setattr(Batch, "end", after(0, KeyboardInterrupt(), Batch.end))
        with pytest.raises(Interrupted) as caught:
            train(configs(200, 100_000), [tmp_path / "0", tmp_path / "1"])
    first, second = caught.value.results
    assert (first.status, second.status) == ("interrupted", "interrupted")  # the first one awaits its evaluation
    assert first.evaluation is None
    assert first.parameters_sha256 == alone[0].parameters_sha256
    assert second.seed == 1
    assert second.parameters_sha256 == train(configs(200, second.env_steps)[1:])[0].parameters_sha256


def test_an_interruption_in_the_final_evaluation_keeps_the_last_iteration(monkeypatch):
    import pg_experiments.evaluation as evaluation

    whole = train(configs(200))[0]
    monkeypatch.setattr(evaluation, "evaluate_policy", after(0, KeyboardInterrupt(), evaluation.evaluate_policy))
    with pytest.raises(Interrupted) as caught:
        train(configs(200))
    (result,) = caught.value.results
    assert result.status == "interrupted"
    assert (result.env_steps, result.parameters_sha256) == (whole.env_steps, whole.parameters_sha256)


def test_a_folder_that_holds_a_run_is_not_used_again(tmp_path):
    train(configs(50), [tmp_path])
    before = (tmp_path / "result.json").read_bytes()
    with pytest.raises(UserError, match="holds a run already"):
        train(configs(60), [tmp_path])
    assert (tmp_path / "result.json").read_bytes() == before


def test_two_runs_cannot_share_a_folder(tmp_path):
    for dirs in ([tmp_path, tmp_path], [tmp_path, tmp_path / "." / "x" / ".."]):
        with pytest.raises(UserError, match="one folder per run: 2 configs, 1 different folders"):
            train(configs(50, 50), dirs)
    with pytest.raises(UserError, match="one folder per run"):
        train(configs(50), [tmp_path / "a", tmp_path / "a"])


def test_evaluations_do_not_wait_for_a_logged_iteration(tmp_path):
    config = compose(*SMALL, "total_env_steps=500", "logging.every=2", "evaluation.every=3")
    train([config], [tmp_path])
    header, *rows = (line.split(",") for line in (tmp_path / "metrics.csv").read_text().splitlines())
    column = header.index("evaluation/return_mean")
    assert {int(row[0]) for row in rows} >= {2, 3, 4}
    assert [int(row[0]) for row in rows if row[column]][:1] == [3]


def test_the_mean_of_one_return_is_refused_as_a_baseline():
    with pytest.raises(UserError, match=r"baseline=batch_mean: needs env.num_envs of at least 2"):
        train([compose("policy=softmax", "env=cartpole", "baseline=batch_mean", "env.num_envs=1")])


def test_training_leaves_the_number_of_threads_as_it_was():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        train(configs(50))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_run_that_ends_in_the_middle_of_its_episodes_is_never_taken_and_changes_no_other():
    """As when its checkpoint, due by time, cannot be written while the run is playing."""
    together = configs(*[3000] * 4)
    whole, left = Batch(together), Batch(together)
    while not (playing := left._rollout.playing):
        left.iterate()
    (run, *_) = playing
    left.end(run)
    others = [other for other in range(4) if other != run]
    count = left.iterations[run]
    for batch in (whole, left):
        while min(batch.iterations[other] for other in others) < 12:
            runs, _ = batch.iterate()
            assert batch is whole or run not in runs
            for other in runs:
                if batch.iterations[other] == 12:
                    batch.end(other)
    assert left.iterations[run] == count
    for name, parameter in whole.policy.parameters.items():
        assert torch.equal(parameter[others], left.policy.parameters[name][others])


def test_the_state_of_one_run_of_a_batch_is_that_of_the_run_alone_and_keeps_nothing_of_the_others():
    runs = [compose("policy=softmax", "env=cartpole", "env.num_envs=2", f"seed={seed}") for seed in range(3)]
    batch, alone = Batch(runs), Batch(runs[1:2])
    while batch.iterations[1] == 0:
        batch.iterate()
    while alone.iterations[0] == 0:
        alone.iterate()
    state, expected = dict(OneOf(batch.state(), 1)), alone.state()
    assert state.keys() == expected.keys()
    found, wanted = dict(leaves(state)), dict(leaves(expected))
    assert found.keys() == wanted.keys()
    for name, part in found.items():
        assert torch.equal(part, wanted[name]), name
        assert part.untyped_storage().nbytes() == part.nbytes, name


def leaves(tree, name=""):
    """Every tensor of a state, by the keys that lead to it."""
    if isinstance(tree, torch.Tensor):
        yield name, tree
    elif tree is not None:
        for key, part in tree.items():
            yield from leaves(part, f"{name}.{key}")


@pytest.mark.parametrize("algorithm", ["reinforce", "ppo"])
def test_a_state_of_a_batch_stays_as_it_is_while_runs_learn_together_or_alone(algorithm: str) -> None:
    settings = ("policy=softmax", "env=cartpole", "env.num_envs=2", f"algorithm={algorithm}")
    batch = Batch([compose(*settings, f"seed={seed}") for seed in range(3)])
    states, copies = [], []
    for turn in range(8):
        states.append(batch.state())
        copies.append(copy.deepcopy(states[-1]))
        if turn == 4:
            batch.end(1)
        batch.iterate()
    for state, before in zip(states, copies, strict=True):
        torch.testing.assert_close(state, before, rtol=0, atol=0)
