"""Plots as inline SVG that take the page's colours, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from embae_plugin.report_page.pairing import Floats
from embae_plugin.report_page.projection import Doubles, Points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#010203"  # stands for the page's text colour
BEFORE, AFTER = "#d9822b", "#3f8fd2"
COLOURS = (
    "#3f8fd2", "#d9822b", "#2f9e70", "#d1556b", "#9a76d8", "#a39128", "#c463b2", "#4fa3b5",
    "#a9744a", "#7d9a3a",
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
SYMBOLS = ("●", "■", "▲", "◆", "▼", "✚", "✖", "★", "◀", "▶")
GREY = "#8a8f98"

_STYLE: Any = {
    "svg.fonttype": "none", "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK,
    "xtick.color": INK, "ytick.color": INK, "font.size": 9, "axes.spines.top": False,
    "axes.spines.right": False, "axes.facecolor": "none", "legend.frameon": False,
    "grid.color": INK, "grid.alpha": 0.15, "text.parse_math": False,
}


def style(index: int) -> tuple[str, str, str]:
    """Colour, matplotlib marker and the same marker as a character, of the i-th group."""
    marker = (index // len(COLOURS) + index) % len(MARKERS)
    return COLOURS[index % len(COLOURS)], MARKERS[marker], SYMBOLS[marker]


def _drawn(name: str, draw: Callable[[Axes], None], size: tuple[float, float]) -> Markup:
    """What ``draw(axes)`` draws, as SVG whose ids begin with ``name``."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True,
                       metadata={"Date": None, "Creator": None})
    # Without prologue, fixed size and metadata; ids apart from those of other plots.
    svg = out.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    for side in ("width", "height"):
        svg = re.sub(rf'(<svg[^>]*?) {side}="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)
    return Markup(svg.replace(INK, "currentColor").strip())


def cmc_figure(name: str, before: Doubles, after: Doubles) -> Markup:
    """Cumulative match characteristics."""

    def draw(axes: Axes) -> None:
        ranks = np.arange(1, len(before) + 1)
        axes.plot(ranks, before, color=BEFORE, linestyle="--", marker="s", ms=3, label="before")
        axes.plot(ranks, after, color=AFTER, marker="o", ms=3, label="after")
        axes.set(xlabel="rank", ylabel="share of queries matched", ylim=(0, 1.02))
        axes.set_xticks([1, *range(5, len(before) + 1, 5)])
        axes.grid(True)
        axes.legend(loc="lower right" if min(before[-1], after[-1]) > 0.4 else "upper left")

    return _drawn(name, draw, (4.2, 3.1))


def histogram_figure(name: str, groups: Mapping[str, Floats]) -> Markup:
    """Densities of distances; the first with a solid outline, the second with a dashed one."""
    from matplotlib.colors import to_rgba

    limits = (0, max(float(values.max()) for values in groups.values()) or 1.0)

    def draw(axes: Axes) -> None:
        looks = ((COLOURS[2], "-"), (COLOURS[3], "--"))
        for (label, values), (colour, line) in zip(groups.items(), looks, strict=False):
            axes.hist(values, bins=50, range=limits, density=True, histtype="stepfilled",
                      facecolor=to_rgba(colour, 0.45), edgecolor=colour, linestyle=line,
                      linewidth=1.4, label=label)
        axes.set(xlabel="distance", ylabel="density", xlim=limits, yticks=[])
        axes.margins(y=0.3)  # room for the legend
        axes.legend(loc="upper left")

    return _drawn(name, draw, (4.2, 2.6))


def scatter_figure(name: str, points: Points, groups: NDArray[np.int64], count: int) -> Markup:
    """Points of ``count`` groups in their styles; group −1 small and grey, underneath."""

    def draw(axes: Axes) -> None:
        x, y = points[groups < 0].T
        axes.scatter(x, y, s=6, c=GREY, alpha=0.35, linewidths=0)
        for group in range(count):
            colour, marker, _ = style(group)
            x, y = points[groups == group].T
            axes.scatter(x, y, s=13, c=colour, marker=marker, alpha=0.8, linewidths=0)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.set_aspect("equal", adjustable="datalim")

    return _drawn(name, draw, (4.2, 3.6))
