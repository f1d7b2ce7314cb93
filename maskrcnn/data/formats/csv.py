"""The table of objects as text with commas: `objects.csv`, UTF-8 with a line of column names."""

import csv

from ...files import replacing
from .tables import Table


class Writer(Table):
    """Writes `objects.csv`, which appears when it is complete."""

    def close(self) -> None:
        """Writes the table."""
        with (
            replacing(self.out / "objects.csv") as temporary,
            temporary.open("w", encoding="utf-8", newline="") as file,
        ):
            lines = csv.writer(file)
            lines.writerow(self.columns)
            lines.writerows(self.rows())
        super().close()
