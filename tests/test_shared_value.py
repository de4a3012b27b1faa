"""Policy and value in one network: its gradients against plain autograd, its runs alone, resumed, exported, refused."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from golden import SHARING, WITHOUT_HIDDEN_LAYERS, options
from test_fixed_rollouts import StopsAt
from test_resume import outcome
from test_runs_are_independent import assert_independent, assert_leave_at_different_times
from torch import Generator, Tensor

from pg_experiments import ConfigError, Interrupted, compose, load_policy, train
from pg_experiments.batch import Batch
from pg_experiments.config import Config
from pg_experiments.export import export
from pg_experiments.exporting.formats import FORMATS, read
from pg_experiments.optimizers import Learner
from pg_experiments.rollout import Trajectory
from pg_experiments.runs import build, stack

SEED = 67
QUIET = ("logging.progress=none", "logging.tensorboard=false", "evaluation.episodes=3")
TASKS = {
    "softmax": ("policy=softmax", "env=cartpole", "policy.activation=tanh"),
    "gaussian": ("policy=gaussian", "env=pendulum", "env.wrappers=[normalize_observation]"),
    "masked": ("policy=softmax", "env=gymnasium", "env.id=masked_envs:GymnasiumDoors-v0", "env.action_mask=true"),
    "images": ("policy=softmax", "policy.network=cnn", "env=gymnasium", "env.id=image_envs:Catch-v0"),
    "mixed": ("policy=mixed", "env=gymnasium", "env.id=own_spaces:OwnSpaces-v0", "env.kwargs.kind=dict"),
}
every_task = pytest.mark.parametrize("task", TASKS)
every_algorithm = pytest.mark.parametrize("algorithm", SHARING)


@cache
def base(task: str, algorithm: str, *overrides: str) -> Config:
    own = ("policy.hidden_sizes=[9,6]", "env.num_envs=3", "algorithm.rollout_steps=8", "total_env_steps=240")
    return compose(*TASKS[task], f"algorithm={algorithm}", "baseline=shared_value", *own, *QUIET, *overrides)


# one plain step, whose size is the gradient's
STEP = ("optimizer=sgd", "optimizer.lr=1", "optimizer.schedule=constant", "dtype=float64")
ALONE = {"actor_critic": (), "ppo": ("algorithm.epochs=1", "algorithm.minibatches=1")}


def one_update(config: Config) -> tuple[Batch, Trajectory, list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """A batch of one run, what it learned from, and its parameters before and after: of the policy, of the value."""
    batch, seen = Batch([config]), []
    learn = type(batch.parts.algorithm).learn

    def listening(self, policy, policy_learner, baseline, baseline_learner, episodes, trajectory, *others):
        seen.append(trajectory)
        return learn(self, policy, policy_learner, baseline, baseline_learner, episodes, trajectory, *others)

    def parameters() -> list[dict[str, Tensor]]:
        return [{name: part.clone() for name, part in one.parameters.items()} for one in (batch.policy, batch.baseline)]

    before = parameters()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(batch.parts.algorithm), "learn", listening)
        batch.iterate()
    return batch, seen[0], before, parameters()


@every_task
@every_algorithm
@pytest.mark.parametrize("coefficient", [0.0, 0.7])
def test_the_step_is_that_of_the_sum_of_both_losses(task, algorithm, coefficient):
    own = (f"baseline.coefficient={coefficient}", "algorithm.entropy_coefficient=0.01", "algorithm.gae_lambda=0.9")
    no_limit = ("algorithm.normalize_advantage=false", "algorithm.default_max_gradient_norm=null")
    config = base(task, algorithm, *STEP, *ALONE[algorithm], *own, *no_limit)
    batch, trajectory, before, after = one_update(config)
    policy, network = batch.parts.trained_policy, batch.parts.baseline.network
    of_policy, of_value = ({name: part.requires_grad_() for name, part in one.items()} for one in before)
    body = {name: of_policy[name] for name in network.names[:-2]}
    assert set(of_value) == set(network.names[-2:]), "the value has an output of its own, and nothing else"

    def value(observation: Tensor) -> Tensor:
        return network(body | of_value, observation.flatten(1, 2))[..., 0].view(observation.shape[:3])

    values, following = value(trajectory.observation), value(trajectory.next_observation).detach()
    reward, gamma = trajectory.reward * config.env.reward_scale, config.env.gamma
    error = reward + gamma * following * ~trajectory.terminated - values.detach()
    carried = 0.9 * gamma * (~(trajectory.terminated | trajectory.truncated)).double()
    advantage = error.clone()
    for step in reversed(range(reward.shape[1] - 1)):
        advantage[:, step] += carried[:, step] * advantage[:, step + 1]
    distribution = policy(of_policy, trajectory.observation.flatten(1, 2))
    log_prob = distribution.log_prob(trajectory.action.flatten(1, 2)).view(advantage.shape)
    policy_loss = -(log_prob * advantage).mean() - 0.01 * distribution.entropy().mean()
    value_loss = (values - (values.detach() + advantage)).square().mean()
    leaves = [*of_policy.values(), *of_value.values()]
    gradient = torch.autograd.grad(policy_loss + coefficient * value_loss, leaves, materialize_grads=True)
    names = [(0, name) for name in of_policy] + [(1, name) for name in of_value]
    for (place, name), part in zip(names, gradient, strict=True):
        stepped = before[place][name].detach() - part
        torch.testing.assert_close(after[place][name], stepped, rtol=1e-9, atol=1e-9)
    assert any(bool((part != 0).any()) for part in gradient[-2:]) is (coefficient > 0)


@every_task
@every_algorithm
def test_each_run_is_the_run_alone(task, algorithm):
    configs = [
        replace(
            base(task, algorithm),
            seed=SEED + run,
            total_env_steps=48 + 96 * (run % 3),
            baseline=replace(base(task, algorithm).baseline, coefficient=0.2 * run),
        )
        for run in range(4)
    ]
    results = assert_independent(configs, [[2], [3, 0], [1]])
    assert_leave_at_different_times(results)


@pytest.mark.parametrize(
    "own",
    [
        ("optimizer.accumulate_gradients=3",),
        ("optimizer.schedule=kl_adaptive", "optimizer.target_kl=1e-4"),
        ("optimizer=rmsprop", "optimizer.momentum=0.5", "optimizer.schedule=cosine"),
    ],
    ids=lambda own: own[0],
)
@every_algorithm
def test_the_values_own_output_steps_whenever_the_policy_does_and_as_far(algorithm, own):
    """With one optimizer's settings for both: the same counts, learning rates and factors, whatever the settings."""
    batch = Batch([base("softmax", algorithm, *own)])
    factors = set()
    for _ in range(4):
        batch.iterate()
        assert isinstance(batch.baseline, Learner)
        assert batch.baseline.steps == batch.policy.steps
        assert torch.equal(batch.baseline.factor, batch.policy.factor)
        factors.add(float(batch.policy.factor))
    assert batch.baseline.settings == batch.policy.settings
    assert (len(factors) > 1) is ("kl_adaptive" in own[0])
    assert batch.policy.steps[0] > 0


@every_algorithm
def test_interrupted_and_resumed_it_is_the_run_never_interrupted(algorithm, tmp_path):
    config = replace(base("softmax", algorithm), checkpoint=replace(base("softmax", algorithm).checkpoint, resume=True))
    train([config], [tmp_path / "whole"])
    with pytest.raises(Interrupted):
        train([config], [tmp_path / "stopped"], StopsAt(4))
    train([config], [tmp_path / "stopped"])
    assert outcome(tmp_path / "stopped")["parameters_sha256"] == outcome(tmp_path / "whole")["parameters_sha256"]


def test_the_policy_is_loaded_and_exported_without_the_value(tmp_path):
    config = base("softmax", "ppo")
    (result,) = train([config], [tmp_path])
    assert result.status == "completed", result.error
    policy, parts = load_policy(tmp_path), build(stack([config]))
    assert set(policy.names) == set(parts.policy.init([Generator()], torch.float32)), "the value is not among them"
    path, _ = export(tmp_path, "torchscript")
    observation = torch.rand(5, parts.env.spec.observation_size)
    action, _ = read(FORMATS["torchscript"], path)(observation)
    assert torch.equal(torch.as_tensor(action), policy(observation))


@pytest.mark.parametrize("algorithm", [name for name in options("algorithm") if name not in SHARING])
def test_an_algorithm_that_trains_the_value_apart_refuses_it(algorithm):
    config = compose("policy=softmax", "env=cartpole", f"algorithm={algorithm}", "baseline=shared_value")
    with pytest.raises(ConfigError, match=f"baseline=shared_value: .*{algorithm} has no such step; fitting: value_net"):
        build(stack([config]))


@pytest.mark.parametrize("policy", [*WITHOUT_HIDDEN_LAYERS, "softmax"])
def test_a_policy_without_hidden_layers_refuses_it(policy):
    env = "frozen_lake" if policy == "tabular_softmax" else "pendulum" if "gaussian" in policy else "cartpole"
    own = ("policy.hidden_sizes=[]",) if policy == "softmax" else ()
    config = compose(f"policy={policy}", *own, f"env={env}", "algorithm=ppo", "baseline=shared_value")
    with pytest.raises(ConfigError, match=r"baseline=shared_value: .* this policy has none; fitting: value_network"):
        build(stack([config]))
