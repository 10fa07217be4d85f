"""What a command sets up in its own process before it works."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

logger = logging.getLogger(__name__)


class _BesideBars(logging.Handler):
    """Writes above running progress bars instead of through them."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


@contextmanager
def log_to(
    log_file: Path | None = None, verbose: bool = False, quiet: bool = False
) -> Iterator[None]:
    """Logs to the terminal and, with everything, to ``log_file`` (appended to).

    ``quiet`` leaves the terminal to errors. An error that ends the block is in the file with its
    traceback.
    """
    root = logging.getLogger("embae_plugin")
    root.setLevel(logging.DEBUG)
    terminal = _BesideBars()
    terminal.setLevel(logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO)
    terminal.setFormatter(logging.Formatter("%(levelname).1s %(message)s"))
    handlers: list[logging.Handler] = [terminal]
    if log_file is not None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(log_file, encoding="utf-8", errors="backslashreplace")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        handlers.append(file)
    for handler in handlers:
        root.addHandler(handler)
    try:
        yield
    except BaseException:
        logger.debug("stopped by", exc_info=True)
        raise
    finally:
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()
