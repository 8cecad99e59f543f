"""Opening: what is there, what is not, and what is something else."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import text

from thalweg.catalogue import Catalogue, CatalogueError
from thalweg.catalogue.storage import Storage
from thalweg.foundation import InvalidInputError, ThalwegError


def test_a_missing_file_is_made_only_where_that_is_meant(tmp_path: Path) -> None:
    file = tmp_path / "some.db"
    with pytest.raises(CatalogueError, match=r"no catalogue .*some\.db; look at the name"):
        Catalogue(file, create=False)
    assert not file.exists()
    for place in (file, str(file), f"sqlite:///{file}"):
        with Catalogue(place) as catalogue:
            assert repr(catalogue) == f"<Catalogue {file}: 0 objectives, 0 surveys, 0 runs, 0 points>"
    assert sqlite3.connect(file).execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_folders_and_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="is a folder"):
        Catalogue(tmp_path)
    with pytest.raises(CatalogueError, match="mkdir -p"):
        Catalogue(tmp_path / "missing" / "some.db")
    other = tmp_path / "notes.txt"
    other.write_text("not a database, but long enough to be looked at by one" * 10)
    with pytest.raises(CatalogueError, match="it is no SQLite file"):
        Catalogue(other)
    assert other.read_text().startswith("not a database")
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE songs (name TEXT)")
    connection.close()
    with pytest.raises(CatalogueError, match=r"holds other tables \(songs\)"):
        Catalogue(foreign)
    (tmp_path / "empty.db").touch()
    with pytest.raises(CatalogueError, match="holds no catalogue"):
        Catalogue(tmp_path / "empty.db", create=False)
    Catalogue(tmp_path / "empty.db").close()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("", "lies in a file"),
        (3, "lies in a file"),
        ("mysql://host/name", "not in mysql"),
        ("postgresql://user:x@host:no/name", "no URL"),
    ],
)
def test_what_cannot_be_meant(place: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Catalogue(place)


def test_a_newer_layout_is_refused(place: str) -> None:
    with Catalogue(place) as catalogue:
        catalogue._storage.write(lambda c: c.execute(text("UPDATE thalweg_catalogue SET schema_version = 99")))
    with pytest.raises(CatalogueError, match=r"layout 99, this version of thalweg knows 2: install a\s+newer one"):
        Catalogue(place)


def test_tables_of_others_are_not_touched(postgres: str) -> None:
    storage = Storage(postgres, create=True)
    storage.write(lambda c: c.execute(text("DROP TABLE thalweg_catalogue")))
    storage.close()
    with pytest.raises(CatalogueError, match="holds other tables"):
        Catalogue(postgres)


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(CatalogueError, match=r"cannot be opened.*see that the database runs"):
        Catalogue(f"postgresql://tester:secret@/name?host={tmp_path}")
    with pytest.raises(CatalogueError) as error:
        Catalogue(f"postgresql://tester:secret@/name?host={tmp_path}")
    assert "secret" not in str(error.value)
    assert isinstance(error.value, ThalwegError)


def test_a_short_url_takes_the_same_driver(postgres: str) -> None:
    with Catalogue(postgres.replace("+psycopg", "")) as catalogue:
        assert "0 points" in repr(catalogue)
