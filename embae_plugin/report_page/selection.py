"""Which ranked lists are worth a reader's time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from embae_plugin.evaluation.protocols import Protocol
from embae_plugin.report_page.pairing import UNKNOWN, Ints, Pair
from embae_plugin.report_page.retrieval import (
    Doubles,
    Entry,
    PerQuery,
    neighbours,
    overlap,
    ranked_list,
)


@dataclass(frozen=True)
class Ranked:
    """One query with its nearest crops before and after; notes say how good they are."""

    query: int
    before: list[Entry]
    after: list[Entry]
    note_before: str = ""
    note_after: str = ""


@dataclass(frozen=True)
class Group:
    """Lists chosen by one rule."""

    title: str
    explanation: str
    lists: list[Ranked]


def pick(values: Doubles, pids: Ints, count: int, wanted: Callable[[float], bool]) -> list[int]:
    """Places of the largest ``values`` that are ``wanted``, one for each known identity.

    Equal values come in the order of their places.
    """
    chosen: list[int] = []
    seen: set[int] = set()
    for place in np.argsort(-values, kind="stable"):
        pid = int(pids[place])
        if len(chosen) == count or np.isnan(values[place]) or not wanted(values[place]):
            break
        if pid == UNKNOWN or pid not in seen:
            chosen.append(int(place))
            seen.add(pid)
    return chosen


def labelled_groups(
    pair: Pair, query: Ints, each: tuple[PerQuery, PerQuery], protocol: Protocol,
    count: int, length: int,
) -> list[Group]:  # fmt: skip
    """Best, worst and most changed queries under a protocol, by average precision."""
    old, new = each[0].precision, each[1].precision
    gain = new - old
    rules = (
        ("Most improved", "the largest gains of average precision", gain, lambda v: v > 0),
        ("Most worsened", "the largest losses of average precision", -gain, lambda v: v > 0),
        ("Best after adaptation", "the highest average precision", new, lambda v: True),
        ("Worst after adaptation", "the lowest average precision", -new, lambda v: True),
    )

    def ranked(place: int) -> Ranked:
        row = int(query[place])
        lists = [ranked_list(pair, x, row, protocol, length) for x in (pair.before, pair.after)]
        notes = [f"average precision {values[place]:.2f}" for values in (old, new)]
        return Ranked(row, lists[0], lists[1], notes[0], notes[1])

    chosen = [
        Group(title, f"Queries with {text}, one for each identity.",
              [ranked(place) for place in pick(values, pair.pids[query], count, wanted)])
        for title, text, values, wanted in rules
    ]  # fmt: skip
    return [group for group in chosen if group.lists]


def unlabelled_groups(pair: Pair, query: Ints, count: int, length: int) -> list[Group]:
    """Crops whose neighbours on other cameras changed most, and least."""
    old, old_distance = neighbours(pair, pair.before, query, length)
    new, new_distance = neighbours(pair, pair.after, query, length)
    if not (old >= 0).any():  # a single camera
        return []
    kept = overlap(new, old)
    nobody = np.full(len(query), UNKNOWN)
    rules = (
        ("Most changed neighbours", "share the fewest neighbours before and after", 1 - kept),
        ("Least changed neighbours", "share the most neighbours before and after", kept),
    )

    def ranked(place: int) -> Ranked:
        sides = []
        for mine, other, near in ((old, new, old_distance), (new, old, new_distance)):
            sides.append([
                Entry(int(row), float(d), "kept" if row in other[place] else "new")
                for row, d in zip(mine[place], near[place], strict=True)
                if row >= 0
            ])  # fmt: skip
        return Ranked(int(query[place]), sides[0], sides[1],
                      note_after=f"{kept[place]:.0%} of the neighbours stayed")  # fmt: skip

    return [
        Group(title, f"Crops that {text}; their nearest crops on other cameras.",
              [ranked(place) for place in pick(values, nobody, count, lambda v: True)])
        for title, text, values in rules
    ]  # fmt: skip
