"""What each door speaks, by settings and day: a table, its extremes, and the words for people."""

from __future__ import annotations

from datetime import date

import pytest

from twin import listeners
from vocabulary.clock import ManualClock
from vocabulary.errors import ConfigurationError
from vocabulary.settings import FeedSettings, Settings, Waiver

DAY = date(2031, 5, 1)


def waiver(listener: str = "mllp.adt", until: date = DAY) -> Waiver:
    return Waiver(listener=listener, reason="an old interface engine behind a VPN", approved_by="N. N.", until=until)


@pytest.mark.parametrize(
    ("host", "tls", "waivers", "listener", "expected"),
    [
        ("127.0.0.1", "beyond_loopback", (), "clinic", ("plain (loopback)", False)),
        ("::1", "beyond_loopback", (), "mllp.adt", ("plain (loopback)", False)),
        ("localhost", "always", (), "clinic", ("tls", False)),
        ("127.0.0.1", "always", (), "mllp.adt", ("tls+client certificate", False)),
        ("127.0.0.1", "always", (), "mqtt", ("tls+client certificate", False)),
        ("0.0.0.0", "beyond_loopback", (), "clinic", ("tls", False)),
        ("10.0.0.1", "beyond_loopback", (), "mllp.adt", ("tls+client certificate", False)),
        ("10.0.0.1", "beyond_loopback", (), "mllp.lab", ("tls", False)),
        ("10.0.0.1", "beyond_loopback", (waiver(),), "mllp.adt",
         ("PLAIN by waiver of N. N. until 2031-05-01: an old interface engine behind a VPN", True)),
        ("10.0.0.1", "beyond_loopback", (waiver(),), "clinic", ("tls", False)),
        ("10.0.0.1", "always", (waiver(),), "mllp.adt", ("tls+client certificate", False)),
        ("127.0.0.1", "beyond_loopback", (waiver(),), "mllp.adt", ("plain (loopback)", False)),
    ],
)  # fmt: skip
def test_what_each_listener_speaks(host, tls, waivers, listener, expected):
    feeds = (FeedSettings(name="adt"), FeedSettings(name="lab", requires_client_certificate=False))
    settings = Settings(host=host, tls=tls, plaintext_waivers=waivers, feeds=feeds)
    assert listeners.transport(settings, listener, DAY) == expected
    listeners.require_safe(settings, DAY)


def test_a_waiver_holds_to_the_end_of_its_last_day_and_then_stops_the_start():
    settings = Settings(host="10.0.0.1", plaintext_waivers=(waiver(),))
    assert listeners.transport(settings, "mllp.adt", DAY).is_waived
    with pytest.raises(ConfigurationError, match="ended on 2031-05-01") as told:
        listeners.require_safe(settings, date(2031, 5, 2))
    assert "N. N." in str(told.value)
    assert "mllp.adt" in str(told.value)


def test_an_ended_waiver_that_was_renewed_or_is_not_needed_stops_nothing():
    renewed = Settings(host="10.0.0.1", plaintext_waivers=(waiver(until=date(2030, 1, 1)), waiver()))
    listeners.require_safe(renewed, DAY)
    listeners.require_safe(Settings(plaintext_waivers=(waiver(until=date(2030, 1, 1)),)), DAY)


def test_a_waiver_for_a_door_that_does_not_exist_is_a_mistake():
    with pytest.raises(ConfigurationError, match=r"mllp\.pacs"):
        listeners.require_safe(Settings(plaintext_waivers=(waiver("mllp.pacs"),)), DAY)


def test_a_door_that_must_speak_tls_and_has_no_certificate_names_the_waiver_to_write():
    with pytest.raises(ConfigurationError) as told:
        listeners.context(Settings(host="10.0.0.1"), "clinic", DAY)
    for word in ("plaintext_waivers", 'listener = "clinic"', "approved_by", "until", "VIGIL_SERVER_IDENTITY"):
        assert word in str(told.value)
    assert listeners.context(Settings(), "clinic", DAY) is None


def test_a_certificate_that_cannot_be_read_is_named(tmp_path):
    settings = Settings(host="10.0.0.1", server_identity=tmp_path)
    with pytest.raises(ConfigurationError, match=str(tmp_path)):
        listeners.context(settings, "clinic", DAY)


def test_the_day_is_the_clocks_in_utc():
    assert listeners.today(ManualClock(1_000_000 * 86_400 * 365)) == date(1971, 1, 1)
    assert listeners.names(Settings()) == ("clinic", "mqtt", "mllp.adt", "mllp.monitors", "mllp.lab")
