"""The evaluation command: `python -m pg_experiments.evaluate DIR --episodes 100`, of a run or of a whole sweep."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pg_experiments.errors import ConfigError, UserError, fail, printable, reason_of
from pg_experiments.trust import add_loading_options, imports_from_elsewhere

if TYPE_CHECKING:
    from pg_experiments.evaluating.many import How

MOST_SEED, MOST_EPISODES = 2**63 - 1, 1_000_000
VIDEO, SHOWN = "evaluation.mp4", 3
EXIT_NOT_ALL = 1


def main(arguments: Sequence[str] | None = None) -> None:
    """Load policies, play episodes, print mean, standard deviation and 95 % interval of their return.

    Of a sweep's folder, all completed runs are evaluated, those of equal structure as one program; a run that cannot be
    is named with the reason, and the exit code is 1. The numbers are left as `evaluation.json` and `evaluation.csv`.

    The folder may be somebody else's: its config names code of this package, of `torch.optim`, and of what `--trust`
    names, or the command ends with one line and exit code 2.

    Without `--seed` they are the episodes of each run's own final evaluation, as many as are asked for.
    """
    parser = argparse.ArgumentParser(
        prog="python -m pg_experiments.evaluate",
        description="Evaluate the policy of a trained run, or of all of a sweep.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of a run, or of a sweep")
    parser.add_argument("--episodes", type=int, default=100, metavar="N", help="how many of each run (default: 100)")
    parser.add_argument("--stochastic", action="store_true", help="sample actions instead of playing the mode")
    parser.add_argument(
        "--seed", type=int, metavar="S", help="of the episodes, the same for all runs (default: each run's own)"
    )
    parser.add_argument(
        "--video",
        type=Path,
        nargs="?",
        const=Path(),
        metavar="FILE",
        help=f"of one run: show the first {SHOWN} episodes in an .mp4 or .gif (default: DIR/{VIDEO}); after DIR",
    )
    add_loading_options(parser)
    options = parser.parse_args(arguments)
    if not 1 <= options.episodes <= MOST_EPISODES:
        parser.error(f"--episodes={options.episodes}: must be from 1 to {MOST_EPISODES}")
    if options.seed is not None and not 0 <= options.seed <= MOST_SEED:
        parser.error(f"--seed={options.seed}: must be from 0 to {MOST_SEED}")
    try:
        with imports_from_elsewhere(options.trust):
            from pg_experiments.evaluating.many import How

            how = How(options.episodes, options.seed, not options.stochastic, options.checkpoint, tuple(options.trust))
            all_evaluated = evaluate(options.folder, how, options.video)
    except UserError as error:
        fail(error)
    except KeyboardInterrupt:
        parser.exit(130)
    if not all_evaluated:
        parser.exit(EXIT_NOT_ALL)


def evaluate(folder: Path, how: "How", video: Path | None = None) -> bool:
    """Do what the command says.

    Args:
        folder: of a run, or of a sweep.
        how: what is played.
        video: file to show some episodes in; an empty path for `evaluation.mp4` in the folder, or for
            `evaluation-best.mp4` and the like where it is not the last checkpoint; None: no video.

    Returns:
        Whether every run was evaluated.
    """
    import torch

    from pg_experiments.saved_config import SAVED

    torch.set_num_threads(1)
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    if (folder / SAVED).is_file() or not any(folder.rglob(str(SAVED))):
        evaluate_run(folder, how, video)
        return True
    if video is not None:
        raise ConfigError("--video", None, f"is of one run, and {folder} holds several; give the folder of one of them")
    return evaluate_sweep(folder, how)


def evaluate_run(run_dir: Path, how: "How", video: Path | None = None) -> None:
    """Evaluate one run, whatever its training came to, print the outcome, and show some of it."""
    from pg_experiments.backend_config import taken
    from pg_experiments.evaluating.playing import Episodes, frames_per_second, played
    from pg_experiments.evaluating.progress import shown
    from pg_experiments.evaluating.video import check_path, write_video
    from pg_experiments.evaluation import evaluate_each
    from pg_experiments.policies.module import restore
    from pg_experiments.runs import DTYPES, build, stack

    if video is not None:
        own = VIDEO if how.checkpoint == "last" else f"evaluation-{how.checkpoint}.mp4"
        path = video if video.name else run_dir / own
        check_path(path)
        if video.name and path.exists():
            raise ConfigError("--video", path, "is there already; choose another name")
    policy, parameters, config = restore(run_dir, how.checkpoint, how.trust)
    env = build(stack([config])).env
    speed = 0.0 if video is None else frames_per_second(env, "--video")
    with shown(env.spec.max_episode_steps) as advance:
        (outcome,) = evaluate_each(
            policy,
            [parameters],
            env,
            [how.seed_of(config)],
            how.episodes,
            DTYPES[config.dtype],
            deterministic=how.deterministic,
            watch=lambda more: advance(more, ""),
        )
    if isinstance(outcome, str):
        raise UserError(f"{run_dir}: {outcome}")
    print(f"{outcome.episodes} {kind_of(how)} episodes of {run_dir}")
    interval = f"95 % interval {outcome.return_low:.2f} to {outcome.return_high:.2f}"
    print(f"  return mean   {outcome.return_mean:10.2f}   {interval}")
    print(f"  return sd     {outcome.return_std:10.2f}")
    print(f"  length mean   {outcome.length_mean:10.2f} steps")
    if video is not None:
        count = min(SHOWN, how.episodes)
        seed = how.seed_of(config)
        episodes = Episodes(config, policy, parameters, env, seed, how.episodes, count, how.deterministic)
        try:
            returns = write_video(path, played(episodes, "--video"), speed, count)
        except UserError:
            raise
        except Exception as error:  # of a user's environment, or of what draws it: any kind
            raise ConfigError("--video", path, f"cannot be made: {reason_of(error)}") from error
        whose = "Gymnasium's, as EnvPool draws nothing: " if taken(config.env) == "envpool" else ""
        print(f"  video         {path}: {whose}episodes with returns {', '.join(f'{each:.2f}' for each in returns)}")


def evaluate_sweep(folder: Path, how: "How") -> bool:
    """Evaluate all runs in a folder, print the tables and write the files."""
    from pg_experiments.evaluating.many import evaluate_runs
    from pg_experiments.evaluating.outcome import CSV, JSON, compared, show, write
    from pg_experiments.reports.collect import collect

    runs = collect(folder)
    outcomes = evaluate_runs(runs, how)
    comparison = compared(runs, outcomes)
    for note in comparison.notes:
        print(f"warning: {note}", file=sys.stderr)
    show(folder, runs, outcomes, comparison, f"an evaluation with {kind_of(how)} actions")
    problems = [(run, outcome) for run, outcome in zip(runs, outcomes, strict=True) if isinstance(outcome, str)]
    for run, reason in problems:
        print(f"not evaluated: {printable(f'{run.folder}: {reason}')}", file=sys.stderr)
    about = {
        "episodes": how.episodes,
        "seed": how.seed,
        "actions": kind_of(how),
        "checkpoint": how.checkpoint,
    }
    try:
        write(folder, runs, outcomes, comparison, about)
    except OSError as error:
        raise UserError(f"{folder}: cannot write {JSON} and {CSV} ({error.strerror})") from error
    print(f"numbers: {folder / JSON}, {folder / CSV}")
    return not problems


def kind_of(how: "How") -> str:
    """Of the actions."""
    return "deterministic" if how.deterministic else "stochastic"


if __name__ == "__main__":
    main()
