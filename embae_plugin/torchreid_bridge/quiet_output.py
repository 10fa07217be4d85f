"""Turns what a library prints into log lines."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout


class _LogLines(io.TextIOBase):
    """A text stream that logs each complete line at DEBUG."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in filter(str.strip, lines):
            self._logger.debug("%s", line.rstrip())
        return len(text)


@contextmanager
def printed_to_log(logger: logging.Logger) -> Iterator[None]:
    """Send what a block prints on standard output to ``logger``, line by line, at DEBUG."""
    stream = _LogLines(logger)
    try:
        with redirect_stdout(stream):
            yield
    finally:
        stream.write("\n")
