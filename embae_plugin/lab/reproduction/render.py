"""Tables as text, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from tabulate import tabulate

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
        parts += [f"## {heading(table)}", grid(table, "github")]
        parts.append("\n".join(f"- {line}" for line in remarks(table)))
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
    writer.writerows({key: _plain(value) for key, value in row.items()} for row in rows)
    return stream.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.6f}"
    return " ".join(map(str, value)) if isinstance(value, list) else value


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
