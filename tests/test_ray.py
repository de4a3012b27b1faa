"""The backend `ray` on a real cluster of two nodes on this machine, one of which dies."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sweep_process import (
    SMALL,
    TINY,
    alone,
    finish,
    has_reported,
    hashes,
    results,
    start,
    sweep,
    training_processes,
    wait_until,
)

pytest.importorskip("ray", reason="needs the extra ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of Ray itself, in this process, where the cluster is started
]

TWO_BATCHES = ("hydra.launcher.backend=ray", "hydra.launcher.max_runs_per_batch=2", "seed=range(4)")
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head and a second node with one processor each, which know nothing of this checkout."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    nodes = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
    nodes.add_node(**NODE)
    nodes.wait_for_nodes()
    try:
        yield nodes
    finally:
        nodes.shutdown()


def processes_of(node: Any) -> list[int]:
    """The raylet of a node and all that it has started, its workers among them."""
    import psutil  # comes with Ray

    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return [raylet.pid, *(child.pid for child in raylet.children(recursive=True))]


def test_a_node_that_dies_in_mid_sweep_loses_nothing(cluster: Any, tmp_path: Path) -> None:
    longer = (*SMALL, "total_env_steps=60000")
    process = start(tmp_path, *longer, *TWO_BATCHES, f"hydra.launcher.ray.address={cluster.address}")
    try:
        wait_until(process, lambda: has_reported(tmp_path, 2))
        (second,) = cluster.worker_nodes
        dying = processes_of(second)
        on_second = {name for name, pid in training_processes(tmp_path).items() if pid in dying}
        for pid in dying:
            os.kill(pid, signal.SIGKILL)
    finally:
        ended = finish(process)
    assert ended.returncode == 0, ended.stderr
    assert len(on_second) == 2
    assert "a worker is lost: Ray: " in ended.stdout
    assert "Raylet is terminated" not in ended.stdout + ended.stderr
    now = training_processes(tmp_path)
    assert not {now[name] for name in on_second} & set(dying)
    assert {result["status"] for result in results(tmp_path).values()} == {"completed"}
    assert hashes(tmp_path) == {f"seed={seed}": alone(*longer, f"seed={seed}") for seed in range(4)}


def test_ctrl_c_leaves_interrupted_runs(cluster: Any, tmp_path: Path) -> None:
    address = f"hydra.launcher.ray.address={cluster.address}"
    process = start(tmp_path, *SMALL, "total_env_steps=1000000000", *TWO_BATCHES, address)
    try:
        wait_until(process, lambda: has_reported(tmp_path, 2))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        finish(process)
    assert process.returncode == 130, err
    assert err == ""
    assert "the same command with hydra.sweep.dir=sweep finishes what is missing" in out
    assert [result["status"] for result in results(tmp_path).values()] == ["interrupted"] * 4


def test_without_an_address_a_cluster_of_this_machine_finds_the_users_own_modules(tmp_path: Path) -> None:
    (tmp_path / "my_parts.py").write_text("from pg_experiments.baselines.none import NoBaseline as Mine\n")
    (tmp_path / "my_conf" / "baseline").mkdir(parents=True)
    (tmp_path / "my_conf" / "baseline" / "mine.yaml").write_text("_target_: my_parts.Mine\n")
    ended = sweep(
        tmp_path,
        "--config-dir=my_conf",
        *TINY,
        "baseline=mine",
        "hydra.launcher.backend=ray",
        "hydra.launcher.ray.num_cpus=1",
        "seed=0,1",
        RAY_AUTH_MODE="disabled",
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert hashes(tmp_path) == {f"seed={seed}": alone(*TINY, "baseline=none", f"seed={seed}") for seed in range(2)}


def test_an_address_where_no_cluster_answers_is_one_line(tmp_path: Path) -> None:
    ended = sweep(tmp_path, *TINY, "hydra.launcher.backend=ray", "hydra.launcher.ray.address=127.0.0.1:1", "seed=0,1")
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: hydra.launcher.ray.address=127.0.0.1:1: no Ray cluster answers there")
    assert ended.stderr.endswith("start one with: ray start --head\n")
    assert len(ended.stderr.splitlines()) == 1
