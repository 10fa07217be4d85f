"""How far long work is: a bar on a terminal, and elsewhere a line of the log every half minute.

Where bars are shown the same lines have level DEBUG, so that log files have them all the same. A
line comes from whoever counts, or, where one step takes long, from a thread that does nothing else.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")
EVERY = 30.0  # seconds between two lines, at most


def in_words(seconds: float) -> str:
    """A length of time: 45 s, 12 min, 3 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class Progress:
    """Counts the work of one stage, in a ``with`` block.

    Args:
        stage: what is done.
        total: how much of it there is; None where nobody knows.
        unit: what is counted.
        done: how much of it an earlier run has done.
        leave: the bar stays when all is done.
        delay: seconds before there is a bar.
    """

    bars: ClassVar[bool] = True  # whether a terminal gets them
    _last: ClassVar[float] = time.monotonic()  # when any of them last said something
    _open: ClassVar[list[Progress]] = []

    def __init__(
        self, stage: str, total: int | None = None, unit: str = "img", done: int = 0,
        leave: bool = False, delay: float = 0.0,
    ) -> None:
        from tqdm import tqdm  # not above: `embae doctor` runs without it

        self.stage, self.total, self.unit, self.done = stage, total, unit, done
        self._first, self._began, self._lines = done, time.monotonic(), 0
        self._said, self._words, self._fields = self._began, "", dict[str, Any]()
        self._bar = tqdm(total=total, initial=done, desc=stage, unit=unit, leave=leave,
                         delay=delay, disable=None if self.bars else True)
        self._level = logging.INFO if self._bar.disable else logging.DEBUG
        self._over = threading.Event()

    def __enter__(self) -> Progress:
        self._open.append(self)
        threading.Thread(target=self._watch, daemon=True, name=f"progress of {self.stage}").start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._over.set()
        self._open.remove(self)
        if self._lines and kind is None:
            self._say("all done")
        self._bar.close()

    @classmethod
    def begin(cls) -> None:
        """Counts the half minute without a line from now on."""
        cls._last = time.monotonic()

    def update(self, count: int = 1, total: int | None = None) -> None:
        """Counts; ``total`` is set where it has come to be known better."""
        self.done += count
        if total is not None:
            self.total = self._bar.total = total
        self._bar.update(count)
        if self.due():
            self._say()

    def due(self) -> bool:
        """Whether the next :meth:`update` says something: a little before the thread would."""
        now = time.monotonic()
        return now - Progress._last >= 2 / 3 * EVERY or now - self._said >= EVERY

    def tell(self, words: str, fields: Mapping[str, Any]) -> None:
        """What the next lines say beside the count, in words and by name."""
        self._words, self._fields = words, dict(fields)
        self._bar.set_postfix_str(words, refresh=False)

    def _watch(self) -> None:
        pause = EVERY
        while not self._over.wait(pause):
            pause = EVERY - (time.monotonic() - Progress._last)
            if pause <= 0 and self is self._open[-1]:  # the one at work, not those around it
                self._say()
                pause = EVERY
            pause = pause if pause > 0 else min(1.0, EVERY)

    def _say(self, more: str = "") -> None:
        now = time.monotonic()
        Progress._last, self._said, self._lines = now, now, self._lines + 1
        seconds, gone = now - self._began, self.done - self._first
        rate = gone / seconds if seconds > 0 else 0.0
        left = (self.total - self.done) / rate if self.total and rate else None
        of = f" of {self.total:,}" if self.total else ""
        parts = [self._words, f"{self.done:,}{of} {self.unit}" if self.done or of else "",
                 f"{rate:.3g} {self.unit}/s" if rate else f"running for {in_words(seconds)}",
                 more or ("" if left is None else f"{in_words(left)} left")]
        fields = {"stage": self.stage, "done": self.done, "total": self.total,
                  "rate": round(rate, 4), "seconds_left": None if left is None else round(left, 1)}
        said = ", ".join(part for part in parts if part)
        logger.log(self._level, "%s: %s", self.stage, said,
                   extra={"progress": {**self._fields, **fields}})


def progress(
    items: Iterable[T], stage: str, total: int | None = None, unit: str = "img", **how: Any
) -> Iterator[T]:
    """The items, counted as they are done; ``how`` are further arguments of :class:`Progress`."""
    count = len(items) if total is None and isinstance(items, Sized) else total
    with Progress(stage, count, unit, **how) as bar:
        for item in items:
            yield item
            bar.update()


def finite(value: float) -> float | None:
    """A number as JSON can hold it."""
    return value if math.isfinite(value) else None


@contextmanager
def without_bars() -> Iterator[None]:
    """Lines of the log on a terminal, too."""
    before, Progress.bars = Progress.bars, False
    try:
        yield
    finally:
        Progress.bars = before
