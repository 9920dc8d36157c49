# SPDX-License-Identifier: Apache-2.0
"""Parquet files of strangers: what goes wrong names the file, and memory is bounded."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..source import BadClipError

_MOST_VALUES = 500_000_000  # in the columns read from one file


def read_columns(file: pq.ParquetFile, path: str, columns: list[str] | None = None) -> pa.Table:
    """Columns of an open file, by default all.

    Raises:
        BadClipError: If it is damaged, or would take too much memory; names the file.
    """
    meta = file.metadata
    values = sum(
        part.num_values
        for group in map(meta.row_group, range(meta.num_row_groups))
        for part in map(group.column, range(group.num_columns))
        if columns is None or part.path_in_schema.startswith(tuple(columns))
    )
    if values > _MOST_VALUES:
        raise BadClipError(f"{path} declares {values} values, more than {_MOST_VALUES}")
    try:
        return file.read(columns=columns, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise BadClipError(f"{path} is damaged: {error}") from error


def open_parquet(path: Path, name: str) -> pq.ParquetFile:
    """Open a file; what goes wrong names it."""
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise BadClipError(f"{name} is not a complete parquet file: {error}") from error
