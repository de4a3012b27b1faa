"""What the runs of one training write, and when: rows of metrics, checkpoints and results, each run in its folder."""

import math
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pg_experiments.batch import State
from pg_experiments.config import Config
from pg_experiments.results import RunResult
from pg_experiments.resume import Point, completed_result, find, has_begun, is_complete, iterations_of
from pg_experiments.run_folder import RunFolder, problem_of

SHARE = 0.01  # of the time may go into checkpoints that are due by `checkpoint.seconds`
WRITERS = 16  # threads that wait for the disk: it sees many files safe in little more time than one
EVALUATION = "evaluation/return_mean"

Errors = dict[int, str | None]  # per run what prevents it from going on, in words


class Recording:
    """The folders of the runs, which are called by their index into the configs. A run without a folder writes nothing.

    Args:
        configs: of the runs.
        paths: of their folders; None: nothing is written.

    Attributes:
        points: where the runs are continued that `checkpoint.resume` finds begun.
        complete: the results of those that it finds complete.

    Raises:
        UserError: when a folder that is to be continued holds another run.
    """

    def __init__(self, configs: Sequence[Config], paths: Sequence[Path] | None) -> None:
        self.paths = paths
        self.points: dict[int, Point] = {}
        self.complete: dict[int, RunResult] = {}
        self._configs = configs
        self._folders: dict[int, RunFolder] = {}
        self._next_save = time.monotonic() + configs[0].checkpoint.seconds
        for run, path in enumerate(paths or []):
            config = configs[run]
            if not config.checkpoint.resume or not has_begun(path):
                continue
            if is_complete(path, config):
                self.complete[run] = completed_result(path, config)
            elif point := find(path, config):
                self.points[run] = point

    def __contains__(self, run: int) -> bool:
        """Whether a run has a folder that is open."""
        return run in self._folders

    def open(self, run: int) -> None:
        """Begin or continue a run's folder.

        Raises:
            UserError: when it holds a run already.
            FolderError: when it cannot be written.
        """
        assert self.paths is not None
        about = f"as run {run} of {len(self._configs)} in one program, process {os.getpid()}"
        self._folders[run] = RunFolder(self.paths[run], self._configs[run], about, self.points.get(run))

    def rows(
        self,
        columns: Mapping[int, Mapping[str, float]],
        evaluations: Mapping[int, float],
        counts: Mapping[int, tuple[int, int]],
        last: Collection[int],
        errors: Errors,
        videos: Mapping[int, Any],
    ) -> None:
        """One row of metrics for every run for which it is time; always for the last iteration of a run.

        Args:
            columns: per run its numbers by tag.
            evaluations: mean returns of the runs that were evaluated on the way.
            counts: iterations and env steps that each run has done.
            last: the runs that have used their steps.
            errors: of the runs; what prevents writing is added.
            videos: of evaluations on the way, as `RunFolder.write` takes them.
        """
        for run, numbers in columns.items():
            if run not in self:
                continue
            due = run in evaluations or counts[run][0] % self._configs[run].logging.every == 0
            if due or errors[run] or run in last:
                row = {**numbers, **({EVALUATION: evaluations[run]} if run in evaluations else {})}
                folder, at = self._folders[run], counts[run]
                video = videos.get(run)
                problem = problem_of(lambda: folder.write(*at, row, video), folder.folder)  # noqa: B023 - called at once
                errors[run] = errors[run] or problem

    def consider(self, run: int, value: float, by: str, state: State) -> None:
        """Remember the state with this mean return if it is the run's best so far, see `RunFolder.consider`."""
        if run in self:
            self._folders[run].consider(value, by, state)

    def consider_all(
        self,
        columns: Mapping[int, Mapping[str, float]],
        evaluations: Mapping[int, float],
        before: Mapping[int, State],
        after: Mapping[int, State],
        errors: Errors,
    ) -> None:
        """Let every folder remember the run's best state: by evaluations where they are on the way, else by returns.

        The returns of an iteration were played with the parameters from before it.

        Args:
            columns: of the runs whose iteration is complete.
            evaluations: mean returns of those that were evaluated after it.
            before, after: the states of the runs, before and after it.
            errors: runs that have one are left out.
        """
        by_evaluation = self._configs[0].evaluation.every > 0
        for run, numbers in columns.items():
            if errors[run]:
                continue
            if by_evaluation:
                if run in evaluations:
                    self.consider(run, evaluations[run], EVALUATION, after[run])
            elif not math.isnan(numbers["episode/return_mean"]):  # an episode has finished
                self.consider(run, numbers["episode/return_mean"], "episode/return_mean", before[run])

    def checkpoints(
        self, learned: Collection[int], newest: Mapping[int, State], seconds: Callable[[int], Mapping[str, float]]
    ) -> Errors:
        """Write the checkpoints that are due: by count those of runs that have just learned, by time those of all.

        Args:
            learned: runs whose iteration is complete now.
            newest: the state of every run that goes on.
            seconds: that a run has taken, see `resume.Point`.

        Returns:
            What prevented it, of the runs that it prevented.
        """
        settings, begin = self._configs[0].checkpoint, time.monotonic()
        by_time = settings.seconds > 0 and begin >= self._next_save

        def is_due(run: int) -> bool:
            iteration = iterations_of(newest[run])
            by_count = run in learned and settings.every > 0 and iteration % settings.every == 0
            return iteration > 0 and iteration != self._folders[run].saved and (by_time or by_count)

        due = [run for run in newest if run in self and is_due(run)]
        found = together(
            lambda run: problem_of(
                lambda: self._folders[run].save(newest[run], seconds(run)), self._folders[run].folder
            ),
            due,
        )
        if by_time:
            end = time.monotonic()
            self._next_save = end + max(settings.seconds, (end - begin) / SHARE)
        return {run: problem for run, problem in zip(due, found, strict=True) if problem}

    def finish(
        self,
        run: int,
        result: RunResult,
        state: State,
        seconds: Mapping[str, float],
        details: str = "",
        video: Any = None,
    ) -> str | None:
        """Write the last checkpoint and `result.json`; what prevented it.

        Args:
            details: for the log, such as a traceback.
            video: of the evaluation, as `RunFolder.write` takes it.
        """
        folder = self._folders[run]
        if details:
            problem_of(lambda: folder.log(details), folder.folder)
        return problem_of(lambda: folder.finish(result, state, seconds, video), folder.folder)

    def close(self) -> None:
        """Close every file; once more does nothing."""
        for folder in self._folders.values():
            problem_of(folder.close, folder.folder)


def together(call: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """What a call that waits for the disk returns for each item, all of them at the same time."""
    if len(items) < 2:
        return [call(item) for item in items]
    with ThreadPoolExecutor(min(WRITERS, len(items))) as pool:
        return list(pool.map(call, items))
