"""What an adaptation changed, in words that need no knowledge of the method."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from embae_plugin.evaluation.score_table import dropped_note, score_table


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


def _paragraph(text: str) -> str:
    return textwrap.fill(text, width=88)


def _how_much(cosine: float) -> str:
    if cosine > 0.98:
        return "hardly moved"
    return "moved a little" if cosine > 0.8 else "moved much"


def _change(change: Mapping[str, Any]) -> list[str]:
    """Sentences on the numbers of :class:`embae_plugin.evaluation.change.Change`."""
    cosine = change["mean_cosine"]
    moved = "The embedding is another feature of the network now, of another width."
    if cosine is not None:
        moved = (
            f"Embeddings {_how_much(cosine)}: the mean cosine between a crop's embedding before "
            f"and after is {cosine:.2f} (1 = unchanged)."
        )
    lines = [moved]
    if change["new_neighbour"] is None:
        return [*lines, "There is one camera, so nothing can be said across cameras."]
    lines.append(
        f"For {_share(change['new_neighbour'])} of the crops the most similar crop on another "
        "camera is a different one now."
    )
    then, now = change["same_camera_before"], change["same_camera_after"]
    lines.append(
        f"The most similar crop of all was on the same camera for {_share(then)} of the crops, "
        f"and is for {_share(now)} now ({_share(change['same_camera_by_chance'])} if cameras "
        "played no role). A camera sees a person many times in a row, so a high share is "
        "natural; it says how much a camera's look counts, not how good the model is."
    )
    if change["gap_before"] is not None and change["gap_after"] is not None:
        lines.append(
            "The nearest crop on another camera lies farther off than the nearest on the same "
            f"one by {change['gap_before']:.2f} mean distances before and "
            f"{change['gap_after']:.2f} after (0 = no difference between cameras)."
        )
    return lines


def summary_text(content: Mapping[str, Any]) -> str:
    """The content of summary.json as plain words, with the table of scores if there is one."""
    method = content["method"].get("method", "")
    skipped = f", {content['skipped']} more could not be used" if content["skipped"] else ""
    parts = [
        f"Adapted {content['checkpoint']} to {content['images']:,} crops of "
        f"{len(content['cameras'])} camera(s){skipped}, in {content['seconds']:.0f} seconds"
        + (f", by {method}." if method else ".")
    ]
    if content["method"].get("left_out"):
        parts.append(
            "Pseudo-labels were left out, because the crops do not show groups that look like "
            f"people photographed several times: {content['method']['left_out']}."
        )
    parts += _change(content["change"])
    rows = content["scores"]
    text = "\n\n".join(_paragraph(part) for part in parts)
    if rows:
        note = dropped_note(rows)
        return (
            f"{text}\n\n"
            + _paragraph("Scores on the crops whose identity you gave, each a query among the "
                         "others; in brackets the gain:")
            + f"\n\n{score_table(rows)}" + (f"\n\n{_paragraph(note)}" if note else "")
        )  # fmt: skip
    doubt = (
        "How sure is it that the model is better? Not sure: no label was read, and the numbers "
        "above say that it changed, not that it improved; none of them goes reliably with "
        "accuracy. To know, write a table "
        "path,camid,pid with some dozens of people, each seen by two cameras, and adapt again "
        "with --csv: both models are then scored. Crops without pid may be in the table, too."
    )
    return f"{text}\n\n{_paragraph(doubt)}"
