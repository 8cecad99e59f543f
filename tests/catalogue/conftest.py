"""Storages for the tests: an SQLite file, and a PostgreSQL server of the tests' own."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

WITHOUT = os.environ.get("THALWEG_WITHOUT_POSTGRES") == "1"
INSTALL = "install it (Debian, Ubuntu: apt-get install postgresql), or set THALWEG_WITHOUT_POSTGRES=1 to leave it out"


def _programs() -> Path:
    found = [Path(path).parent for path in [shutil.which("initdb")] if path]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parent.name), reverse=True)
    for folder in found:
        if (folder / "initdb").exists() and (folder / "pg_ctl").exists():
            return folder
    pytest.fail(f"these tests need a PostgreSQL server: {INSTALL}", pytrace=False)


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """URL of a server without a database name. It listens to a socket in a folder of its own."""
    programs = _programs()
    folder = Path(tempfile.mkdtemp(prefix="thalweg-pg-"))
    account = {}
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        names = {entry.pw_name: entry for entry in pwd.getpwall()}
        user = names.get("postgres") or names["nobody"]
        os.chown(folder, user.pw_uid, user.pw_gid)
        account = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}

    def run(*command: str) -> None:
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, timeout=60, **account)  # type: ignore[call-overload]

    settings = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off -c max_connections=30"
    data = str(folder / "data")
    try:
        run(f"{programs}/initdb", "-D", data, "-U", "tester", "--auth=trust", "-E", "UTF8", "--no-sync", "--locale=C")
        run(f"{programs}/pg_ctl", "-D", data, "-o", settings, "-l", str(folder / "log"), "-w", "start")
        try:
            yield f"postgresql+psycopg://tester@/{{name}}?host={folder}"
        finally:
            run(f"{programs}/pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres(request: pytest.FixtureRequest) -> str:
    """URL of an empty database."""
    if WITHOUT:
        pytest.skip("THALWEG_WITHOUT_POSTGRES=1")
    import psycopg

    template = request.getfixturevalue("server")
    name = f"t{uuid.uuid4().hex[:12]}"
    host = template.split("host=")[1]
    with psycopg.connect(host=host, user="tester", dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return template.format(name=name)


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a catalogue can be made: both kinds of storage in turn."""
    if request.param == "sqlite":
        return str(tmp_path / "catalogue.db")
    found: str = request.getfixturevalue("postgres")
    return found
