"""What a command sets up in its own process before it works."""

from __future__ import annotations

import ctypes
import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from embae_plugin.progress import Progress, without_bars

logger = logging.getLogger(__name__)

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and line feed
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt


class _BesideBars(logging.Handler):
    """Writes above running progress bars instead of through them."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm  # not above: `embae doctor` runs without it

        tqdm.write(self.format(record), file=sys.stderr)
        Progress.begin()  # any line shows that there is life


class AsJson(logging.Formatter):
    """One JSON object a line: time, level, logger, message; of progress, how far it is."""

    def format(self, record: logging.LogRecord) -> str:
        """See :class:`logging.Formatter`."""
        content = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(),
            "level": record.levelname, "logger": record.name, "message": record.getMessage(),
        }
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return json.dumps({**getattr(record, "progress", {}), **content}, default=str)


def _terminal_format(as_json: bool) -> logging.Formatter:
    """How lines look on stderr; those that nobody watches say when they were written."""
    if as_json:
        return AsJson()
    when = "" if sys.stderr.isatty() else "%(asctime)s "
    return _Printable(f"{when}%(levelname).1s %(message)s", "%H:%M:%S")


_as_json = False  # what log_to writes to stderr


@contextmanager
def json_lines(wanted: bool = True) -> Iterator[None]:
    """While it lasts, :func:`log_to` writes JSON to stderr, Python's warnings included."""
    global _as_json
    if not wanted:
        yield
        return
    _as_json = True
    logging.captureWarnings(True)
    try:
        with without_bars():
            yield
    finally:
        logging.captureWarnings(False)
        _as_json = False


def complain(text: str, as_json: bool = False) -> None:
    """Says on stderr why the process ends."""
    if as_json:
        text = AsJson().format(logging.LogRecord("embae", logging.ERROR, "", 0, text, None, None))
    sys.stderr.write(f"{text}\n")


class _Printable(logging.Formatter):
    """Records in which file names steer no terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def printable(text: str) -> str:
    """Text for a terminal, which would follow the control characters that a file name may hold."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


@contextmanager
def log_to(
    log_file: Path | None = None, verbose: bool = False, quiet: bool = False
) -> Iterator[None]:
    """Logs to the terminal and, with everything, to ``log_file`` (appended to).

    ``quiet`` leaves the terminal to errors. An error that ends the block is in the file with its
    traceback.
    """
    Progress.begin()
    root = logging.getLogger("embae_plugin")
    root.setLevel(logging.DEBUG)
    terminal = _BesideBars()
    terminal.setLevel(logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO)
    terminal.setFormatter(_terminal_format(_as_json))
    handlers: list[logging.Handler] = [terminal]
    if log_file is not None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(log_file, encoding="utf-8", errors="backslashreplace")
        file.setFormatter(_Printable("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        handlers.append(file)
    warned = logging.getLogger("py.warnings")
    for handler in handlers:
        root.addHandler(handler)
        warned.addHandler(handler)
    try:
        yield
    except BaseException:
        logger.debug("stopped by", exc_info=True)
        raise
    finally:
        for handler in handlers:
            root.removeHandler(handler)
            warned.removeHandler(handler)
            handler.close()


def tune_allocator() -> None:
    """Lets glibc keep freed activations instead of giving them back to the system each time.

    By default glibc maps every block above some megabytes afresh, so each layer's output costs
    page faults; with this, a MobileNet forward pass on 256 x 128 crops takes about half the time
    on a CPU (``embae benchmark`` shows it). It concerns the whole process, so only commands do
    it, never an import. Without glibc it does nothing.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    # glibc caps the mmap threshold at 32 MB on its own, but takes larger values when told.
    if mallopt(_M_MMAP_THRESHOLD, 1 << 30):
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
