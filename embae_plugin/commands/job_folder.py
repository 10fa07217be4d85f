"""A folder that a long command fills: never overwritten unasked, and resumed by the same command.

While the command is at work, the hidden folder :data:`WORK` lies in it, holding what to resume
from and the settings it was started with. It goes when all is done, so its absence means that the
results are whole. A lock beside it keeps a second run out.
"""

from __future__ import annotations

import errno
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from embae_plugin.atomic_file import remove_drafts
from embae_plugin.evaluation.score_table import write_text
from embae_plugin.one_at_a_time import LOCK, only_one
from embae_plugin.training.run_identity import changed_settings

logger = logging.getLogger(__name__)

WORK, JOB = ".unfinished", "job.json"
Skipped: TypeAlias = "list[tuple[str, str]]"  # (path, reason) of images that cannot be used


class JobFolder:
    """The results' folder of one command.

    Args:
        out: the folder; it need not exist.
        results: files and folders that the command writes there, the one that comes last at the
            end.
        settings: plain values; an unfinished run is resumed only with the same.
    """

    def __init__(
        self, out: str | Path, results: Sequence[str], settings: Mapping[str, Any]
    ) -> None:
        self.out, self.results, self.settings = Path(out), results, dict(settings)
        self.work = self.out / WORK
        self._job = self.work / JOB

    def found(self, force: bool = False) -> Skipped | None:
        """The images that an unfinished run of the same settings left out; None without such a run.

        Writes nothing.

        Raises:
            ValueError: the folder holds something else, and not ``force``.
        """
        out = self.out
        if out.exists() and not out.is_dir():
            raise ValueError(f"{out} is a file: name a folder with --out")
        held = out.iterdir() if out.exists() else ()
        begun = self._job.is_file()  # a process killed before it was has left its folder alone
        if force or all(
            path.suffix == ".log" or path.name == LOCK or (path == self.work and not begun)
            for path in held
        ):
            return None
        if not self._job.is_file():
            done = (out / self.results[-1]).is_file()
            what = "the results of a finished run" if done else "other files"
            raise ValueError(f"{out} holds {what}: name another folder with --out, or replace "
                             "what is in it with --force")
        try:
            noted = json.loads(self._job.read_text(encoding="utf-8"))
            then = dict(noted["settings"])
            skipped = [(str(path), str(reason)) for path, reason in noted["notes"]["skipped"]]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError(f"{self._job} is damaged: start anew with --force") from None
        if changed := changed_settings(then, json.loads(json.dumps(self.settings))):
            raise ValueError(
                f"{out} holds an unfinished run with other settings:\n{changed}\n"
                "finish it with its own, start anew with --force, or name another --out"
            )
        return skipped

    @contextmanager
    def filling(
        self, skipped: Skipped | Callable[[], Skipped], anew: bool, force: bool = False,
        command: str = "",
    ) -> Iterator[None]:
        """Marks the folder as being filled, and as whole after the block.

        Args:
            skipped: images left out, to be noted; or what finds them, called when it is clear.
            anew: first removes what an earlier run left.
            force: as for :meth:`found`.
            command: what resumes the run, for :func:`job_command`.

        Raises:
            ValueError: another run is at work in it, or was since :meth:`found`.
        """
        with only_one(self.out / LOCK):
            if (self.found(force) is None) is not anew:
                raise ValueError(f"another run was at work on {self.out} just now; try again")
            self._clear(anew)
            notes = {"skipped": skipped() if callable(skipped) else skipped}
            job = {"settings": self.settings, "notes": notes, "command": command}
            write_text(self._job, json.dumps(job, indent=1) + "\n")
            yield
            self._job.unlink(missing_ok=True)
            shutil.rmtree(self.work, ignore_errors=True)

    def _clear(self, anew: bool) -> None:
        if not anew:
            logger.info("%s: resuming a run that was not finished", self.out)
        # The one that says that all is whole goes first.
        for name in (*reversed(self.results), WORK) if anew else ():
            left = self.out / name
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
        for name in self.results:
            remove_drafts(self.out / name)


def job_command(out: str | Path) -> str | None:
    """What resumes the unfinished run in a folder, "" where it does not say; None if none is."""
    try:
        job = json.loads((Path(out) / WORK / JOB).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        return ""
    return str(job.get("command", "")) if isinstance(job, dict) else ""


@contextmanager
def explained_disk_errors(out: str | Path) -> Iterator[None]:
    """Turns a full disk into words that say what to do."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        if not full or isinstance(error, FileNotFoundError):
            raise
        raise OSError(f"the disk with {out} is full ({error}): free some space; re-running the "
                      "same command resumes") from error
