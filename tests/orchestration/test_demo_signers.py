"""The demonstration's signers: the people of its sign-in, believed in a demonstration and nowhere else."""

from datetime import UTC, datetime

import pytest

from governance import roster, trust
from hospital.issuer.people import PEOPLE
from orchestration import demo_signers
from vocabulary.errors import ConfigurationError
from vocabulary.settings import Settings

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def settings_of(folder, mode="demo"):
    return Settings(data_dir=folder, mode=mode, oidc_issuer="http://127.0.0.1:1")


def test_signers_are_people_of_the_development_provider():
    people = {person.subject: person for person in PEOPLE}
    for signer in (*demo_signers.SIGNERS, demo_signers.AUTHOR):
        assert people[signer.subject].name == signer.name
        assert signer.role.value in people[signer.subject].roles


def test_their_signatures_count_in_the_demonstration(tmp_path):
    settings = settings_of(tmp_path)
    demo_signers.prepare(settings, NOW)
    installed = trust.load_roster(settings, NOW.date())
    for signer in demo_signers.SIGNERS:
        signature = roster.sign_statement(demo_signers.key_of(settings, signer), b"a statement", NOW)
        by = roster.check(installed, signature, b"a statement", NOW)
        assert (by.person, by.roles) == (signer.person(settings), (signer.role,))


def test_a_second_preparation_changes_nothing(tmp_path):
    settings = settings_of(tmp_path)
    demo_signers.prepare(settings, NOW)
    before = trust.roster_path(settings).read_bytes()
    demo_signers.prepare(settings, NOW)
    assert trust.roster_path(settings).read_bytes() == before


def test_production_makes_no_such_signers_and_believes_none(tmp_path):
    with pytest.raises(ConfigurationError, match="demo mode only"):
        demo_signers.prepare(settings_of(tmp_path, "production"), NOW)
    demo_signers.prepare(settings_of(tmp_path), NOW)
    with pytest.raises(ConfigurationError, match="VIGIL_SIGNER_ROOT"):
        trust.load_roster(settings_of(tmp_path, "production"), NOW.date())


def test_the_root_key_is_kept_nowhere(tmp_path):
    demo_signers.prepare(settings_of(tmp_path), NOW)
    names = {path.name for path in demo_signers.folder(settings_of(tmp_path)).iterdir()}
    assert names == {"root.public", "roster.signed", *(signer.file for signer in demo_signers.SIGNERS)}
