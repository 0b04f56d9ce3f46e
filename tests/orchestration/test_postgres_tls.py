"""The embedded PostgreSQL lets in only who shows the right certificate, and writes nobody's data into its log."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import psycopg
import pytest

from orchestration import database_roles
from orchestration.credentials import PROCESSES, Identities
from orchestration.data_dir import DataDir
from orchestration.database_roles import Proof
from orchestration.embedded import EmbeddedPostgres, free_port
from orchestration.postgres_binaries import find_postgres_binaries, installed, speaks_tls, version_of
from orchestration.postgres_configuration import process_of, was_tls
from stores.roles import ROLES
from vocabulary.errors import ConfigurationError
from vocabulary.settings import Settings

INVALID = (
    "insert into patient (patient_id, partition, birth_date, created_position, updated_position) "
    "values (1, 1, %s, 0, 0)"
)


class Secured(NamedTuple):
    server: EmbeddedPostgres
    identities: Identities
    folder: Path


@pytest.fixture(scope="module")
def secured(server_folder: Path) -> Iterator[Secured]:
    """A PostgreSQL with TLS, roles and schema."""
    capable = [binaries for binaries in installed() if speaks_tls(binaries)]
    if not capable:
        pytest.skip("no PostgreSQL built with TLS is installed (Debian's `postgresql` is one)")
    folder = server_folder / "secured"
    shutil.rmtree(folder, ignore_errors=True)
    data_dir = DataDir(folder)
    data_dir.prepare()
    identities = Identities(data_dir, Settings())
    identities.prepare()
    server = EmbeddedPostgres(data_dir.postgres, free_port(), capable[0], fsync=False, tls=identities.postgres_tls())
    server.start()
    asyncio.run(database_roles.prepare(server.url(), data_dir.credentials, Proof.CERTIFICATES))
    yield Secured(server, identities, folder)
    server.stop("immediate")


def changed(url: str, **options: str | None) -> str:
    """Return an address with other options; None takes one away."""
    parts = urlsplit(url)
    merged = dict(parse_qsl(parts.query)) | options
    return urlunsplit(parts._replace(query=urlencode({k: v for k, v in merged.items() if v is not None})))


def url_of(secured: Secured, role: str, **options: str | None) -> str:
    return changed(secured.server.role_url(role, secured.identities.of(process_of(role))), **options)


def test_each_process_gets_in_as_its_role_over_tls(secured):
    for role in ROLES:
        with psycopg.connect(url_of(secured, role)) as connection:
            assert connection.execute("select current_user").fetchone() == (role,)
            (version,) = connection.execute("select version from pg_stat_ssl where pid = pg_backend_pid()").fetchone()
            assert version in {"TLSv1.2", "TLSv1.3"}


def test_nobody_gets_in_in_plain_text_or_without_a_certificate(secured):
    for role in (*ROLES, "vigil"):
        url = secured.server.url() if role == "vigil" else url_of(secured, role)
        nobody = {"sslcert": "/nonexistent/certificate.pem", "sslkey": "/nonexistent/key.pem"}
        for options in ({"sslmode": "disable"}, nobody, nobody | {"sslmode": "require", "sslrootcert": None}):
            with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry|certificate"):
                psycopg.connect(changed(url, **options)).close()


def test_a_process_cannot_be_another(secured):
    engine = secured.identities.of("engine")
    for role in ROLES:
        if role != "vigil_engine":
            url = secured.server.role_url(role, engine)
            with pytest.raises(psycopg.OperationalError, match="certificate authentication failed"):
                psycopg.connect(url).close()
    owner = changed(secured.server.url(), sslcert=str(engine.certificate), sslkey=str(engine.key))
    parts = urlsplit(owner)
    guessed = urlunsplit(parts._replace(netloc=f"vigil:guess@{parts.netloc.rpartition('@')[2]}"))
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(guessed).close()


def test_a_device_or_a_stranger_is_nobody(secured, tmp_path):
    secured.identities.listeners.issue(tmp_path / "device", "engine")
    for folder in (tmp_path / "device", secured.identities.of("setup").folder, secured.identities.of("ingress").folder):
        url = url_of(secured, "vigil_engine", sslcert=str(folder / "certificate.pem"), sslkey=str(folder / "key.pem"))
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(url).close()


def test_a_process_does_not_speak_to_a_server_that_is_not_ours(secured, tmp_path):
    url = url_of(secured, "vigil_engine", sslrootcert=str(secured.identities.listeners.certificate))
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        psycopg.connect(url).close()


def test_only_dagster_reaches_dagsters_database(secured):
    with psycopg.connect(secured.server.url(), autocommit=True) as connection:
        connection.execute("create database dagster")
    for role in ROLES:
        url = secured.server.role_url(role, secured.identities.of(process_of(role)), "dagster")
        if role == PROCESSES["dagster"].role:
            psycopg.connect(url).close()
        else:
            with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry"):
                psycopg.connect(url).close()


def test_a_revoked_certificate_is_refused_from_the_next_start_on(secured):
    # Last in spirit, not in order: the keeper gets a new identity at once, as at every `vigil up`.
    keeper = secured.identities.of("keeper")
    kept = {path: path.read_bytes() for path in (keeper.certificate, keeper.key)}
    secured.identities.processes.revoke("keeper")
    secured.server.stop()
    secured.server.start()
    with pytest.raises(psycopg.OperationalError, match="revoked"):
        psycopg.connect(url_of(secured, "vigil_keeper")).close()
    assert secured.identities.prepare() == ["keeper"]
    assert all(path.read_bytes() != content for path, content in kept.items())
    psycopg.connect(url_of(secured, "vigil_keeper")).close()


def test_the_log_holds_no_statement_no_parameter_and_no_value_of_an_error(secured):
    with psycopg.connect(url_of(secured, "vigil_normalizer"), autocommit=True) as connection:
        for statement, parameters in (
            ("select 'CANARY-statement' from nowhere", ()),
            ("select %s::int", ("CANARY-parameter",)),
            (INVALID, ("CANARY-check",)),
            ("select family_name = 'CANARY-permission' from audit_event", ()),
            ("do $$ begin raise exception 'CANARY-raised'; end $$", ()),
            ("do $$ begin raise warning 'CANARY-warned'; end $$", ()),
        ):  # fmt: skip
            if "warning" in statement:
                connection.execute(statement, parameters)
            else:
                with pytest.raises(psycopg.Error):
                    connection.execute(statement, parameters)
        connection.execute("select pg_sleep(0.01), 'CANARY-slow'")
    log = (secured.server.folder / "log").read_text()
    assert "starting PostgreSQL" in log, "the log is written at all"
    assert "CANARY" not in log
    with psycopg.connect(secured.server.url()) as connection:
        shown = {
            name: connection.execute("select current_setting(%s)", (name,)).fetchone()[0]
            for name in ("ssl", "ssl_min_protocol_version", "password_encryption", "log_min_messages")
        }
    assert shown == {
        "ssl": "on", "ssl_min_protocol_version": "TLSv1.2", "password_encryption": "scram-sha-256",
        "log_min_messages": "log",
    }  # fmt: skip


def test_the_servers_files_are_its_own(secured):
    for name in ("server.key", "pg_hba.conf", "pg_ident.conf"):
        file = secured.server.data / name
        assert file.stat().st_mode & 0o077 == 0
        assert file.stat().st_uid == secured.server.data.stat().st_uid
    hba = (secured.server.data / "pg_hba.conf").read_text()
    assert all(line.startswith("hostssl ") for line in hba.splitlines())


def test_a_data_directory_from_before_tls_speaks_it_from_the_next_start_on_and_keeps_its_data(secured, server_folder):
    folder = server_folder / "before"
    binaries = secured.server.binaries
    before = EmbeddedPostgres(folder, free_port(), binaries, fsync=False)
    before.start()
    try:
        with psycopg.connect(before.url(), autocommit=True) as connection:
            connection.execute("create table kept (n int)")
        assert not was_tls(before.data)
    finally:
        before.stop()
    after = EmbeddedPostgres(folder, free_port(), binaries, fsync=False, tls=secured.identities.postgres_tls())
    after.start()
    try:
        assert was_tls(after.data)
        with psycopg.connect(after.url()) as connection:
            assert connection.execute("select count(*) from kept").fetchone() == (0,)
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(changed(after.url(), sslmode="disable")).close()
    finally:
        after.stop()


def test_a_data_directory_gets_the_version_that_wrote_it_and_a_new_one_tls_where_there_is_any(tmp_path, monkeypatch):
    monkeypatch.delenv("VIGIL_POSTGRES_BIN", raising=False)
    found = installed()
    for binaries in found:
        (tmp_path / "PG_VERSION").write_text(f"{version_of(binaries)}\n")
        assert version_of(find_postgres_binaries(tmp_path)) == version_of(binaries)
    fresh = find_postgres_binaries(tmp_path / "none")
    assert speaks_tls(fresh) is any(speaks_tls(binaries) for binaries in found)
    assert version_of(find_postgres_binaries()) == max(version_of(binaries) for binaries in found)
    monkeypatch.setenv("VIGIL_POSTGRES_BIN", str(tmp_path))
    with pytest.raises(ConfigurationError, match="VIGIL_POSTGRES_BIN"):
        find_postgres_binaries()
