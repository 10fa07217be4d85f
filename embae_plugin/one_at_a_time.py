"""One run at a time in a folder: a lock that goes with its process, however that ends."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)

LOCK = ".running"  # in a folder that is being filled
_FAR = 1 << 30  # the byte that is locked; those before it say who holds it
_mine: set[Path] = set()  # the system lets one process take its own locks again
_guard = threading.Lock()


@contextmanager
def only_one(lock: Path) -> Iterator[None]:
    """Holds a lock file for the length of the block; its folder is made if it is not there.

    The system lets go of it when the process ends, even by SIGKILL or a power cut, so that what a
    dead process left is taken over. Where a file system has no locks, it is told and goes on.

    Raises:
        ValueError: another run holds it; says which.
        OSError: the folder cannot be written to.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    name = lock.parent.resolve() / lock.name
    with _guard:
        if name in _mine:
            raise ValueError(_taken(lock, "this very process"))
        _mine.add(name)
    try:
        number = _open(lock)
        try:
            yield
        finally:
            if os.name == "posix":  # Windows removes no open file
                lock.unlink(missing_ok=True)
            os.close(number)
            if os.name != "posix":
                lock.unlink(missing_ok=True)
    finally:
        with _guard:
            _mine.discard(name)


def _open(lock: Path) -> int:
    """The lock file, locked, and with a note of who holds it."""
    while True:
        number = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _locked(number):
                holder = os.read(number, 1000).decode(errors="replace").strip()
                raise ValueError(_taken(lock, holder or "another run, which has just started"))
            if _is_at(lock, number):
                os.ftruncate(number, 0)
                os.write(number, _who().encode())
                return number
        except BaseException:
            os.close(number)
            raise
        os.close(number)  # of a run that ended between the two calls


def _is_at(lock: Path, number: int) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.stat(lock), os.fstat(number))
    except FileNotFoundError:
        return False


def _locked(number: int) -> bool:
    """Locks one byte of an open file; False where another process has."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(number, _FAR, os.SEEK_SET)
            msvcrt.locking(number, msvcrt.LK_NBLCK, 1)
            os.lseek(number, 0, os.SEEK_SET)
        else:
            import fcntl

            # Unlike those of flock, these locks are not handed on to processes started from here.
            fcntl.lockf(number, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _FAR)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        logger.warning("this file system has no locks (%s): see to it yourself that no other run "
                       "writes to the same place", error)
    return True


def _who() -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    command = " ".join(word for word in sys.argv[:2] if not word.startswith("-"))
    return f"process {os.getpid()} on {socket.gethostname()}, since {since} ({command})\n"


def _taken(lock: Path, holder: str) -> str:
    where = lock.parent if lock.name == LOCK else lock.with_name(lock.name.removesuffix(LOCK)[1:])
    return (f"another run is at work on {where}: {holder}. Wait until it has ended, stop it, or "
            "name another place")
