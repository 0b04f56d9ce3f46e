"""The scanner can fail: a leak in any clothes, in any place it looks, is found, and what is harmless is not."""

from __future__ import annotations

import base64
import gzip
import json
import logging
import random
import struct
import subprocess
import sys
import time
import zlib
from urllib.parse import quote

import psutil
import pytest
import zstandard

LEAK = "admitted Quexold at noon"


def packed(text):
    return zstandard.ZstdCompressor().compress(text)


CLOTHES = {
    "plain": LEAK.encode(),
    "upper case": LEAK.upper().encode(),
    "inside a word": b"xxQUEXOLDxx",
    "UTF-16": LEAK.encode("utf-16"),
    "UTF-16, big end first": LEAK.encode("utf-16-be"),
    "UTF-32": LEAK.encode("utf-32"),
    "base64": base64.b64encode(LEAK.encode()),
    "base64, one further": base64.b64encode(b"." + LEAK.encode()),
    "base64, two further": base64.b64encode(b".." + LEAK.encode()),
    "base64 for addresses": base64.urlsafe_b64encode(b"\xff\xfe" + LEAK.encode()),
    "base64 in base64": base64.b64encode(base64.b64encode(LEAK.encode())),
    "a header of RFC 7617": b"Authorization: Basic " + base64.b64encode(b"vigil:quexold-wrong-password"),
    "hexadecimal": LEAK.encode().hex().encode(),
    "hexadecimal in capitals": LEAK.encode().hex().upper().encode(),
    "percent escapes": quote(LEAK).encode(),
    "percent escapes of everything": "".join(f"%{byte:02x}" for byte in LEAK.encode()).encode(),
    "JSON escapes": "".join(f"\\u{ord(letter):04x}" for letter in LEAK).encode(),
    "zstd": packed(LEAK.encode()),
    "zstd behind a header": b"VIGL\x01\x02" + packed(LEAK.encode()) + b"tail",
    "gzip": gzip.compress(LEAK.encode()),
    "zlib": zlib.compress(LEAK.encode()),
    "zstd in base64 in JSON": json.dumps({"body": base64.b64encode(packed(LEAK.encode() * 3)).decode()}).encode(),
    "gzip in hexadecimal": gzip.compress(LEAK.encode()).hex().encode(),
    "the number": b"value=123.456789",
    "the number, rounded": b"value=123.4567",
    "the number in memory": struct.pack("<d", 123.456789),
    "the number in network order": struct.pack(">d", 123.456789),
    "a telephone number": b"tel:0307391846215",
    "a birth date": b'"birth_date": "1903-07-19"',
    "a birth date as HL7": b"|19030719|",
    "a secret": b"s3cr3t-of-this-run",
    "a secret in base64": base64.b64encode(b"vigil:s3cr3t-of-this-run"),
}


@pytest.mark.parametrize("clothes", CLOTHES)
def test_a_leak_is_found_whatever_it_wears(canaries, clothes):
    scanner = canaries.Scanner(["s3cr3t-of-this-run"])
    rng = random.Random(1)
    around = [json.dumps({"at": rng.random(), "id": rng.getrandbits(128)}).encode() for _ in range(20)]
    assert scanner.scan(b"\n".join(around), "log") == []
    found = scanner.scan(b"\n".join([*around, CLOTHES[clothes], *around]), "log")
    assert found, clothes
    assert all(finding.where.startswith("log") for finding in found)


def test_what_is_harmless_is_not_found(canaries):
    scanner = canaries.Scanner(["s3cr3t-of-this-run"])
    rng = random.Random(2)
    harmless = [
        rng.randbytes(200_000),
        base64.b64encode(rng.randbytes(50_000)),
        rng.randbytes(50_000).hex().encode(),
        packed(rng.randbytes(1000) * 50),
        b"at_us=1790307190000000 quex old 123.45 190307191 0x19030719ab 100% sure %zz \\u00",
    ]
    for content in harmless:
        assert scanner.scan(content, "noise") == []


def test_a_leak_in_a_log_record_is_found(canaries, tmp_path):
    log = logging.getLogger("canary test")
    handler = logging.FileHandler(tmp_path / "engine.log")
    log.addHandler(handler)
    try:
        log.warning("unreadable_unit", extra={"n": 1})
        assert canaries.Scanner().scan_folder(tmp_path) == []
        log.warning("unit %s unknown", f"{canaries.FAMILY}-units")
    finally:
        handler.close()
        log.removeHandler(handler)
    (finding,) = canaries.Scanner().scan_folder(tmp_path)
    assert "engine.log" in finding.where
    assert b"unit Quexold-units unknown" in finding.around


def test_a_leak_in_a_files_name_or_below_several_folders_is_found(canaries, tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/core").write_bytes(base64.b64encode(b"abc" + canaries.STREET.encode()))
    (tmp_path / "a" / f"{canaries.MEDICAL_RECORD_NUMBER}.pdf").touch()
    found = canaries.Scanner().scan_folder(tmp_path)
    assert {finding.where.partition(" > ")[0] for finding in found} == {
        f"{tmp_path}/a/b/core", f"the name of {tmp_path}/a/{canaries.MEDICAL_RECORD_NUMBER}.pdf",
    }  # fmt: skip
    assert canaries.Scanner().scan_folder(tmp_path, [tmp_path / "a"]) == []


def test_a_temporary_file_that_lives_for_a_moment_is_found(canaries, tmp_path):
    with canaries.FolderWatch(tmp_path, 0.005) as watch:
        brief = tmp_path / "upload"
        brief.write_bytes(gzip.compress(LEAK.encode()))
        deadline = time.monotonic() + 5
        while brief not in watch.seen and time.monotonic() < deadline:
            time.sleep(0.005)
        brief.unlink()
    assert canaries.Scanner().scan_folder(tmp_path) == []
    assert [f.what for f in watch.findings(canaries.Scanner())] == ["a canary"]


def test_a_leak_in_a_command_line_or_an_environment_is_found(canaries):
    code = "import time; time.sleep(60)"
    child = subprocess.Popen(
        [sys.executable, "-c", code, "--patient=Quexold"], env={"PASSWORD": canaries.WRONG_PASSWORD}
    )
    try:
        found = []
        deadline = time.monotonic() + 5
        while len(found) < 2 and time.monotonic() < deadline:  # until it is no longer a copy of ours
            found = canaries.Scanner().scan_process(psutil.Process(child.pid), environment=True)
        where = [finding.where.rsplit(" ", 1)[0] for finding in found]
        assert where == ["the command line of", "the environment of"]
        assert len(canaries.Scanner().scan_process(psutil.Process(child.pid), environment=False)) == 1
    finally:
        child.kill()
        child.wait()


def test_every_canary_is_found_in_every_message_that_carries_one(canaries):
    messages = canaries.Messages("20260601120000+0000", "20260601110000+0000", "20260602120000+0000")
    every = [*messages.good(), *messages.bad()]
    assert len(every) > 40
    assert len({body for _, body in every}) == len(every)
    harmless = [body for _, body in every if not canaries.Scanner().scan(body, "message")]
    assert harmless == [b"MSH|^~\\&|QUEX"]  # what is left of one that was cut off
