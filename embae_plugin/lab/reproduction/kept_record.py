"""``reproduced.json`` in a run's folder: how its scores were made, and how long it took."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from embae_plugin import __version__
from embae_plugin.evaluation.score_table import Row, write_text
from embae_plugin.lab.reproduction.jobs import Job

logger = logging.getLogger(__name__)

RECORD = "reproduced.json"


@dataclass
class Record:
    """What the file says.

    Attributes:
        settings: the configuration that the scores were made with.
        version: of this package.
        rows: of ``results.json``; empty while the run is not complete.
        seconds: that the run has taken, interruptions left out.
    """

    settings: dict[str, Any]
    version: str
    rows: list[Row]
    seconds: float

    def fits(self, job: Job) -> bool:
        """Whether the scores were made by what the job would run now."""
        # Through JSON, as the record itself: a tuple comes back as a list.
        now = json.loads(json.dumps(job.settings))
        return self.settings == now and self.version == __version__

    def serves(self, job: Job) -> bool:
        """Whether the job's scores are all here."""
        return self.fits(job) and set(job.rows) <= {row["variant"] for row in self.rows}


def read_record(folder: Path) -> Record | None:
    """The record in a run's folder; None where there is none or it cannot be read."""
    try:
        return Record(**json.loads((folder / RECORD).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        logger.warning("%s is damaged (%s); the run is scored again", folder / RECORD, error)
        return None


def write_record(job: Job, rows: list[Row], seconds: float) -> None:
    """Writes the record atomically."""
    record = Record(job.settings, __version__, rows, round(seconds, 1))
    write_text(job.folder / RECORD, json.dumps(asdict(record), indent=1, allow_nan=False) + "\n")
