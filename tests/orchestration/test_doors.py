"""Planning a house: its doors and addresses beyond this machine, waivers, renewals, the people of a demonstration."""

from __future__ import annotations

import tomllib
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from hospital.issuer.people import PEOPLE
from orchestration import addresses, demo, demo_sign_in, doors, services
from orchestration.addresses import Servers
from orchestration.credentials import Identities
from orchestration.data_dir import DataDir
from orchestration.embedded import EmbeddedNats, EmbeddedPostgres
from orchestration.service_kinds import ProcessService
from vocabulary.errors import ConfigurationError
from vocabulary.settings import Settings, Waiver

TOMORROW = datetime.now(UTC).date() + timedelta(days=1)


@pytest.fixture
def data_dir(tmp_path) -> DataDir:
    made = DataDir(tmp_path / "data")
    made.prepare()
    return made


def waiver(until: date) -> Waiver:
    return Waiver(listener="mllp.adt", reason="an old interface engine", approved_by="N. N.", until=until)


def planned(settings: Settings, data_dir: DataDir) -> dict[str, tuple[str, str, bool]]:
    resolved, ports = addresses.resolve(settings, data_dir)
    servers = addresses.embedded_servers(resolved, data_dir, ports)
    return {one.name: (one.address, one.transport, one.is_waived) for one in doors.of_house(resolved, ports, servers)}


def test_beyond_loopback_every_door_speaks_tls_but_the_waived_one_and_servers_stay_here(data_dir):
    found = planned(Settings(host="0.0.0.0", plaintext_waivers=(waiver(TOMORROW),)), data_dir)
    assert found["clinic"][1:] == ("tls", False)
    assert found["mllp.monitors"][1:] == ("tls+client certificate", False)
    assert found["mqtt"][1:] == ("tls+client certificate", False)
    assert found["mllp.adt"][1:] == (f"PLAIN by waiver of N. N. until {TOMORROW}: an old interface engine", True)
    for name in ("clinic", "mqtt", "mllp.adt"):
        assert found[name][0].startswith("0.0.0.0:")
    for name in ("postgres", "nats-server"):
        assert found[name][0].startswith("127.0.0.1:")


def test_an_ended_waiver_stops_the_start(data_dir):
    ended = Settings(host="0.0.0.0", plaintext_waivers=(waiver(TOMORROW - timedelta(days=2)),))
    with pytest.raises(ConfigurationError, match="ended on"):
        addresses.resolve(ended, data_dir)


@pytest.mark.parametrize("url", ["nats://me:hush@bus.example:4222", "nats://bus.example"])
def test_a_bus_beyond_this_machine_in_plain_text_is_refused(data_dir, url):
    with pytest.raises(ConfigurationError) as told:
        addresses.resolve(Settings(nats_url=url), data_dir)
    assert "hush" not in str(told.value)
    addresses.resolve(Settings(nats_url=url.replace("nats://", "tls://")), data_dir)


def test_a_database_beyond_this_machine_that_is_not_checked_is_refused(data_dir):
    with pytest.raises(ConfigurationError, match="verify-full"):
        addresses.resolve(Settings(database_url="postgresql://me:hush@db.example/vigil"), data_dir)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Settings(clinic_port=8443), "http://127.0.0.1:8443/"),
        (Settings(clinic_port=8443, tls="always"), "https://127.0.0.1:8443/"),
        (Settings(clinic_port=8443, host="::1"), "http://[::1]:8443/"),
        (Settings(clinic_port=8443, host="10.0.0.1"), "https://10.0.0.1:8443/"),
        (Settings(clinic_port=8443, public_url="https://vigil.example.org"), "https://vigil.example.org/"),
    ],
)
def test_the_pages_are_where_browsers_find_them(data_dir, settings, expected):
    resolved, _ = addresses.resolve(settings, data_dir)
    assert addresses.board_url(resolved) == expected
    assert resolved.public_url == expected.rstrip("/")


def test_a_wildcard_address_is_told_by_the_machines_name(data_dir):
    resolved, _ = addresses.resolve(Settings(host="0.0.0.0"), data_dir)
    assert "0.0.0.0" not in addresses.board_url(resolved)


def test_without_a_provider_it_is_said_that_nobody_can_sign_in_and_a_demonstration_brings_its_own(data_dir):
    resolved, ports = addresses.resolve(Settings(), data_dir)
    assert doors.notes(resolved) == ["nobody can sign in: set VIGIL_OIDC_ISSUER"]
    assert "issuer" not in ports
    resolved, ports = addresses.resolve(Settings(mode="demo"), data_dir)
    assert doors.notes(resolved) == []
    assert resolved.oidc_issuer == f"http://127.0.0.1:{ports['issuer']}"
    resolved, ports = addresses.resolve(Settings(mode="demo", oidc_issuer="https://login.example"), data_dir)
    assert resolved.oidc_issuer == "https://login.example"
    assert "issuer" not in ports


def test_a_demonstration_is_for_this_machine_only():
    plan = demo.Plan(4, 10, 1, None, None, 1, True, False)
    with pytest.raises(ConfigurationError, match="VIGIL_HOST"):
        demo.scaled(Settings(host="0.0.0.0"), plan, 0)
    assert demo.scaled(Settings(), plan, 0).mode == "demo"


def test_the_people_named_at_the_end_of_a_demonstration_are_those_who_can_sign_in():
    named = {f"{person.name} ({person.title.lower()})" for person in PEOPLE}
    assert all(one in demo_sign_in.PEOPLE for one in named)
    assert demo_sign_in.PEOPLE.count("(") == len(PEOPLE)


def test_certificates_about_to_end_are_told(data_dir):
    settings = Settings(data_dir=data_dir.root)
    Identities(data_dir, settings).prepare()
    assert doors.ending_certificates(data_dir, settings) == []
    later = datetime.now(UTC) + timedelta(days=380)
    told = doors.ending_certificates(data_dir, settings, later)
    assert len(told) == len(list(data_dir.identity.iterdir()))
    assert all("renews it" in line for line in told)
    (data_dir.identity / "engine/certificate.pem").write_text("damaged")
    assert any("holds no certificate" in line for line in doors.ending_certificates(data_dir, settings))


def test_what_is_renewed_while_the_house_runs_is_taken_into_use(data_dir, monkeypatch):
    used: list[str] = []
    monkeypatch.setattr(EmbeddedNats, "stop", lambda _self: used.append("nats-server stopped"))
    monkeypatch.setattr(EmbeddedPostgres, "reload", lambda _self: used.append("postgres reloaded"))
    monkeypatch.setattr(ProcessService, "stop", lambda self: used.append(f"{self.name} stopped"))
    settings = Settings(data_dir=data_dir.root)
    house = services.House(settings, data_dir, "up")
    identities = Identities(data_dir, settings)
    identities.prepare()
    assert house.renew() == []
    assert used == []
    identities.processes.revoke("engine")
    assert house.renew() == ["engine"]
    assert sorted(used) == ["engine stopped", "postgres reloaded"]
    used.clear()
    identities.processes.revoke("nats-server")
    identities.listeners.revoke(identities.listeners.issued()[0].name)
    assert house.renew() == ["nats-server", "server"]
    assert sorted(used) == ["clinic stopped", "ingress stopped", "nats-server stopped", "postgres reloaded"]


def test_what_cannot_be_renewed_ends_nothing_that_runs(data_dir, monkeypatch):
    settings = Settings(data_dir=data_dir.root)
    house = services.House(settings, data_dir, "up")
    Identities(data_dir, settings).prepare()
    (data_dir.authority / "processes/certificate.pem").write_text("damaged")
    monkeypatch.setattr(services, "RENEWAL_INTERVAL_S", -1.0)
    house.supervisor.tend()
    with pytest.raises(ConfigurationError):
        house.renew()


def test_servers_of_others_are_not_ours_to_plan(data_dir):
    settings = Settings(database_url="postgresql://me@127.0.0.1/x", nats_url="nats://127.0.0.1:4222")
    resolved, ports = addresses.resolve(settings, data_dir)
    assert addresses.embedded_servers(resolved, data_dir, ports) == Servers(None, None)
    assert {one.name for one in doors.of_house(resolved, ports, Servers(None, None))} == {
        "clinic", "mllp.adt", "mllp.monitors", "mllp.lab",
    }  # fmt: skip


def test_the_example_for_a_hospitals_network_is_one_that_can_be_read_and_leaves_no_door_open(monkeypatch, data_dir):
    deploy = Path(__file__).resolve().parent.parent.parent / "deploy"
    monkeypatch.chdir(deploy)
    text = (deploy / "vigil.toml").read_text()
    assert set(tomllib.loads(text)) <= set(Settings.model_fields), "a setting that does not exist would be ignored"
    settings = Settings()
    assert settings.site == "st-elsewhere"
    found = planned(settings.model_copy(update={"server_identity": None}), data_dir)
    assert all(spoken.startswith("tls") for name, (_, spoken, _) in found.items() if name != "postgres")
    assert found["postgres"][0].startswith("127.0.0.1:")
    assert found["mllp.adt"][1] == "tls+client certificate"
    waived = text[text.index("# [[plaintext_waivers]]") :].replace("# ", "")
    assert Waiver(**tomllib.loads(waived)["plaintext_waivers"][0]).listener == "mllp.lab"
