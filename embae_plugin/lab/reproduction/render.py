"""Tables as text, Markdown, CSV, JSON and a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tabulate import tabulate

from embae_plugin.atomic_file import replacing
from embae_plugin.evaluation.score_table import HEADERS
from embae_plugin.lab.reproduction.published import TABLES
from embae_plugin.lab.reproduction.tables import Cell, TableResult
from embae_plugin.lab.seeds import mean_text

Results = Sequence[TableResult]


def _signed(value: float | None) -> str:
    return "" if value is None else f" ({value:+.3f})"


def _texts(cell: Cell) -> list[str]:
    """The score, published and ours, and the difference."""
    theirs = "–" if cell.published is None else f"{cell.published:.3f}"
    difference = "–" if cell.difference is None else f"{cell.difference:+.3f}"
    return [HEADERS[cell.score], theirs + _signed(cell.published_gain),
            mean_text(cell.values) + _signed(cell.gain), difference]


def heading(table: TableResult) -> str:
    """``Table 1. EmbAE trained on one data set: dukemtmcreid → market1501``."""
    title = TABLES[table.number].title
    return f"Table {table.number}. {title}: {', '.join(table.sources)} → {table.target}"


def remarks(table: TableResult) -> list[str]:
    """What has to be said about a table: data, seeds, rows, the paper's print."""
    lines, done, seeds = [], len(table.seeds), ", ".join(map(str, table.seeds))
    if table.missing:
        lines.append(f"Not run: {table.missing}")
    elif not done:
        lines.append("Not run yet.")
    else:
        text = (f"Ours: one seed ({seeds}), so no spread." if done == 1 else
                f"Ours: mean ± standard deviation over {done} seeds ({seeds}).")
        left = [str(seed) for seed in table.wanted if seed not in table.seeds]
        lines.append(text + (f" Not run yet: {', '.join(left)}." if left else ""))
        least = {row[0].model: min(len(cell.values) for cell in row) for row in table.rows}
        lines += [f"{model}: {count or 'none'} of these {done} seeds."
                  for model, count in least.items() if count < done]
    if table.differs and not table.missing:
        lines.append(
            "The data differ from the paper's, so the published numbers stand beside ours for "
            f"reference only and no difference is taken: {'; '.join(table.differs)}."
        )
    return [*lines, *table.notes, *TABLES[table.number].footnotes]


def grid(table: TableResult, style: str) -> str:
    """The table in a ``tabulate`` style: a line for each model and score."""
    published = "Published (other data)" if table.differs else "Published"
    lines = [["Model", "Score", published, "Ours", "Difference"]]
    lines += [["" if number else cell.model, *_texts(cell)]
              for row in table.rows for number, cell in enumerate(row)]
    lines = [line[:-1] for line in lines] if table.differs else lines
    return str(tabulate(lines, "firstrow", style, disable_numparse=True))


def as_text(tables: Results) -> str:
    """For the terminal."""
    return "\n\n".join("\n".join([heading(t), grid(t, "simple"), *remarks(t)]) for t in tables)


def as_markdown(tables: Results, command: str) -> str:
    """A page with every table; gains over the baseline are in brackets."""
    made = f"Made by `{command}`. In brackets: the gain over the baseline."
    parts = ["# The paper's tables", made]
    for table in tables:
        lines = "\n".join(f"- {line}" for line in remarks(table))
        parts += [f"## {heading(table)}", grid(table, "github"), lines]
    return "\n\n".join(parts) + "\n"


def records(table: TableResult) -> Iterable[dict[str, Any]]:
    """One flat record for each model and score."""
    for cell in (cell for row in table.rows for cell in row):
        record = asdict(cell)
        del record["comparable"]
        values = list(record.pop("values"))
        yield {"table": table.number, **record, "seeds": list(table.seeds), "values": values,
               "sources": list(table.sources), "target": table.target,
               "data_differ": bool(table.differs)}


def as_csv(tables: Results) -> str:
    """The records as CSV; lists are joined by a blank."""
    rows = [record for table in tables for record in records(table)]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: f"{value:.6f}" if isinstance(value, float) else
                         " ".join(map(str, value)) if isinstance(value, list) else value
                         for key, value in row.items()})
    return stream.getvalue()


def as_json(tables: Results) -> list[dict[str, Any]]:
    """The tables with remarks, each with its records."""
    return [
        {"table": table.number, "title": TABLES[table.number].title,
         "sources": list(table.sources), "target": table.target, "seeds": list(table.seeds),
         "wanted_seeds": list(table.wanted), "missing": table.missing,
         "data_differ": list(table.differs), "remarks": remarks(table),
         "rows": list(records(table))}
        for table in tables
    ]


def plot_tables(path: str | Path, tables: Results) -> None:
    """As PNG, a row of panels for each table with scores: ours as bars, the published as marks."""
    from matplotlib.figure import Figure  # not pyplot, whose backend is the caller's choice

    shown = [table for table in tables if table.seeds]
    if not shown:
        return
    heights = [0.9 + 0.34 * len(table.rows) for table in shown]
    figure = Figure(figsize=(12, sum(heights)), layout="constrained")
    strips = figure.subfigures(len(shown), 1, height_ratios=heights, squeeze=False)[:, 0]
    for strip, table in zip(strips, shown, strict=True):
        strip.suptitle(heading(table), fontsize=10, x=0.01, ha="left")
        columns = list(zip(*table.rows, strict=True))
        panels = strip.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        for axes, cells in zip(panels, columns, strict=True):
            _panel(axes, cells)
        marks = {label: mark for axes in panels
                 for mark, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        strip.legend(marks.values(), marks.keys(), fontsize=7, loc="upper right", ncols=3)
    with replacing(path) as draft:
        figure.savefig(draft, format="png", dpi=130)


def _panel(axes: Any, cells: Sequence[Cell]) -> None:
    axes.barh(
        range(len(cells)), [cell.ours or 0.0 for cell in cells], 0.6, color="tab:blue",
        xerr=[cell.spread or 0.0 for cell in cells], error_kw={"elinewidth": 1, "capsize": 2},
        label="ours, mean ± spread",
    )
    # A hollow mark is another method's or other data's number: for reference, not to be matched.
    for same, name in ((True, "published"), (False, "published (not comparable)")):
        marks = [(cell.published, place) for place, cell in enumerate(cells)
                 if cell.published is not None and cell.comparable == same]
        if marks:
            axes.scatter(*zip(*marks, strict=True), marker="D", s=22, edgecolors="black", zorder=3,
                         facecolors="black" if same else "white", label=name)
    axes.set_yticks(range(len(cells)), [cell.model for cell in cells], fontsize=8)
    axes.set_ylim(len(cells) - 0.5, -0.5)
    axes.set_xlim(0, max([0.1, *(1.15 * v for c in cells for v in (c.ours, c.published) if v)]))
    axes.tick_params(axis="x", labelsize=7)
    axes.set_title(HEADERS[cells[0].score], fontsize=9)
