"""The table of objects as Parquet, with typed columns: `objects.parquet`. Needs pyarrow."""

from itertools import islice
from typing import Any

from ...errors import ConfigError
from ...files import replacing
from .tables import INTEGERS, TEXTS, Table

_ROWS = 1 << 16  # of a row group


class Writer(Table):
    """Writes `objects.parquet`, which appears when it is complete. Raises `ConfigError` without pyarrow."""

    def __init__(self, *given: Any) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise ConfigError("parquet needs pyarrow: pip install 'maskrcnn[parquet]'") from error
        self._arrow: Any = pyarrow
        super().__init__(*given)

    def close(self) -> None:
        """Writes the table."""
        arrow, columns = self._arrow, self.columns
        kinds = [arrow.string() if c in TEXTS else arrow.int64() if c in INTEGERS else arrow.float64() for c in columns]
        schema = arrow.schema(list(zip(columns, kinds, strict=True)))
        with (
            replacing(self.out / "objects.parquet") as temporary,
            arrow.parquet.ParquetWriter(temporary, schema) as file,
        ):
            rows = self.rows()
            while group := list(islice(rows, _ROWS)):
                values = zip(*group, strict=True)
                arrays = [
                    arrow.array([_typed(name, text) for text in column], kind)
                    for name, column, kind in zip(columns, values, kinds, strict=True)
                ]
                file.write_table(arrow.Table.from_arrays(arrays, schema=schema))
        super().close()


def _typed(name: str, text: str) -> str | int | float | None:
    if not text:
        return None
    return text if name in TEXTS else int(text) if name in INTEGERS else float(text)
