"""How a service is said to be, from what its process last wrote, and what an operator reads when RAW takes nothing."""

from __future__ import annotations

import io
import os
import time

import pytest
from rich.console import Console

from orchestration import feeds, services
from orchestration.data_dir import DataDir
from orchestration.display import service_line
from orchestration.embedded import EmbeddedNats
from orchestration.health import SERVING, Condition, judge, raw_trouble
from orchestration.supervisor import Seen
from twin import health
from vocabulary.settings import Settings


def report(run, *, is_ready=True, age_s=0.0, **detail) -> health.Health:
    at_us = int((time.time() - age_s) * 1_000_000)
    written = health.Health("ingress", os.getpid(), at_us, "", is_ready, detail)
    health.write(run, written)
    return written


@pytest.mark.parametrize(
    ("detail", "condition", "word"),
    [
        ({"is_raw_full": False, "raw_refused_s": 0.0}, Condition.READY, ""),
        ({"is_raw_full": False, "raw_refused_s": 3.0}, Condition.READY, ""),  # a server's restart
        ({"is_raw_full": True, "raw_refused_s": 0.0}, Condition.BLOCKED, "VIGIL_RAW_MAX_BYTES"),
        ({"is_raw_full": False, "raw_refused_s": 42.0}, Condition.BLOCKED, "42 s"),
        ({}, Condition.READY, ""),  # the other processes say nothing of RAW
    ],
)
def test_ingress_that_cannot_store_is_blocked_and_says_what_to_do(tmp_path, detail, condition, word):
    trouble = raw_trouble(report(tmp_path, **detail))
    assert judge(tmp_path, "ingress", os.getpid()) is condition
    assert word in trouble
    assert bool(trouble) is (condition is Condition.BLOCKED)
    assert condition in SERVING, "a full RAW must not keep Vigil from starting"
    assert trouble in service_line(Seen("ingress", "", condition, 0, trouble))


def test_a_report_that_is_old_or_another_process_is_not_believed(tmp_path):
    report(tmp_path, age_s=60.0, is_raw_full=True)
    assert judge(tmp_path, "ingress", os.getpid()) is Condition.SILENT
    assert judge(tmp_path, "ingress", os.getpid() + 1) is Condition.STARTING


def test_the_list_of_feeds_says_that_raw_is_full_and_clocks_far_off_in_days():
    stream = io.StringIO()
    line = feeds.FeedLine("lab", "127.0.0.1:1", "A|B", 1.0, False, -1207584804.2, 1, 1, 0)
    feeds.show([line], Console(file=stream, width=140), "RAW is full")
    assert "-13977 d" in stream.getvalue()
    assert "RAW is full." in stream.getvalue()
    assert feeds.skew(0.25) == "+0.2 s"
    assert feeds.skew(7300.0) == "+2 h"


@pytest.mark.parametrize(
    ("detail", "free", "is_restarted"),
    [
        ({"is_raw_full": False, "raw_refused_s": 30.0}, 10**9, True),
        ({"is_raw_full": False, "raw_refused_s": 30.0}, 10**6, False),  # it would only fail again
        ({"is_raw_full": True, "raw_refused_s": 30.0}, 10**9, False),  # its own limit, not the disk
        ({"is_raw_full": False, "raw_refused_s": 0.0}, 10**9, False),
    ],
)
def test_nats_server_is_started_anew_once_a_full_disk_has_room_again(tmp_path, monkeypatch, detail, free, is_restarted):
    stops: list[str] = []
    monkeypatch.setattr(EmbeddedNats, "pid", lambda _self: 4711)
    monkeypatch.setattr(EmbeddedNats, "stop", lambda _self: stops.append("stop"))
    data_dir = DataDir(tmp_path / "data")
    data_dir.prepare()
    house = services.House(Settings(data_dir=data_dir.root), data_dir, "up")
    monkeypatch.setattr("orchestration.services.shutil.disk_usage", lambda _path: type("U", (), {"free": free}))
    report(data_dir.run, **detail)
    house.supervisor.tend()
    house.supervisor.tend()
    assert stops == (["stop"] if is_restarted else []), "once, then it is given time"
