"""Parquet files of what a catalogue holds, for other programs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, select

from thalweg.catalogue.blobs import from_blob
from thalweg.catalogue.frames import frame_of_points, frame_of_runs
from thalweg.catalogue.records import CatalogueError
from thalweg.catalogue.tables import points
from thalweg.foundation import InvalidInputError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["targets_of", "write_points", "write_runs"]

ROWS_AT_ONCE = 4096
BYTES_AT_ONCE = 64 * 2**20
"""Parameters held in memory while they are written."""


def targets_of(place: str | Path) -> tuple[Path, Path | None]:
    """The files for points and for runs: two in a folder, or the points alone where a ``.parquet`` file is named.

    Raises:
        InvalidInputError: if a folder is not there and cannot be made, or a file is in its place.

    >>> targets_of("some.parquet")
    (...Path('some.parquet'), None)
    """
    target = Path(place).expanduser()
    file = target.suffix == ".parquet"
    folder = target.parent if file else target
    if file and target.is_dir():
        raise InvalidInputError(f"{target} is a folder; give it without the ending, or another name")
    try:
        folder.mkdir(parents=not file, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(f"the folder {folder} cannot be made: {error.strerror}") from error
    return (target, None) if file else (folder / "points.parquet", folder / "runs.parquet")


def write_points(connection: Connection, objective: str | None, target: Path) -> Path:
    """One row a point, its parameters in the column ``theta``."""
    import pyarrow as pa
    from pyarrow import parquet

    frame = frame_of_points(connection, objective)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    schema = table.schema.append(pa.field("theta", pa.list_(pa.float64())))
    with written(target) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        start = 0
        for thetas in _thetas(connection, frame["point"].tolist()):
            part = table.slice(start, len(thetas)).append_column("theta", thetas)
            writer.write_table(part.cast(schema))
            start += len(thetas)
    return target


def write_runs(connection: Connection, objective: str | None, target: Path) -> Path:
    """One row a search."""
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.Table.from_pandas(frame_of_runs(connection, None, objective), preserve_index=False)
    with written(target) as temporary:
        parquet.write_table(table, temporary)
    return target


@contextmanager
def written(target: Path) -> Iterator[Path]:
    """A temporary file in the same folder that takes its name in the end, so that no reader finds a part of it.

    Raises:
        CatalogueError: if it cannot be written; nothing is left behind then.
    """
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
        os.close(handle)
        try:
            yield Path(name)
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(name, 0o666 & ~mask)
            os.replace(name, target)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(name)
            raise
    except OSError as error:
        raise CatalogueError(
            f"{target} cannot be written: {error.strerror or error}. The catalogue is as it was. What to do: make "
            "space on that disk, or give a folder that may be written"
        ) from error


def _thetas(connection: Connection, numbers: list[int]) -> Iterator[pa.Array]:
    """The parameters of points, in this order, as many at once as memory is meant for."""
    import pyarrow as pa

    start, step = 0, 1
    while start < len(numbers):
        part = numbers[start : start + step]
        query = select(points.c.id, points.c.theta).where(points.c.id.in_(part))
        found: dict[int, Any] = {row.id: from_blob(row.theta).double().numpy() for row in connection.execute(query)}
        yield pa.array([found[number] for number in part], type=pa.list_(pa.float64()))
        start += len(part)
        largest = max(array.nbytes for array in found.values())
        step = max(1, min(ROWS_AT_ONCE, BYTES_AT_ONCE // max(1, largest)))
