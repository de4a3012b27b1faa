"""Action masks: an illegal action has probability 0, exactly, wherever a policy is used; no gradient comes of it."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from masked_envs import COUNTS, Doors
from small_mdp import completed
from torch import Generator, Tensor
from type_checks import without_type_checks

from pg_experiments import ConfigError, RunResult, compose, load_policy, train
from pg_experiments.config import Config
from pg_experiments.envs.action_masks import mask_problem
from pg_experiments.export import export
from pg_experiments.policies.convolution import CNN, Convolutions
from pg_experiments.policies.distributions import Categorical
from pg_experiments.policies.masking import MaskedNetwork
from pg_experiments.policies.multi_categorical import MultiCategorical
from pg_experiments.policies.networks import MLP, Network, layers_of
from pg_experiments.rollout import play_episodes
from pg_experiments.runs import build, stack

SEED = 53
RUNS, SAMPLES = 3, 6
QUIET = ("logging.progress=none", "logging.tensorboard=false", "evaluation.episodes=7")
GYMNASIUM = ("env=gymnasium", "env.id=masked_envs:GymnasiumDoors-v0", "env.action_mask=true", *QUIET)
TAXI = ("env=gymnasium", "env.id=Taxi-v4", "env.action_mask=true", *QUIET)
NETWORK = ("policy.hidden_sizes=[7,6]", "baseline.hidden_sizes=[5]")
FIXED = ("algorithm.rollout_steps=9", "baseline=value_network", *NETWORK)
ALGORITHMS = {
    "reinforce": ("algorithm=reinforce", "baseline=value_network", *NETWORK),
    "actor_critic": ("algorithm=actor_critic", *FIXED),
    "ppo": ("algorithm=ppo", "algorithm.minibatches=2", *FIXED),
    "npg": ("algorithm=npg", *FIXED),
    "trpo": ("algorithm=trpo", *FIXED),
}
WRAPPERS = "env.wrappers=[{stack_frames:{frames:2}},time_awareness,normalize_observation]"


def random_numbers(*shape: int, seed: int = SEED, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=Generator().manual_seed(seed))


def random_mask(*shape: int) -> Tensor:
    """About half are legal, and the last always is."""
    mask = random_numbers(*shape, seed=SEED + 1) > 0
    mask[..., -1] = True
    return mask


# --- the formulas -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("actions", [2, 5, 40])
def test_a_masked_categorical_is_the_categorical_of_its_legal_actions(actions: int) -> None:
    """Log-probability, entropy, divergence, and their gradients, sample by sample; nothing is NaN."""
    mask = random_mask(RUNS, SAMPLES, actions)
    logits, others = (random_numbers(RUNS, SAMPLES, actions, seed=seed) for seed in (1, 2))
    leaf = logits.clone().requires_grad_()
    own = Categorical(leaf.masked_fill(~mask, -math.inf))
    other = Categorical(others.masked_fill(~mask, -math.inf))
    for run in range(RUNS):
        for sample in range(SAMPLES):
            legal = mask[run, sample]
            kept = logits[run, sample, legal].clone().requires_grad_()
            few, few_others = Categorical(kept[None, None]), Categorical(others[run, sample, legal][None, None])
            best = legal.nonzero()[few.mode()[0, 0], 0]
            assert own.mode()[run, sample] == best
            action = torch.full((RUNS, SAMPLES), int(best))
            for found, expected in (
                (own.log_prob(action)[run, sample], few.log_prob(few.mode())[0, 0]),
                (own.entropy()[run, sample], few.entropy()[0, 0]),
                (own.kl(other)[run, sample], few.kl(few_others)[0, 0]),
                (other.kl(own)[run, sample], few_others.kl(few)[0, 0]),
            ):
                torch.testing.assert_close(found, expected)
                (of_leaf,) = torch.autograd.grad(found, leaf, retain_graph=True)
                (of_kept,) = torch.autograd.grad(expected, kept, retain_graph=True)
                torch.testing.assert_close(of_leaf[run, sample, legal], of_kept)
                assert (of_leaf[~mask] == 0).all()


def test_the_gradient_in_closed_form_is_zero_for_illegal_actions() -> None:
    mask = random_mask(RUNS, SAMPLES, 5)
    own = Categorical(random_numbers(RUNS, SAMPLES, 5).masked_fill(~mask, -math.inf))
    weight, coefficient = random_numbers(RUNS, SAMPLES, seed=3), torch.tensor([0.0, 0.3, 2.0])[:, None].double()
    found = own.objective_gradient(own.mode(), weight, coefficient)
    assert (found[~mask] == 0).all()
    assert (found[mask] != 0).any()
    torch.testing.assert_close(found.sum(-1), torch.zeros(RUNS, SAMPLES, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_an_illegal_action_is_not_drawn_whatever_the_noise_is(dtype: torch.dtype, monkeypatch: Any) -> None:
    """Also where the generator gives 0 for every legal action, of which Gumbel's noise would be -inf."""
    logits = torch.tensor([[[-math.inf, -math.inf, 3.0, -math.inf, -1e30]]], dtype=dtype)
    for uniform, drawn in (([0.5, 0.9, 0.0, 0.99, 0.0], 2), ([0.0, 0.0, 0.0, 0.0, 0.0], 2), ([0.0] * 4 + [0.9], 4)):
        monkeypatch.setattr(torch, "rand", lambda *shape, uniform=uniform, **_: torch.tensor(uniform, dtype=dtype))
        noise = Categorical.draw_noise(Generator(), (1, 1), 5, dtype)
        found = int(Categorical(logits).sample(noise[None, None])[0, 0])
        assert found == drawn or (drawn == 4 and found in (2, 4))
    monkeypatch.undo()
    noise = MultiCategorical.draw_noise(Generator().manual_seed(SEED), (1, 20_000), 5, dtype)
    several = MultiCategorical(logits.expand(1, 20_000, 5), (3, 2))
    assert several.sample(noise).flatten(0, 1).unique(dim=0).tolist() == [[2, 1]]


def networks() -> list[tuple[Network, int]]:
    convolutions = Convolutions((2, 5, 4), (3,), (2,), (2,))
    return [
        (MLP(7, (6, 3), 5, "tanh", 0.5), 7),
        (MLP(3, (), 20, "relu", 0.5), 3),
        (CNN(convolutions, (4,), 6, "elu", 0.5), 40),
    ]


@pytest.mark.parametrize(("inner", "size"), networks(), ids=["mlp", "linear", "cnn"])
def test_a_masked_network_gives_the_logits_of_legal_actions_with_their_gradients_and_tangents(
    inner: Network, size: int
) -> None:
    network, outputs = MaskedNetwork(inner, inner.output_size), inner.output_size
    first = network.init([Generator().manual_seed(run) for run in range(RUNS)], torch.float64)
    leaves = {name: part.requires_grad_() for name, part in first.items()}
    mask = random_mask(RUNS, SAMPLES, outputs)
    mask[..., 0] = False
    seen = random_numbers(RUNS, SAMPLES, size).requires_grad_()
    x = torch.cat([seen, mask.double()], -1)
    found, expected = network(leaves, x), inner(leaves, seen).masked_fill(~mask, -math.inf)
    assert torch.equal(found, expected)
    with torch.no_grad():
        torch.testing.assert_close(network.actor(first)(x.detach()), expected, rtol=1e-12, atol=1e-12)
    weight = random_numbers(RUNS, SAMPLES, outputs, seed=9)
    parts = [seen, *leaves.values()]
    of_found = torch.autograd.grad((found.exp() * weight).sum((0, 1, 2)), parts)
    of_expected = torch.autograd.grad((expected.exp() * weight).sum((0, 1, 2)), parts)
    for one, other in zip(of_found, of_expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)
    assert (of_found[-1][:, 0] == 0).all(), "the bias of an action that is never legal has a gradient"
    layers = layers_of(network, {name: part.detach() for name, part in first.items()})
    values = network.forward(layers, x.detach())
    change = [(random_numbers(*part.shape, seed=3), random_numbers(*bias.shape, seed=4)) for part, bias in layers]
    tangent = network.tangent(layers, values, change, SAMPLES)[:, :SAMPLES, :outputs]
    of_inner = inner.tangent(layers, values[1:], change, SAMPLES)[:, :SAMPLES, :outputs]
    assert torch.equal(tangent, of_inner.masked_fill(~mask, 0.0))


# --- whole runs -------------------------------------------------------------------------------------------------------


def doors(*overrides: str, runs: int = 1, **kwargs: Any) -> list[Config]:
    """Configs of the native environment, which fails when a closed door is chosen."""
    base = compose("env=cartpole", "policy=softmax", "total_env_steps=600", *QUIET, *overrides)
    wrappers = base.env.wrappers
    env = {"_target_": "masked_envs.Doors", "num_envs": 5, "wrappers": wrappers, **kwargs}
    base = completed(replace(base, env=env))
    return [replace(base, seed=1000 + run, total_env_steps=400 + 200 * run) for run in range(runs)]


@pytest.mark.parametrize(
    ("policy", "several", "algorithm"),
    [
        *(("softmax", False, algorithm) for algorithm in ALGORITHMS),
        *(("multi_categorical", True, algorithm) for algorithm in ALGORITHMS),
        ("linear_softmax", False, "reinforce"),
        ("auto", False, "reinforce"),
        ("auto", True, "ppo"),
    ],
)
def test_no_closed_door_is_chosen_and_every_run_is_the_run_alone(policy: str, several: bool, algorithm: str) -> None:
    overrides = [item for item in ALGORITHMS[algorithm] if policy != "linear_softmax" or "policy.hidden" not in item]
    configs = doors(f"policy={policy}", *overrides, runs=3, several=several)
    with without_type_checks():
        together = train(configs)
        alone = [train([config])[0] for config in configs]
    for one, other in zip(together, alone, strict=True):
        assert one.status == "completed", one.error
        assert outcome(one) == outcome(other)


def outcome(result: RunResult) -> tuple[Any, ...]:
    return result.status, result.parameters_sha256, result.evaluation, result.env_steps


@pytest.mark.parametrize("algorithm", ["reinforce", "ppo"])
@pytest.mark.parametrize("several", [False, True], ids=["one", "several"])
def test_wrappers_leave_the_mask_at_the_end_of_the_observation(several: bool, algorithm: str) -> None:
    (config,) = doors("policy=auto", WRAPPERS, *ALGORITHMS[algorithm], several=several)
    (result,) = train([config])
    assert result.status == "completed", result.error
    parts = build(stack([config]))
    mask = sum(COUNTS) if several else 5
    assert (parts.env.spec.observation_size, parts.env.spec.mask_size) == (2 * 3 + 1 + mask, mask)
    generators = [Generator().manual_seed(SEED)]
    parameters = parts.policy.init(generators, torch.float32)
    _, trajectory = play_episodes(parts.policy, parameters, parts.env, generators, 5, torch.float32)
    assert trajectory is not None
    assert set(trajectory.observation[..., -mask:].unique().tolist()) == {0.0, 1.0}
    statistics = {name: part.shape[-1] for name, part in parameters.items() if "observation_statistics" in name}
    assert statistics["observation_statistics.mean"] == 2 * 3 + 1


def test_what_is_learned_is_to_choose_the_last_open_door() -> None:
    """Seeds 1000 to 1002; the best policy gets 3.2 a step, chance 2.1."""
    configs = [
        replace(config, total_env_steps=40_000)
        for config in doors("optimizer.lr=0.01", "baseline=leave_one_out", *NETWORK[:1], runs=3, num_envs=16)
    ]
    with without_type_checks():
        results = train(configs)
    for result in results:
        policy = result.policy
        numbers = torch.rand(50, 3, generator=Generator().manual_seed(SEED))
        mask = random_mask(50, 5).float()
        mask[:, -1] = (numbers[:, 0] > 0.5).float()
        mask[:, 0] = 1.0
        action = policy(torch.cat([numbers, mask], -1))
        assert (mask.gather(1, action[:, None]) == 1).all()
        last = (mask * torch.arange(1, 6)).argmax(1)
        assert (action == last).double().mean(0) > 0.9


def test_taxis_passengers_are_only_picked_up_where_they_are() -> None:
    """An illegal stop costs 10; with the mask no step of Taxi-v4 does, so 200 steps cost at most 200."""
    overrides = ("policy=tabular_softmax", "baseline=leave_one_out", "env.num_envs=8", "total_env_steps=1600")
    config = compose(*overrides, *TAXI)
    parts = build(stack([config]))
    assert (parts.env.spec.observation_size, parts.env.spec.mask_size, parts.env.spec.num_states) == (506, 6, 500)
    generators = [Generator().manual_seed(SEED)]
    parameters = parts.policy.init(generators, torch.float32)
    assert parameters["table"].shape == (1, 500, 6)
    assert parts.env.twin().env.spec == parts.env.spec, "a video would be played without masks"
    episodes, trajectory = play_episodes(parts.policy, parameters, parts.env, generators, 8, torch.float32)
    assert trajectory is not None
    assert (episodes.episode_return >= -200).all()
    legal = trajectory.observation[..., -6:].gather(-1, trajectory.action[..., None])[..., 0]
    assert (legal[trajectory.running] == 1).all()
    (result,) = train([config])
    assert result.status == "completed", result.error


@pytest.mark.parametrize("several", ["false", "true"])
@pytest.mark.parametrize("algorithm", ["reinforce", "ppo"])
def test_processes_give_the_same_run_as_one(several: str, algorithm: str) -> None:
    """A closed door would cost a hundred."""
    results = [
        train(
            [
                compose(
                    "policy=auto",
                    *GYMNASIUM,
                    *ALGORITHMS[algorithm],
                    f"env.kwargs.several={several}",
                    f"env.backend={backend}",
                    "env.num_envs=4",
                    "total_env_steps=60",
                )
            ]
        )[0]
        for backend in ("sync", "async")
    ]
    assert results[0].status == "completed", results[0].error
    assert outcome(results[0]) == outcome(results[1])
    assert results[0].evaluation is not None
    assert results[0].evaluation["return_mean"] == 1


def test_a_loaded_policy_takes_the_mask_behind_the_observation_and_the_readme_of_an_exported_one_says_so(
    tmp_path: Path,
) -> None:
    (result,) = train([compose("policy=softmax", *GYMNASIUM, "total_env_steps=40")], [tmp_path])
    assert result.status == "completed", result.error
    _, line = export(tmp_path, "torchscript", trust=["masked_envs"])
    assert "on 1,000 observations" in line
    text = (tmp_path / "export" / "torchscript" / "README.md").read_text()
    assert "behind it the mask of legal actions: 5 numbers, 1 for legal, 0 for illegal" in text
    assert "observation = torch.ones(1, 7, dtype=torch.float32)" in text
    policy = load_policy(tmp_path, trust="masked_envs")
    for legal in range(5):
        mask = [float(place == legal) for place in range(5)]
        assert policy([0.3, 0.8, *mask]).item() == legal


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["reinforce", "actor_critic"])
def test_a_mask_without_a_legal_action_fails_its_run_and_names_step_and_copy(algorithm: str) -> None:
    (config,) = doors(*ALGORITHMS[algorithm], never_at=4)
    (result,) = train([config])
    assert result.status == "failed"
    assert result.error is not None
    assert "step returned a mask with no legal action, expected at least one (in step 4 of copy 1)" in result.error


def test_a_mask_without_a_legal_action_fails_no_other_run(tmp_path: Path) -> None:
    good, bad = doors(runs=1)[0], doors(runs=1, never_at=0)[0]
    (result,) = train([bad])
    assert result.status == "failed"
    assert "reset returned a mask with no legal action, expected at least one (in the reset of copy 1)" in str(
        result.error
    )
    assert train([good])[0].status == "completed"


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("none", "reset returned an info that is a dict with nothing, expected action_mask in it"),
        ("short", "reset returned an action_mask of shape (2,), expected 5 numbers 0 or 1"),
        ("real", "reset returned an action_mask of shape (5,), expected 5 numbers 0 or 1"),
        ("two", "reset returned an action_mask with 2 at place 0, expected 0 or 1"),
    ],
)
def test_a_mask_that_is_none_stops_before_any_work(kind: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(stack([compose("policy=softmax", *GYMNASIUM, f"env.kwargs.kind={kind}")]))
    assert str(error.value).startswith("env.id=masked_envs:GymnasiumDoors-v0: ")
    assert says in str(error.value)


def test_a_mask_is_a_vector_or_a_tuple_of_them() -> None:
    into = torch.zeros(5).numpy()
    assert mask_problem(into, {"action_mask": ([1, 0, 1], [0, 1])}) is None
    assert into.tolist() == [1, 0, 1, 0, 1]
    assert "an info that is None" in str(mask_problem(into, None))
    assert "of (), expected 5" in str(mask_problem(into, {"action_mask": ()}))


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            ("policy=gaussian", "env=gymnasium", "env.id=Pendulum-v1", "env.backend=sync", "env.action_mask=true"),
            "env.action_mask=True: needs actions that are Discrete or MultiDiscrete; fitting: false",
        ),
        (
            ("policy=softmax", "env=gymnasium", "env.id=CartPole-v1", "env.backend=envpool", "env.action_mask=true"),
            "env.backend=envpool: gives no action masks (env.action_mask=true); must be one of auto, sync, async",
        ),
        (
            ("policy=softmax", *GYMNASIUM, "env.wrappers=[repeat_action]"),
            "env.wrappers[0]=repeat_action: plays an action again that may have become illegal",
        ),
        (
            ("policy=softmax", *GYMNASIUM, "baseline.network=cnn"),
            "baseline.network=cnn: sees images alone, but these observations end with a mask of legal actions",
        ),
    ],
)
def test_masks_that_cannot_be_are_refused(overrides: tuple[str, ...], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(stack([compose(*overrides, *QUIET)]))
    assert says in str(error.value)


def test_the_backend_that_auto_takes_has_masks() -> None:
    (env,) = (compose("policy=softmax", "env=gymnasium", "env.id=CartPole-v1", "env.action_mask=true").env,)
    assert env.backend == "sync"
    assert Doors().spec.mask_size == 5
