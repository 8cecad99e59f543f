"""The tables of a catalogue."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

__all__ = ["ADDED", "SCHEMA", "Real", "batches", "metadata", "objectives", "points", "runs", "surveys", "versions"]

SCHEMA = 2
"""Number of this layout. A catalogue with a higher one was written by a newer version."""

_Number = BigInteger().with_variant(Integer(), "sqlite")  # SQLite numbers rows by itself for INTEGER only


class Real(TypeDecorator[float]):
    """A number in double precision. NaN is stored as NULL, since SQLite knows no other way; infinities stay."""

    impl = Double
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: Dialect) -> float | None:
        """To the database."""
        return None if value is None or math.isnan(value) else float(value)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> float:
        """From the database."""
        return math.nan if value is None else float(value)


class Moment(TypeDecorator[datetime]):
    """A time in UTC; SQLite keeps it without its zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the database."""
        return value

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        """From the database."""
        return None if value is None else value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = MetaData()

versions = Table(
    "thalweg_catalogue",
    metadata,
    Column("schema_version", Integer, primary_key=True),
    Column("library", String(32), nullable=False),
    Column("created", Moment, nullable=False),
)

objectives = Table(
    "objectives",
    metadata,
    Column("fingerprint", String(128), primary_key=True),
    Column("description", Text, nullable=False),
    Column("parameters", _Number, nullable=False),
    Column("dtype", String(16), nullable=False),
    Column("blocks", Text, nullable=False),  # JSON: [[name, shape], ...]
    Column("tolerance", Real, nullable=False),
    Column("value_scale", Real, nullable=False),
    Column("symmetries", Text, nullable=False),
    Column("library", String(32), nullable=False),
    Column("created", Moment, nullable=False),
)

surveys = Table(
    "surveys",
    metadata,
    Column("id", _Number, primary_key=True),
    Column("objective", ForeignKey("objectives.fingerprint"), nullable=False),
    Column("settings", Text, nullable=False),  # canonical JSON
    Column("settings_digest", String(64), nullable=False),  # an index on long texts is more than PostgreSQL allows
    Column("batch_size", Integer, nullable=False),
    Column("library", String(32), nullable=False),
    Column("created", Moment, nullable=False),
    UniqueConstraint("objective", "settings_digest", "batch_size"),
)

batches = Table(
    "batches",
    metadata,
    Column("survey", ForeignKey("surveys.id"), primary_key=True),
    Column("first_seed", _Number, primary_key=True),  # several rows where a batch was begun with fewer seeds
    Column("number", _Number, nullable=False),
    Column("seeds", Integer, nullable=False),
    Column("method", Text, nullable=False),
    Column("seconds", Real),
    Column("worker", Text, nullable=False),
    Column("theta", LargeBinary, nullable=False),
    Column("created", Moment, nullable=False),
    Index("batches_by_number", "survey", "number"),
)

points = Table(
    "points",
    metadata,
    Column("id", _Number, primary_key=True),
    Column("objective", ForeignKey("objectives.fingerprint"), nullable=False),
    Column("value", Real),
    Column("gradient_norm", Real),
    Column("negative", _Number, nullable=False),  # the index; that word is reserved in SQL
    Column("undecided", _Number, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("multiplicity", _Number, nullable=False),
    Column("first_survey", ForeignKey("surveys.id"), nullable=False),
    Column("first_seed", _Number, nullable=False),
    Column("invariant", Real, nullable=False),  # shared by all copies of a point: what they are found by
    Column("theta", LargeBinary, nullable=False),
    Column("form", Text),  # of a limit point, JSON: which coordinates theta is in
    Column("signature", LargeBinary),  # of a limit point: numbers that all its copies share
    Column("created", Moment, nullable=False),
    Index("points_by_invariant", "objective", "invariant"),
    Index("points_by_value", "objective", "value"),
)

runs = Table(
    "runs",
    metadata,
    Column("survey", ForeignKey("surveys.id"), primary_key=True),
    Column("seed", _Number, primary_key=True),
    Column("status", String(64), nullable=False),
    Column("message", Text, nullable=False),
    Column("value", Real),
    Column("gradient_norm", Real),
    Column("gradient_floor", Real),
    Column("newton_decrement", Real),
    Column("negative", _Number, nullable=False),
    Column("undecided", _Number, nullable=False),
    Column("iterations", _Number, nullable=False),
    Column("evaluations", _Number, nullable=False),
    Column("hessians", _Number, nullable=False),
    Column("point", ForeignKey("points.id"), nullable=True),
    Index("runs_by_point", "point"),
    Index("runs_by_status", "survey", "status"),
)

ADDED = {2: (points.c.form, points.c.signature)}
"""Columns that came with a later layout; older catalogues get them when they are opened."""
