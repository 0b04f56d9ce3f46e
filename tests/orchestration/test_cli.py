"""The command as it is typed: help, exit statuses, and errors in one paragraph."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = [
    *("up", "down", "status", "demo", "replay", "verify", "feeds", "dagster", "quarantine"),
    *("train", "models", "approve", "reject", "promote", "rollback", "live-at", "incidents"),
]


def vigil(*arguments: str, data_dir: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VIGIL_")}
    return subprocess.run(
        [sys.executable, "-c", "from orchestration.cli import main; main()", *arguments],
        env=environment | {"VIGIL_DATA_DIR": str(data_dir), "COLUMNS": "200"},
        cwd=data_dir, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_help_names_every_command_and_what_exit_statuses_mean(tmp_path):
    answer = vigil("--help", data_dir=tmp_path)
    assert answer.returncode == 0
    for command in COMMANDS:
        assert f" {command} " in answer.stdout
        told = vigil(command, "--help", data_dir=tmp_path)
        assert told.returncode == 0
        assert "Exit status: 0 all is well" in told.stdout


@pytest.mark.parametrize(
    "arguments",
    [["status"], ["down"], ["verify"], ["feeds"], ["quarantine", "list"], ["replay", "00-1-1"], ["dagster"],
     ["quarantine", "release", "1"]],
)  # fmt: skip
def test_where_nothing_ever_ran_commands_say_how_to_start(tmp_path, arguments):
    answer = vigil(*arguments, data_dir=tmp_path)
    assert answer.returncode == 3
    assert answer.stderr.startswith("vigil: Nothing runs")
    assert "Traceback" not in answer.stderr
    assert answer.stdout == ""
    assert list(tmp_path.iterdir()) == [], "asking leaves nothing behind"


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["demo", "--beds", "0"], ["replay"], ["quarantine", "list", "--state", "odd"], ["up", "--odd"]],
)
def test_wrong_usage_is_status_2(tmp_path, arguments):
    answer = vigil(*arguments, data_dir=tmp_path)
    assert answer.returncode == 2
    assert "Traceback" not in answer.stderr


def test_a_damaged_settings_file_is_named(tmp_path):
    (tmp_path / "vigil.toml").write_text("host = ")
    answer = vigil("status", data_dir=tmp_path)
    assert answer.returncode == 2
    assert "Traceback" not in answer.stderr


def test_a_setting_in_the_file_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "vigil.toml").write_text("nats_port = 99999\n")
    answer = vigil("status", data_dir=tmp_path)
    assert answer.returncode == 2
    assert "NATS_PORT" in answer.stderr


@pytest.mark.slow
def test_a_demonstration_balances_replays_and_a_changed_ledger_is_found(reachable_folder):
    import psycopg

    from orchestration.addresses import embedded_servers
    from orchestration.data_dir import DataDir
    from orchestration.storage import load_settings, reachable

    answer = vigil(
        "demo", "--exit", "--json", "--minutes", "12", "--beds", "5", "--speed", "72", "--seed", "3", "--no-model",
        data_dir=reachable_folder,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    assert found["remainder"] == 0
    assert found["messages"]["received"] >= found["hospital"]["messages"] > 10
    assert found["messages"]["pending"] == found["values"]["pending"] == 0
    assert found["snapshots"] >= len(found["snapshot_ids"]) > 0
    assert 0 < found["p50_s"] <= found["p99_s"] < 30
    assert vigil("status", data_dir=reachable_folder).returncode == 3, "with --exit nothing is left running"

    again = vigil("replay", *found["snapshot_ids"][:3], "--sample", "5", "--json", data_dir=reachable_folder)
    assert again.returncode == 0, again.stdout + again.stderr
    assert json.loads(again.stdout)["identical"] == 8
    checked = vigil("verify", "--deep", "--json", data_dir=reachable_folder)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    recount = json.loads(checked.stdout)["recount"]
    assert recount["found"] == recount["booked"] == found["messages"]["received"]
    assert json.loads(checked.stdout)["values"] == found["values"]

    settings = load_settings(reachable_folder)
    with reachable(settings) as complete:
        assert complete.database_url is not None
        changing = "update ledger_entry set detail = ''"
        with (
            psycopg.connect(complete.database_url.get_secret_value(), autocommit=True) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute(changing)
        data_dir = DataDir(complete.data_dir)
        ports = data_dir.ports({"postgres": 0})
        postgres, _ = embedded_servers(complete, data_dir, ports, is_running=True)
        assert postgres is not None
        with psycopg.connect(postgres.url(), autocommit=True) as connection:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(changing)
            connection.execute("alter table ledger_entry disable trigger user")  # as only a superuser would
            connection.execute(
                "update ledger_entry set values_received = values_received + 1 where (writer, seq) = "
                "(select writer, seq from ledger_entry where values_received > 0 order by seq limit 1)"
            )
    altered = vigil("verify", data_dir=reachable_folder)
    assert altered.returncode == 1
    assert "NOT BALANCED" in altered.stdout
    assert "edited" in altered.stdout
