"""Tables as text, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from tabulate import tabulate

from embae_plugin.evaluation.score_table import HEADERS
from embae_plugin.lab.reproduction.tables import Cell, TableResult

Results = Sequence[TableResult]


def _signed(value: float | None) -> str:
    return "" if value is None else f" ({value:+.3f})"


def _published(cell: Cell) -> str:
    return "–" if cell.published is None else f"{cell.published:.3f}{_signed(cell.published_gain)}"


def _ours(cell: Cell) -> str:
    if cell.mean is None:
        return "–"
    spread = "" if cell.spread is None else f" ± {cell.spread:.3f}"
    return f"{cell.mean:.3f}{spread}{_signed(cell.gain)}"


def _difference(cell: Cell) -> str:
    return "–" if cell.difference is None else f"{cell.difference:+.3f}"


def heading(table: TableResult) -> str:
    """``Table 1. EmbAE trained on one data set: dukemtmcreid → market1501``."""
    return f"Table {table.number}. {table.title}: {', '.join(table.sources)} → {table.target}"


def remarks(table: TableResult) -> list[str]:
    """What has to be said about a table: data, seeds, rows, the paper's print."""
    lines = []
    if table.missing:
        lines.append(f"Not run: {table.missing}")
    elif not table.seeds:
        lines.append("Not run yet.")
    else:
        seeds = ", ".join(map(str, table.seeds))
        if len(table.seeds) == 1:
            text = f"Ours: one seed ({seeds}), so no spread."
        else:
            text = f"Ours: mean ± standard deviation over {len(table.seeds)} seeds ({seeds})."
        left = [str(seed) for seed in table.wanted if seed not in table.seeds]
        lines.append(text + (f" Not run yet: {', '.join(left)}." if left else ""))
        lines += _incomplete(table)
    if table.differs and not table.missing:
        lines.append(
            "The data differ from the paper's, so the published numbers stand beside ours for "
            f"reference only and no difference is taken: {'; '.join(table.differs)}."
        )
    return [*lines, *table.notes, *table.footnotes]


def _incomplete(table: TableResult) -> list[str]:
    lines = []
    for row in table.rows:
        least = min(len(cell.values) for cell in row.cells.values())
        if least < len(table.seeds):
            lines.append(f"{row.label}: {least or 'none'} of these {len(table.seeds)} seeds.")
    return lines


def grid(table: TableResult, style: str) -> str:
    """The table in a ``tabulate`` style: a line for each model and score."""
    differences = any(c.comparable for row in table.rows for c in row.cells.values())
    published = "Published" if differences else "Published (other data)"
    headers = ["Model", "Score", published, "Ours", *(["Difference"] if differences else [])]
    body = []
    for row in table.rows:
        for number, (column, cell) in enumerate(row.cells.items()):
            line = ["" if number else row.label, HEADERS[column], _published(cell), _ours(cell)]
            body.append([*line, _difference(cell)] if differences else line)
    return str(tabulate(body, headers=headers, tablefmt=style, disable_numparse=True))


def as_text(tables: Results) -> str:
    """For the terminal."""
    parts = ["\n".join([heading(t), grid(t, "simple"), *remarks(t)]) for t in tables]
    return "\n\n".join(parts)


def as_markdown(tables: Results, command: str) -> str:
    """A page with every table; gains over the baseline are in brackets."""
    made = f"Made by `{command}`. In brackets: the gain over the baseline."
    parts = ["# The paper's tables", made]
    for table in tables:
        parts += [f"## {heading(table)}", grid(table, "github")]
        parts.append("\n".join(f"- {line}" for line in remarks(table)))
    return "\n\n".join(parts) + "\n"


_FIELDS = ("table", "model", "variant", "score", "published", "published_gain", "ours", "spread",
           "gain", "difference", "seeds", "values", "sources", "target", "data_differ")  # fmt: skip


def records(tables: Results) -> Iterable[dict[str, Any]]:
    """One flat record for each table, model and score."""
    for table in tables:
        for row in table.rows:
            for column, cell in row.cells.items():
                values = (
                    table.number, row.label, row.variant, column, cell.published,
                    cell.published_gain, cell.mean, cell.spread, cell.gain, cell.difference,
                    list(table.seeds), list(cell.values), list(table.sources), table.target,
                    bool(table.differs),
                )  # fmt: skip
                yield dict(zip(_FIELDS, values, strict=True))


def as_csv(tables: Results) -> str:
    """The records as CSV; lists are joined by a blank."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, _FIELDS, lineterminator="\n")
    writer.writeheader()
    for record in records(tables):
        writer.writerow({key: _plain(value) for key, value in record.items()})
    return stream.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.6f}"
    return " ".join(map(str, value)) if isinstance(value, list) else value


def as_json(tables: Results) -> list[dict[str, Any]]:
    """The tables with remarks, each with its records."""
    return [
        {
            "table": table.number, "title": table.title, "sources": list(table.sources),
            "target": table.target, "seeds": list(table.seeds), "wanted_seeds": list(table.wanted),
            "missing": table.missing, "data_differ": list(table.differs),
            "remarks": remarks(table), "rows": list(records([table])),
        }
        for table in tables
    ]  # fmt: skip
