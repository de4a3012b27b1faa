"""The evaluation command: `python -m pg_experiments.evaluate RUN_DIR --episodes 100`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from pg_experiments.errors import UserError, fail
from pg_experiments.trust import imports_from_elsewhere


def main(arguments: Sequence[str] | None = None) -> None:
    """Load a run's policy, play episodes, print mean, standard deviation and 95 % interval of their return.

    The folder may be somebody else's: its config names code of this package, of `torch.optim`, and of what `--trust`
    names, or the command ends with one line and exit code 2.

    Without `--seed` they are the episodes of the run's own final evaluation, as many as are asked for.
    """
    parser = argparse.ArgumentParser(
        prog="python -m pg_experiments.evaluate", description="Evaluate the policy of a trained run."
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="folder that a training run wrote")
    parser.add_argument("--episodes", type=int, default=100, metavar="N", help="how many (default: 100)")
    parser.add_argument("--stochastic", action="store_true", help="sample actions instead of playing the mode")
    parser.add_argument("--seed", type=int, metavar="S", help="of the episodes (default: the run's own seed)")
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="run this package's code where the run's config names it (repeatable; default: only our own parts)",
    )
    parser.add_argument(
        "--checkpoint", default="last", metavar="NAME", help="last, best or iteration_N (default: last)"
    )
    options = parser.parse_args(arguments)
    if options.episodes < 1:
        parser.error(f"--episodes={options.episodes}: must be at least 1")
    try:
        with imports_from_elsewhere(options.trust):
            evaluate(
                options.run_dir,
                options.episodes,
                options.seed,
                not options.stochastic,
                options.checkpoint,
                options.trust,
            )
    except UserError as error:
        fail(error)
    except KeyboardInterrupt:
        parser.exit(130)


def evaluate(
    run_dir: Path,
    episodes: int,
    seed: int | None,
    deterministic: bool,
    checkpoint: str = "last",
    trust: Sequence[str] = (),
) -> None:
    """Do what the command says."""
    import torch

    from pg_experiments.evaluation import evaluate_policy
    from pg_experiments.policies.module import restore
    from pg_experiments.runs import DTYPES, build, stack

    torch.set_num_threads(1)
    policy, parameters, config = restore(run_dir, checkpoint, trust)
    parts = build(stack([config]))
    (outcome,) = evaluate_policy(
        policy,
        parameters,
        parts.env,
        [config.seed if seed is None else seed],
        episodes,
        DTYPES[config.dtype],
        deterministic=deterministic,
    )
    kind = "deterministic" if deterministic else "stochastic"
    print(f"{outcome.episodes} {kind} episodes of {run_dir}")
    interval = f"95 % interval {outcome.return_low:.2f} to {outcome.return_high:.2f}"
    print(f"  return mean   {outcome.return_mean:10.2f}   {interval}")
    print(f"  return sd     {outcome.return_std:10.2f}")
    print(f"  length mean   {outcome.length_mean:10.2f} steps")


if __name__ == "__main__":
    main()
