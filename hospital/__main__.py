"""`python -m hospital`: feed a Vigil with a synthetic ward, recorded stays or a load; write a cohort; be its sign-in.

Any MLLP receiver can be fed; `issuer` is for demonstrations only.

Here: arguments, a line of progress, exit status.
Not here: anything worth importing.
Exit status: 0 everything answered (refusals are counted in the summary: a ward sends rubbish on purpose), 1 something
unanswered, 2 wrong arguments, 3 no listener, no recording, or a cohort that may not be written.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import sys
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from hospital.cohort import write_cohort
from hospital.issuer import serve as issuer
from hospital.load import run_load
from hospital.outgoing import Timed
from hospital.play import Progress, play
from hospital.sender import Transcript
from hospital.stays import STAY_MINUTES, Record, messages, read_stays
from hospital.ward import Ward
from vocabulary.clock import ScaledClock
from vocabulary.errors import ConfigurationError, VigilError
from vocabulary.tls import Identity, client_context


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(f"expected host:port, found {text!r}")
    return host, int(port)


def _clock(text: str) -> tuple[int, int]:
    origin, _, started = text.partition(":")
    if not (origin.isdigit() and started.isdigit()):
        raise argparse.ArgumentTypeError(f"expected ORIGIN_US:STARTED_AT_US, found {text!r}")
    return int(origin), int(started)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hospital", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    ward = commands.add_parser("ward", help="a synthetic ward, with everything that goes wrong in one")
    ward.add_argument("--beds", type=int, default=12)
    ward.add_argument("--hours", type=float, default=4.0, help="length of the ward's day that is played")
    ward.add_argument("--seed", type=int, default=1, help="the same seed sends the same bytes")
    ward.add_argument("--faults", type=float, default=1.0, help="multiplies the rate of faults; 0 for none")
    ward.add_argument("--sample-interval", type=float, default=60.0, help="seconds between a monitor's messages")
    stays = commands.add_parser("stays", help="recorded stays of PhysioNet 2012")
    stays.add_argument("source", type=Path, help="set-a.tar.gz, a folder that holds it, or a folder of its .txt files")
    stays.add_argument("--limit", type=int, default=40, help="how many stays")
    stays.add_argument("--only", type=Path, metavar="FILE", help="play these stays: their RecordIDs, one a line")
    stays.add_argument("--stagger", type=float, default=60.0, help="seconds between two admissions")
    for command in (ward, stays):
        command.add_argument("--adt", type=_address, required=True, metavar="HOST:PORT")
        command.add_argument("--monitors", type=_address, required=True, metavar="HOST:PORT")
        command.add_argument("--lab", type=_address, required=True, metavar="HOST:PORT")
        command.add_argument(
            "--speed",
            type=float,
            default=60.0,
            help="times faster than real. Message times are set back so that the last is of now, "
            "and none is ever in the future of a receiver whose clock is not scaled",
        )
        command.add_argument(
            "--clock",
            type=_clock,
            metavar="ORIGIN_US:STARTED_AT_US",
            help="the receiver's own scaled clock (what it showed, and when that was); messages then begin at its now",
        )
        command.add_argument("--json", action="store_true", help="print progress as JSON lines on standard output")
        command.add_argument("--window", type=int, default=8, help="unanswered messages a feed allows")
        command.add_argument("--causal", action="store_true", help="wait for each ADT's ACK before going on")
    load = commands.add_parser("load", help="a steady load: one message a second and bed, twelve values each")
    load.add_argument("--adt", type=_address, required=True, metavar="HOST:PORT")
    load.add_argument("--monitors", type=_address, required=True, metavar="HOST:PORT")
    load.add_argument("--beds", type=int, default=200)
    load.add_argument("--seconds", type=float, default=60.0)
    load.add_argument("--connections", type=int, default=8)
    for command in (ward, stays, load):
        command.add_argument(
            "--tls-identity",
            type=Path,
            metavar="FOLDER",
            help="speak TLS: the folder holds certificate.pem and key.pem, which we show, and authority.pem, which the "
            "receiver's certificate is checked against, and its name against the addresses above",
        )
    cohort = commands.add_parser("cohort", help="a synthetic cohort in the files of the PhysioNet 2012 challenge")
    cohort.add_argument("--stays", type=int, default=1500)
    cohort.add_argument("--seed", type=int, default=1, help="the same seed writes the same bytes")
    cohort.add_argument("--to", type=Path, required=True, metavar="FOLDER")
    issuer.add_arguments(commands.add_parser("issuer", help="a sign-in for demonstrations, where anybody is anybody"))
    return parser


def _tell(progress: Progress) -> None:
    line = f"\r{progress.queued} sent, {progress.answered} acknowledged, {progress.late_s:.1f} s behind   "
    print(line, end="", file=sys.stderr, flush=True)


def _tell_json(progress: Progress) -> None:
    line = {"event": "progress"} | progress._asdict()
    print(json.dumps(line), flush=True)


def _summary(transcript: Transcript, seconds: float) -> int:
    latencies = transcript.acknowledgement_latencies_s()
    summary = {
        "messages": len(transcript),
        "accepted": len(transcript.accepted()),
        "refused": len(transcript.refused()),
        "unanswered": len(transcript.unanswered()),
        "reconnections": transcript.reconnections,
        "ack_p50_s": round(latencies[len(latencies) // 2], 6) if latencies else None,
        "ack_p99_s": round(latencies[int(len(latencies) * 0.99)], 6) if latencies else None,
        "seconds": round(seconds, 3),
    }
    print(json.dumps(summary))
    return 1 if transcript.unanswered() else 0


def _stays(options: argparse.Namespace) -> list[Record]:
    if options.only is None:
        return list(read_stays(options.source, options.limit))
    wanted = set(options.only.read_text().split())
    return list(islice((stay for stay in read_stays(options.source) if stay.record_id in wanted), options.limit))


async def _run(options: argparse.Namespace, tls: ssl.SSLContext | None) -> Transcript:
    if options.command == "load":
        report = await run_load(
            options.adt,
            options.monitors,
            beds=options.beds,
            seconds=options.seconds,
            connections=options.connections,
            tls=tls,
        )
        return report.transcript
    records = [] if options.command == "ward" else _stays(options)
    hours = (
        options.hours if options.command == "ward" else (STAY_MINUTES + 1) / 60 + len(records) * options.stagger / 3600
    )
    now_us = time.time_ns() // 1000
    start_us = now_us - round(hours * 3.6e9 * (1 - 1 / options.speed))
    clock = ScaledClock(start_us, now_us, options.speed)
    if options.clock is not None:
        origin_us, started_at_us = options.clock
        clock = ScaledClock(origin_us, started_at_us, options.speed)
        start_us = clock.now_us()
    source: Iterable[Timed]
    if options.command == "ward":
        ward = Ward(
            options.beds, options.seed, sample_interval_s=options.sample_interval, fault_intensity=options.faults
        )
        source = ward.messages(start_us, options.hours)
    else:
        source = messages(records, start_us, options.stagger)
    return await play(
        source,
        {"adt": options.adt, "monitors": options.monitors, "lab": options.lab},
        clock=clock,
        window=options.window,
        is_causal=options.causal,
        progress=_tell_json if options.json else _tell if sys.stderr.isatty() else None,
        tls=tls,
    )


def _write_cohort(options: argparse.Namespace) -> int:
    if options.stays < 1:
        print("--stays: expected at least 1", file=sys.stderr)
        return 2
    try:
        died = write_cohort(options.to, options.stays, options.seed)
    except (OSError, VigilError) as error:
        print(f"{error}", file=sys.stderr)
        return 3
    print(json.dumps({"stays": options.stays, "died": died, "is_synthetic": True, "folder": str(options.to)}))
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = _parser().parse_args(arguments)
    if options.command == "issuer":
        return issuer.run(options)
    if options.command == "cohort":
        return _write_cohort(options)
    started_s = time.monotonic()
    try:
        tls = client_context(Identity(options.tls_identity)) if options.tls_identity is not None else None
    except ConfigurationError as error:
        print(f"{error}", file=sys.stderr)
        return 2
    try:
        transcript = asyncio.run(_run(options, tls))
    except VigilError as error:
        print(f"{error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        return 130
    return _summary(transcript, time.monotonic() - started_s)


if __name__ == "__main__":
    sys.exit(main())
