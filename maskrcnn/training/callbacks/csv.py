"""`log.csv`: the steps and evaluations of `log.jsonl` as a table, for spreadsheets and pandas."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...files import replacing
from ...reports.run_report import read_history
from . import Record, numbers

FILE = "log.csv"


class CsvTable:
    """One row a record. A record with new columns writes the table anew from `log.jsonl`, which alone is kept true."""

    def __init__(self, source: Path) -> None:
        self._source, self._path = source, source.with_name(FILE)
        self._columns: list[str] = []

    def on_start(self, record: Record) -> None:
        """What a killed start wrote is gone from `log.jsonl` by now, so it goes from the table, too."""
        self._rewrite()

    def on_step(self, record: Record) -> None:
        self._add("step", record)

    def on_evaluation(self, record: Record) -> None:
        self._add("evaluation", record)

    def _add(self, kind: str, record: Record) -> None:
        row = _row({"kind": kind, **record})
        if not row.keys() <= set(self._columns):
            self._rewrite()
            return
        with open(self._path, "a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, self._columns, restval="").writerow(row)

    def _rewrite(self) -> None:
        history = read_history(self._source) if self._source.exists() else []
        rows = [_row(record) for record in history if record.get("kind") in ("step", "evaluation")]
        self._columns = list(dict.fromkeys(name for row in rows for name in row))
        with replacing(self._path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            writer.writeheader()
            writer.writerows(rows)


def _row(record: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": record["kind"], "step": record["step"], **numbers(record)}
