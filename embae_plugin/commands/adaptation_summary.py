"""What an adaptation changed, in words that need no knowledge of the method."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from embae_plugin.evaluation.score_table import dropped_note, score_table


def _change(change: Mapping[str, Any]) -> list[str]:
    """Sentences on the numbers of :class:`embae_plugin.evaluation.change.Change`."""
    cosine = change["mean_cosine"]
    if cosine is None:
        moved = "The embedding is another feature of the network now, of another width."
    else:
        much = "hardly moved" if cosine > 0.98 else "moved much"
        much = "moved a little" if 0.8 < cosine <= 0.98 else much
        moved = (f"Embeddings {much}: the mean cosine between a crop's embedding before and after "
                 f"is {cosine:.2f} (1 = unchanged).")
    if change["new_neighbour"] is None:
        return [moved, "There is one camera, so nothing can be said across cameras."]
    percent = {key: f"{100 * change[key]:.0f} %" for key in (
        "new_neighbour", "same_camera_before", "same_camera_after", "same_camera_by_chance")}
    lines = [
        moved,
        f"For {percent['new_neighbour']} of the crops the most similar crop on another camera is "
        "a different one now.",
        "The most similar crop of all was on the same camera for {same_camera_before} of the "
        "crops, and is for {same_camera_after} now ({same_camera_by_chance} if cameras played no "
        "role). A camera sees a person many times in a row, so a high share is natural; it says "
        "how much a camera's look counts, not how good the model is.".format(**percent),
    ]
    if None not in (change["gap_before"], change["gap_after"]):
        lines.append(
            "The nearest crop on another camera lies farther off than the nearest on the same one "
            f"by {change['gap_before']:.2f} mean distances before and {change['gap_after']:.2f} "
            "after (0 = no difference between cameras)."
        )
    return lines


def summary_text(content: Mapping[str, Any]) -> str:
    """The content of summary.json as plain words, with the table of scores if there is one."""
    method, rows = content["method"], content["scores"]
    skipped = f", {content['skipped']} more could not be used" if content["skipped"] else ""
    by = f", by {method['method']}" if method.get("method") else ""
    parts = [f"Adapted {content['checkpoint']} to {content['images']:,} crops of "
             f"{len(content['cameras'])} camera(s){skipped}, in {content['seconds']:.0f} seconds"
             f"{by}."]
    if method.get("left_out"):
        parts.append("Pseudo-labels were left out, because the crops do not show groups that look "
                     f"like people photographed several times: {method['left_out']}.")
    parts += _change(content["change"])
    parts.append(
        "Scores on the crops whose identity you gave, each a query among the others; in brackets "
        "the gain:" if rows else
        "How sure is it that the model is better? Not sure: no label was read, and the numbers "
        "above say that it changed, not that it improved; none of them goes reliably with "
        "accuracy. To know, write a table path,camid,pid with some dozens of people, each seen by "
        "two cameras, and adapt again with --csv: both models are then scored. Crops without pid "
        "may be in the table, too."
    )
    texts = [textwrap.fill(part, width=88) for part in parts]
    if rows:
        texts += [score_table(rows), textwrap.fill(dropped_note(rows), width=88)]
    return "\n\n".join(filter(None, texts))
