"""Search results as one HTML file with thumbnails, which needs nothing else to be looked at."""

from __future__ import annotations

import html
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from embae_plugin.evaluation.thumbnails import jpeg_address

logger = logging.getLogger(__name__)

_SIZE = (2 * 96, 160)  # of a thumbnail at most, in pixels
_MOST = 500  # queries on a page; a browser opens no more with pleasure
_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2rem; color: #1b1b1b; background: #fff; }
h1 { font-size: 1.2rem; } section { border-top: 1px solid #ddd; padding: .8rem 0; }
.row { display: flex; gap: .6rem; overflow-x: auto; align-items: flex-start; }
figure { margin: 0; flex: 0 0 auto; width: 96px; font-size: 11px; overflow-wrap: anywhere; }
figure.query { padding-right: .6rem; border-right: 3px solid #1b6ac9; }
img, .none { width: 96px; height: 160px; object-fit: contain; background: #f2f2f2; }
.none { display: flex; align-items: center; justify-content: center; color: #666; }
b { display: block; } @media (prefers-color-scheme: dark) {
body { color: #e8e8e8; background: #181818; } img, .none { background: #2a2a2a; } }
"""


def _figure(file: Path, title: str, lines: Sequence[str], kind: str = "hit") -> tuple[str, bool]:
    address = jpeg_address(file, *_SIZE)
    alt = html.escape(file.name, quote=True)
    picture = (
        f'<img src="{address}" alt="{alt}" title="{html.escape(str(file), quote=True)}">'
        if address
        else '<div class="none">no image</div>'
    )
    words = "".join(f"{html.escape(line)}<br>" for line in lines if line)
    caption = f"<figcaption><b>{html.escape(title)}</b>{words}</figcaption>"
    return f'<figure class="{kind}">{picture}{caption}</figure>', bool(address)


def search_page(answers: Sequence[Any], about: Mapping[str, Any]) -> str:
    """The page of a list of ``Answer``; ``about`` says what was searched, one line each."""
    sections, missing = [], 0
    if len(answers) > _MOST:
        logger.warning("the page shows the first %d of %d queries", _MOST, len(answers))
        about = {**about, "shown": f"the first {_MOST} queries"}
    for answer in tqdm(answers[:_MOST], desc="thumbnails", unit="query", disable=None):
        figure, seen = _figure(answer.file, "query", [answer.camera, answer.path], "query")
        figures, missing = [figure], missing + (not seen)
        for rank, hit in enumerate(answer.hits, 1):
            lines = [hit.camera, f"pid {hit.pid}" if hit.pid else "", hit.path]
            figure, seen = _figure(hit.file, f"{rank}: {hit.similarity:.3f}", lines)
            figures.append(figure)
            missing += not seen
        sections.append(f'<section><div class="row">{"".join(figures)}</div></section>')
    if missing:
        logger.warning("%d image(s) could not be read for their thumbnails; if they have moved, "
                       "name their folder with --images", missing)  # fmt: skip
    facts = " · ".join(f"{html.escape(str(k))}: {html.escape(str(v))}" for k, v in about.items())
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>embae search</title>'
        f"<style>{_STYLE}</style></head><body><h1>Most similar crops</h1><p>{facts}. "
        "Numbers are cosine similarities (1 = the same embedding).</p>"
        f"{''.join(sections)}</body></html>\n"
    )
