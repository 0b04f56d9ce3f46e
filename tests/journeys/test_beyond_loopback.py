"""What a site meets that is no demonstration: its own provider, its own database, authorities that end, the manual.

Here: what was found by hand, as a regression test.
Not here: the parts' own tests (tests/orchestration, tests/stores), TLS on every listener (test_secured_house).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import psycopg
import pytest
import typer
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from orchestration.addresses import resolve
from orchestration.certificates import AUTHORITY_DAYS
from orchestration.cli import app
from orchestration.credentials import PROCESSES, Identities
from orchestration.data_dir import DataDir
from stores.database import migrate
from vocabulary.clock import ManualClock
from vocabulary.errors import ConfigurationError
from vocabulary.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
DAY_S = 86_400.0
WORDS_AFTER_VIGIL = re.compile(r"(?:`|bin/)vigil((?: [a-z][a-z-]*)+)")


def prepared(folder: Path) -> DataDir:
    data_dir = DataDir(folder)
    data_dir.prepare()
    return data_dir


def unknown_command(words: Sequence[str]) -> str | None:
    """Return the first word that should be a command and is none; arguments of a command are not looked at."""
    command = typer.main.get_command(app)
    for word in words:
        commands = getattr(command, "commands", None)
        if commands is None:
            return None
        if word not in commands:
            return word
        command = commands[word]
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_the_manual_names_exists(page):
    named = [match.split() for match in WORDS_AFTER_VIGIL.findall(page.read_text())]
    assert [words for words in named if unknown_command(words)] == []


def test_the_manual_names_commands_of_every_group():
    named = chain.from_iterable(WORDS_AFTER_VIGIL.findall(page.read_text()) for page in PAGES)
    assert {"keys", "access", "audit", "certificates", "up"} <= {words.split()[0] for words in named}
    assert unknown_command(["keys", "melt"]) == "melt"


@pytest.mark.parametrize("issuer", ["http://127.0.0.1:13000", "http://login.example.org", "login.example.org", "x y"])
def test_a_provider_that_could_be_overheard_is_refused_before_anything_starts(tmp_path, issuer):
    settings = Settings(data_dir=tmp_path, oidc_issuer=issuer)
    with pytest.raises(ConfigurationError, match="https address"):
        resolve(settings, prepared(tmp_path))


def test_a_provider_over_https_is_taken(tmp_path):
    resolved, ports = resolve(Settings(data_dir=tmp_path, oidc_issuer="https://login.example.org"), prepared(tmp_path))
    assert resolved.oidc_issuer == "https://login.example.org"
    assert "issuer" not in ports


async def test_a_database_that_cannot_hold_every_name_is_refused_and_left_as_it_is(database_url):
    name = f"ascii_{conninfo_to_dict(database_url)['dbname']}"
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute(f"create database {name} encoding 'SQL_ASCII' lc_collate 'C' lc_ctype 'C' template template0")
        try:
            url = make_conninfo(database_url, dbname=name)
            with pytest.raises(ConfigurationError, match="encoding SQL_ASCII; Vigil needs UTF8"):
                await migrate(url)
            with psycopg.connect(url) as refused:
                assert refused.execute("select count(*) from pg_tables where schemaname = 'public'").fetchone() == (0,)
        finally:
            owner.execute(f"drop database {name} with (force)")


def test_after_an_authority_ended_moving_it_away_makes_new_certificates_and_keeps_the_chains_keys(tmp_path):
    settings, data_dir = Settings(data_dir=tmp_path), prepared(tmp_path)
    clock = ManualClock(1_780_000_000_000_000)
    identities = Identities(data_dir, settings, clock)
    identities.prepare()
    ledger_keys = {name: identities.of(name).ledger_key.read_bytes() for name in PROCESSES}
    clock.advance((AUTHORITY_DAYS + 1) * DAY_S)
    with pytest.raises(ConfigurationError, match="Move the folder away"):
        identities.prepare()
    data_dir.authority.rename(tmp_path / "ended")
    assert set(identities.prepare()) >= {*PROCESSES, "postgres", "nats-server", "server"}
    assert {name: identities.of(name).ledger_key.read_bytes() for name in PROCESSES} == ledger_keys
    assert identities.prepare() == []
