"""Videos of evaluated episodes: what is shown is what was played, in a file and in TensorBoard, and nothing else."""

import io
import re
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from commands import Ended, call
from gymnasium.envs.classic_control import CartPoleEnv
from PIL import Image
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from test_resume import StopsAt

from pg_experiments import ConfigError, UserError, compose, train
from pg_experiments.config import SCHEMAS, Config, config_sha256
from pg_experiments.env_config import GYMNASIUM_TASKS
from pg_experiments.envs.interface import HasTwin
from pg_experiments.evaluate import main
from pg_experiments.evaluating.playing import Episodes, Frame, played
from pg_experiments.evaluating.video import GIF_FRAMES, GIF_WIDTH, gif_of
from pg_experiments.randomness import generator_for
from pg_experiments.rollout import play_episodes
from pg_experiments.runs import DTYPES, build, stack
from pg_experiments.tensorboard_summaries import VIDEO
from pg_experiments.training import Interrupted

TYPE_CHECKS = False  # see conftest.py

SEED = 92
SMALL = ("logging.progress=none", "baseline=none", "env.num_envs=3", "total_env_steps=60", "env.max_episode_steps=12")
ENVS = {  # every environment, with the policy that fits
    **dict.fromkeys(("pendulum", "mountain_car_continuous", "navigation", "bioreactor"), "policy=gaussian"),
    **dict.fromkeys(("cartpole", "acrobot", "mountain_car", "navigation_discrete"), "policy=softmax"),
    **dict.fromkeys(("frozen_lake", "cliff_walking"), "policy=tabular_softmax"),
    "gymnasium": "policy=softmax env.id=CartPole-v1 env.backend=sync",
    "lunar_lander": "policy=softmax env.backend=sync",  # for all of Gymnasium's tasks
}


def composed(env: str, *more: str) -> Config:
    return compose(f"env={env}", *ENVS[env].split(), *SMALL, f"seed={SEED}", *more)


def episodes_of(config: Config, of: int = 5, shown: int = 2) -> Episodes:
    parts = build(stack([config]))
    generator = torch.Generator().manual_seed(SEED)
    parameters = parts.policy.init([generator], DTYPES[config.dtype])
    parameters = {
        name: part + torch.randn(part.shape, generator=generator, dtype=part.dtype) * 0.3
        for name, part in parameters.items()
    }
    return Episodes(config, parts.policy, parameters, parts.env, SEED, of, shown)


def test_every_environment_is_shown() -> None:
    assert set(ENVS) == set(SCHEMAS["env"]) - set(GYMNASIUM_TASKS) | {"lunar_lander"}


@pytest.mark.parametrize("env", ENVS)
def test_what_is_shown_is_the_beginning_of_the_evaluation(env: str) -> None:
    """Returns and lengths of the first episodes; pictures that change, one for every step."""
    episodes = episodes_of(composed(env))
    outcome, _ = play_episodes(
        episodes.policy,
        episodes.parameters,
        episodes.env,
        [generator_for(SEED, "evaluation")],
        5,
        torch.float32,
        deterministic=True,
        record=False,
    )
    frames = list(played(episodes, "--video"))
    for number in (1, 2):
        own = [frame for frame in frames if frame.episode == number]
        assert [frame.step for frame in own] == list(range(len(own)))
        assert len(own) - 1 == outcome.length[0, number - 1]
        assert own[-1].episode_return == pytest.approx(float(outcome.episode_return[0, number - 1]), abs=1e-4)
        assert [bool(frame.ended) for frame in own] == [False] * (len(own) - 1) + [True]
    assert all(frame.picture.dtype == np.uint8 and frame.picture.shape[2] == 3 for frame in frames)
    assert len({frame.picture.tobytes() for frame in frames}) > 1


@pytest.mark.parametrize("env", ["cartpole", "pendulum", "acrobot", "mountain_car", "frozen_lake", "cliff_walking"])
def test_the_twin_draws_the_state_that_was_put_into_it_as_gymnasium_does(env: str) -> None:
    """Gymnasium's environment, reset by itself, against a native state with its numbers."""
    import gymnasium

    ids = {
        "cartpole": "CartPole-v1",
        "pendulum": "Pendulum-v1",
        "acrobot": "Acrobot-v1",
        "mountain_car": "MountainCar-v0",
    }
    reference = gymnasium.make(
        ids.get(env) or {"frozen_lake": "FrozenLake-v1", "cliff_walking": "CliffWalking-v1"}[env],
        render_mode="rgb_array",
        disable_env_checker=True,
    )
    native = build(stack([composed(env)])).env
    assert isinstance(native, HasTwin)
    twin = native.twin()
    for seed in range(3):
        reference.reset(seed=seed)
        inside = reference.unwrapped
        numbers = [float(number) for number in np.ravel(inside.state if env in ids else inside.s)]  # type: ignore[attr-defined]
        state = tuple(torch.tensor([[number]], dtype=torch.float64) for number in numbers)
        np.testing.assert_array_equal(twin.picture(state, 0, 0), reference.render())
    twin.close()


def test_a_policy_that_learns_in_envpool_or_in_processes_is_shown_in_gymnasium() -> None:
    for backend in ("envpool", "async"):
        frames = list(played(episodes_of(composed("lunar_lander", f"env.backend={backend}"), shown=1), "--video"))
        assert [frame.step for frame in frames] == list(range(13))
        assert len({frame.picture.tobytes() for frame in frames}) == 13


def test_what_draws_gymnasiums_copies_is_closed_with_their_episode() -> None:
    made, closed = [], []

    class Counted(CartPoleEnv):
        def __init__(self, render_mode: str | None = None) -> None:
            super().__init__(render_mode=render_mode)
            made.append(self)

        def close(self) -> None:
            closed.append(self)
            super().close()

    name = "Counted-v0"
    gymnasium.register(name, entry_point=Counted, max_episode_steps=12)
    episodes = episodes_of(compose("policy=softmax", "env=gymnasium", f"env.id={name}", *SMALL))
    before = len(made)
    assert [frame.episode for frame in played(episodes, "--video") if frame.ended] == [1, 2]
    assert len(made) > before
    assert closed == made[before:]


def test_a_task_that_is_another_one_in_envpool_is_not_shown_by_gymnasiums() -> None:
    episodes = episodes_of(composed("pendulum", "env.backend=envpool"))
    with pytest.raises(ConfigError, match=r"^env.backend=envpool: cannot be shown: .* another task"):
        next(played(episodes, "--video"))


def test_wrappers_are_around_what_is_shown() -> None:
    """Two steps of the environment are one decision, and the policy sees stacked frames."""
    wrappers = "env.wrappers=[{repeat_action:{times:2}},{stack_frames:{frames:2}},time_awareness]"
    frames = list(played(episodes_of(composed("pendulum", wrappers), shown=1), "--video"))
    assert [frame.step for frame in frames] == list(range(7))


def test_the_same_seed_shows_the_same_and_sampled_actions_something_else() -> None:
    episodes = episodes_of(composed("pendulum"), shown=1)
    first, again, sampled = (
        [frame.episode_return for frame in played(one, "--video")]
        for one in (episodes, episodes, episodes._replace(deterministic=False))
    )
    assert first == again != sampled


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    for env in ("pendulum", "cartpole"):
        train([composed(env, "evaluation.episodes=2", "logging.tensorboard=false")], [root / env])
    return root


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> Ended:
    return call(main, capsys, arguments)


def test_a_gif_needs_no_extra_and_its_returns_are_printed(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "imageio", None)
    path = tmp_path / "episodes.gif"
    ended = run(capsys, trained / "pendulum", "--episodes", 2, "--video", path)
    assert (ended.code, ended.err) == (0, "")
    returns = re.search(r"episodes with returns (-[\d.]+), (-[\d.]+)\n", ended.out)
    assert returns is not None
    mean = float(re.search(r"return mean +(-[\d.]+)", ended.out)[1])  # type: ignore[index]
    assert np.mean([float(each) for each in returns.groups()]) == pytest.approx(mean, abs=0.01)
    with Image.open(path) as gif:
        assert gif.n_frames == 2 * 13  # type: ignore[attr-defined]
        assert gif.width == GIF_WIDTH
    assert list(tmp_path.iterdir()) == [path]


def test_an_mp4_goes_into_the_runs_folder_when_no_name_is_given(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import imageio

    ended = run(capsys, trained / "pendulum", "--episodes", 2, "--video")
    assert (ended.code, ended.err) == (0, "")
    with imageio.get_reader(trained / "pendulum" / "evaluation.mp4") as reader:
        first = reader.get_data(0)
    assert first.shape == (524, 500, 3)
    assert first[:24].min() < 100, "no text above the picture"
    before = (trained / "pendulum" / "evaluation.mp4").read_bytes()
    assert run(capsys, trained / "pendulum", "--episodes", 2, "--video", "--checkpoint", "best").code == 0
    assert (trained / "pendulum" / "evaluation-best.mp4").stat().st_size > 1000
    assert (trained / "pendulum" / "evaluation.mp4").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--video", "episodes.avi"], "--video=episodes.avi: must end in .mp4 or .gif"),
        (["--video", "there.gif"], "--video=there.gif: is there already; choose another name"),
        (
            ["--video", "episodes.mp4"],
            "--video=episodes.mp4: needs the extra video: pip install 'pg_experiments[video]'",
        ),
    ],
)
def test_a_mistake_costs_a_line_before_anything_is_played(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "imageio", None)
    (tmp_path / "there.gif").write_text("mine")
    ended = run(capsys, trained / "pendulum", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert re.fullmatch(r"error: [^\n]+\n", ended.err)
    assert says in ended.err
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_what_a_users_environment_says_and_does_when_it_is_closed_costs_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("the door is stuck")

    train([composed("gymnasium", "evaluation.episodes=2", "logging.tensorboard=false")], [tmp_path / "run"])
    arguments = (tmp_path / "run", "--episodes", 2, "--video", tmp_path / "episodes.gif")
    for wrong in (-5, "fast"):
        monkeypatch.setitem(CartPoleEnv.metadata, "render_fps", wrong)
        ended = run(capsys, *arguments)
        problem = f"cannot be shown: its render_fps is {wrong!r}, expected a positive number"
        assert (ended.code, ended.err) == (2, f"error: env.id=CartPole-v1: {problem}\n")
    monkeypatch.setitem(CartPoleEnv.metadata, "render_fps", 50)
    monkeypatch.setattr(CartPoleEnv, "close", broken)
    ended = run(capsys, *arguments)
    problem = "env CartPole-v1 cannot be shown: close raised RuntimeError: the door is stuck"
    assert (ended.code, ended.err) == (2, f"error: --video: {problem}\n")


def test_an_environment_that_cannot_be_drawn_costs_a_line_after_the_evaluation(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no colours left")

    monkeypatch.setattr("gymnasium.envs.classic_control.pendulum.PendulumEnv.render", broken)
    ended = run(capsys, trained / "pendulum", "--episodes", 2, "--video", tmp_path / "episodes.gif")
    assert ended.code == 2
    assert "return mean" in ended.out
    assert re.fullmatch(r"error: --video=\S+: cannot be made: RuntimeError: no colours left\n", ended.err)
    assert list(tmp_path.iterdir()) == []


def test_a_long_episode_is_thinned_out_in_a_gif_but_for_its_end() -> None:
    picture = np.zeros((10, 400, 3), np.uint8)
    frames = [Frame(np.roll(picture + step % 200, step), 1, step, -1.0 * step, "") for step in range(1000)]
    gif, width, height = gif_of([*frames, frames[-1]._replace(step=1000, ended="truncated")], 30.0)
    with Image.open(io.BytesIO(gif)) as animation:
        assert (animation.format, animation.size) == ("GIF", (width, height))
        assert 100 < animation.n_frames <= GIF_FRAMES + 1  # type: ignore[attr-defined]


def test_a_sweeps_folder_has_no_video(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended = run(capsys, trained, "--video")
    assert ended.code == 2
    assert "--video: is of one run" in ended.err


# --- TensorBoard ------------------------------------------------------------------------------------------------------

TRAINING = ("evaluation.every=2", "evaluation.episodes=4", "total_env_steps=216", "env.num_envs=3")  # six iterations


def videos_in(folder: Path) -> list[tuple[int, bytes]]:
    """Step and content of every animation in a run's events."""
    (path,) = folder.glob("events.out.tfevents.*")
    found = []
    for event in EventFileLoader(str(path)).Load():
        for value in event.summary.value:
            if value.tag == VIDEO:
                found.append((event.step, value.tensor.string_val[2]))
    return found


def test_training_puts_an_episode_of_every_evaluation_into_tensorboard_and_changes_no_bit(tmp_path: Path) -> None:
    shown, plain = (
        train([composed("cartpole", *TRAINING, f"evaluation.video={flag}")], [tmp_path / flag])[0]
        for flag in ("true", "false")
    )
    assert shown.parameters_sha256 == plain.parameters_sha256
    assert shown.evaluation == plain.evaluation
    assert shown.config_sha256 == plain.config_sha256
    columns = [
        [line.rpartition(",")[2] for line in (tmp_path / flag / "metrics.csv").read_text().splitlines()]
        for flag in ("true", "false")
    ]
    assert columns[0] == columns[1]
    assert videos_in(tmp_path / "false") == []
    found = videos_in(tmp_path / "true")
    rows = (tmp_path / "true" / "metrics.csv").read_text().splitlines()[1:]
    steps = [int(row.split(",")[1]) for row in rows if int(row.split(",")[0]) % 2 == 0]
    assert [step for step, _ in found][: len(steps)] == steps
    for _, gif in found:
        with Image.open(io.BytesIO(gif)) as animation:
            assert animation.format == "GIF"
            assert 1 < animation.n_frames <= GIF_FRAMES + 1  # type: ignore[attr-defined]


def test_an_interrupted_run_that_goes_on_has_every_video_once(tmp_path: Path) -> None:
    given = ("pendulum", *TRAINING, "evaluation.video=true", "checkpoint.resume=true")
    train([composed(*given)], [tmp_path / "whole"])
    with pytest.raises(Interrupted):
        train([composed(*given)], [tmp_path / "stopped"], StopsAt(3))
    train([composed(*given)], [tmp_path / "stopped"])
    assert videos_in(tmp_path / "stopped") == videos_in(tmp_path / "whole") != []


def test_an_environment_that_cannot_be_drawn_fails_no_run_and_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no colours left")

    monkeypatch.setattr("pg_experiments.evaluating.video.gif_of", broken)
    (result,) = train([composed("pendulum", "evaluation.video=true", "evaluation.episodes=2")], [tmp_path / "run"])
    assert result.status == "completed"
    assert "no video of the evaluation: RuntimeError: no colours left" in (tmp_path / "run" / "train.log").read_text()


class Unseen:
    """A user's environment without a twin."""

    def __init__(self) -> None:
        from pg_experiments.envs.cartpole import CartPole

        self._own = CartPole(12)
        self.spec = self._own.spec
        for name in ("reset", "step", "select", "join"):
            setattr(self, name, getattr(self._own, name))


def test_videos_that_there_cannot_be_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.video=True: is written for TensorBoard"):
        composed("pendulum", "evaluation.video=true", "logging.tensorboard=false")
    folder = tmp_path / "conf" / "env"
    folder.mkdir(parents=True)
    (folder / "unseen.yaml").write_text(
        "_target_: test_video.Unseen\nnum_envs: 2\ngamma: 0.9\nreward_scale: 1.0\ndefault_initial_std: 1.0\n"
        "default_env_steps: 10\nstep_seconds: null\nwrappers: []\n"
    )
    given = ("env=unseen", "policy=softmax", "baseline=none", "logging.progress=none")
    config = compose(*given, "evaluation.video=true", config_dir=tmp_path / "conf")
    with pytest.raises(UserError, match=r"evaluation\.video: env Unseen cannot be shown: it has no method twin"):
        train([config], [tmp_path / "run"])
    assert not (tmp_path / "run").exists()
    assert config_sha256(config) == config_sha256(compose(*given, config_dir=tmp_path / "conf"))
