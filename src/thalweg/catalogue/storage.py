"""Where a catalogue lies: opening it, transactions, and what is said when the storage fails."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, StaticPool, create_engine, event, inspect, make_url, select, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from thalweg.catalogue.records import CatalogueError
from thalweg.catalogue.tables import ADDED, SCHEMA, metadata, versions
from thalweg.foundation import InvalidInputError, first_line

__all__ = ["Storage", "library_version", "now"]

T = TypeVar("T")

BUSY_SECONDS = 60
"""How long a writer waits for another one to finish."""
ATTEMPTS = 3
"""How often it does so, with pauses in between."""
_CREATION_LOCK = 7437254930141
"""Number of PostgreSQL's advisory lock under which tables are made."""
_PASSING = ("is locked", "deadlock detected", "could not serialize", "lock timeout")
"""What is worth another attempt."""


class Storage:
    """An SQLite file or a PostgreSQL database with the tables of a catalogue.

    Args:
        place: a path, or a URL of SQLAlchemy.
        create: make the file and the tables where they are missing.

    Raises:
        CatalogueError: if it cannot be opened, is no catalogue, or was written by a newer version.
        InvalidInputError: for a URL that cannot be meant.
    """

    def __init__(self, place: str | Path, *, create: bool) -> None:
        self.url = _url(place)
        self.name = self.url.render_as_string(hide_password=True)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.file = Path(self.url.database) if self.is_sqlite and self.url.database not in (None, ":memory:") else None
        if self.file is not None:
            self.name = str(self.file)
            _check_file(self.file, create)
        self.engine = _engine(self.url, in_memory=self.is_sqlite and self.file is None)
        self._opening = True
        try:
            self._prepare(create)
        except BaseException:
            self.engine.dispose()
            raise
        self._opening = False

    def read(self, action: Callable[[Connection], T]) -> T:
        """Run queries in one transaction, so that they see one state."""
        with self.explained("read"), self.engine.connect() as connection, connection.begin():
            return action(connection)

    def write(self, action: Callable[[Connection], T]) -> T:
        """Run an action in one transaction that only one writer of an SQLite file holds at a time.

        The action is repeated where another writer was in the way; it must have no other effects.
        """
        with self.explained("written"):
            for attempt in range(ATTEMPTS):
                try:
                    with self.engine.connect().execution_options(writing=True) as connection, connection.begin():
                        if not self.is_sqlite:
                            connection.execute(text(f"SET LOCAL lock_timeout = '{BUSY_SECONDS}s'"))
                        return action(connection)
                except DBAPIError as error:
                    passing = any(sign in str(error.orig) for sign in _PASSING)
                    if not passing or attempt == ATTEMPTS - 1:
                        raise
                    time.sleep(0.1 * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    def close(self) -> None:
        """Give back all connections."""
        self.engine.dispose()

    @contextmanager
    def explained(self, what: str) -> Iterator[None]:
        """Turn the errors of the database into a `CatalogueError` that says what to do."""
        try:
            yield
        except DBAPIError as error:
            if self.file is not None or not self.is_sqlite:
                self.engine.dispose()  # whatever state its connections are in
            raise CatalogueError(self._explain("opened" if self._opening else what, error)) from error

    def _explain(self, what: str, error: DBAPIError) -> str:
        reason = first_line(error.orig or error)
        lines = (
            ("not a database", "it is no SQLite file: give another name, or move that file away"),
            ("disk is full", "make space on that disk, then run the same call again"),
            ("No space left", "make space on the server's disk, then run the same call again"),
            ("disk I/O error", "the disk is full, over quota or failing: make space, then run the same call again"),
            ("readonly", "the file or its folder cannot be written: change their permissions, or copy it elsewhere"),
            ("read-only", "the database may only be read: change that, or give another one"),
            ("unable to open", "file or folder cannot be opened: look at their permissions"),
            ("lock timeout", "another process is writing for minutes: wait for it, or end it"),
            ("locked", "another process is writing for minutes: wait for it, or end it"),
            ("malformed", "the file is damaged: take a copy, and try the SQLite command .recover"),
        )
        advice = next((text for sign, text in lines if sign in str(error.orig)), None)
        if advice is None and (error.connection_invalidated or type(error.orig).__name__ == "OperationalError"):
            advice = "see that the database runs and can be reached, then run the same call again"
        safe = " Everything committed so far is safe, and nothing of this call was kept." if what == "written" else ""
        return f"the catalogue {self.name} cannot be {what}: {reason}.{safe} What to do: {advice or 'see above'}."

    def _prepare(self, create: bool) -> None:
        """Make the tables where they are missing; refuse what is something else."""
        if self.read(self._version) is None:
            if not create:
                raise CatalogueError(f"{self.name} holds no catalogue; open it with create=True to make one")
            self.write(self._make)
        found = self.read(self._version)
        if found is not None and found < SCHEMA:
            self.write(self._upgrade)
            found = self.read(self._version)
        if found != SCHEMA:
            raise CatalogueError(
                f"the catalogue {self.name} has layout {found}, this version of thalweg knows {SCHEMA}: install a "
                "newer one, or give the catalogue another name"
            )

    def _version(self, connection: Connection) -> int | None:
        if not inspect(connection).has_table(versions.name):
            return None
        return connection.scalar(select(versions.c.schema_version))

    def _upgrade(self, connection: Connection) -> None:
        """Add what an older layout lacks; nothing that is there changes."""
        if not self.is_sqlite:  # of two that open it at once the second finds it done
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CREATION_LOCK})
        found = self._version(connection)  # another process may have been quicker
        for layout, columns in ADDED.items():
            if found is not None and found < layout:
                for column in columns:
                    kind = column.type.compile(dialect=connection.dialect)
                    connection.execute(text(f"ALTER TABLE {column.table.name} ADD COLUMN {column.name} {kind}"))
        older = versions.c.schema_version < SCHEMA
        connection.execute(versions.update().where(older).values(schema_version=SCHEMA))

    def _make(self, connection: Connection) -> None:
        if not self.is_sqlite:  # where two make the tables at once, the second waits and finds them
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CREATION_LOCK})
        if self._version(connection) is not None:
            return
        there = set(inspect(connection).get_table_names())
        if there & set(metadata.tables) or (there and self.is_sqlite):
            raise CatalogueError(
                f"{self.name} holds other tables ({', '.join(sorted(there)[:5])}): give the catalogue a database of "
                "its own"
            )
        metadata.create_all(connection, checkfirst=False)
        connection.execute(versions.insert().values(schema_version=SCHEMA, library=library_version(), created=now()))


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


def library_version() -> str:
    """The version of this library."""
    return version("thalweg")


def _url(place: str | Path) -> URL:
    if not isinstance(place, str | Path) or not str(place).strip():
        raise InvalidInputError(f"a catalogue lies in a file or at a URL, got {place!r}")
    if isinstance(place, Path) or "://" not in place:
        return URL.create("sqlite", database=str(Path(place).expanduser()))
    try:
        url = make_url(place)
    except (ArgumentError, ValueError) as error:
        raise InvalidInputError(f"no URL of a database: {first_line(error)}") from error
    if url.get_backend_name() == "postgresql" and "+" not in url.drivername:
        url = url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise InvalidInputError(f"a catalogue lies in SQLite or PostgreSQL, not in {url.get_backend_name()}")
    if url.drivername == "sqlite" and url.database and url.database != ":memory:":
        url = url.set(database=str(Path(url.database).expanduser()))
    return url


def _check_file(file: Path, create: bool) -> None:
    if file.is_dir():
        raise CatalogueError(f"{file} is a folder; give the name of a file in it, such as {file / 'catalogue.db'}")
    if not file.parent.is_dir():
        raise CatalogueError(f"the folder {file.parent} does not exist; make it first: mkdir -p '{file.parent}'")
    if not create and not file.exists():
        raise CatalogueError(f"there is no catalogue {file}; look at the name, or open it with create=True to make one")


def _engine(url: URL, *, in_memory: bool) -> Engine:
    options: dict[str, Any] = {}
    if url.get_backend_name() == "sqlite":
        options["connect_args"] = {"timeout": BUSY_SECONDS}
        if in_memory:
            options["poolclass"] = StaticPool  # each connection would have a database of its own
    else:
        options["pool_pre_ping"] = True  # a server that was started again is found again
    try:
        engine = create_engine(url, **options)
    except (ImportError, NoSuchModuleError) as error:
        raise CatalogueError(
            f"PostgreSQL needs the driver psycopg ({first_line(error)}): pip install 'thalweg[postgres]'"
        ) from error
    if url.get_backend_name() == "sqlite":
        event.listen(engine, "connect", _configure)
        event.listen(engine, "begin", _begin)
    return engine


def _configure(connection: Any, record: Any) -> None:
    """Settings of every connection to SQLite. Transactions begin by `_begin`, not by Python's own guesses."""
    connection.isolation_level = None
    cursor = connection.cursor()
    for attempt in range(10):
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:  # while a new file changes its mode others do not wait but fail
            if "locked" not in str(error) or attempt == 9:
                raise
            time.sleep(0.05 * 2**attempt)
    for setting in ("synchronous = FULL", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {setting}")
    cursor.close()


def _begin(connection: Connection) -> None:
    # IMMEDIATE takes the writer's lock at once: a reader that becomes a writer later could fail without waiting
    writing = connection.get_execution_options().get("writing", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")
