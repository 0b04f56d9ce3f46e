"""Protocol files: the shipped ones are whole, and one that contradicts itself is refused with the reason."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

import validation
from validation.protocols import load, load_all
from vocabulary.errors import ConfigurationError

FOLDER = Path(validation.__file__).parent / "protocols"
NEWS2 = (FOLDER / "news2.toml").read_text()


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "changed.toml"
        path.write_text(text)
        return path

    return write


def test_the_shipped_protocols_are_read_with_the_digest_of_their_bytes():
    protocols = load_all()
    assert set(protocols) == {"news2", "qsofa", "sirs", "shock_index"}
    for name, protocol in protocols.items():
        assert protocol.digest == hashlib.sha256((FOLDER / f"{name}.toml").read_bytes()).hexdigest()
        assert protocol.label == f"{name}@{protocol.version}"
        assert protocol.source


def test_a_changed_threshold_changes_the_digest(written):
    changed = load(written(NEWS2.replace("high = 8 }", "high = 7 }").replace("low = 9,", "low = 8,")))
    assert changed.digest != load(FOLDER / "news2.toml").digest
    assert changed.components[0].criteria[0].bands[0].high == 7


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("low = 9, high = 11", "low = 10, high = 11", "not one step"),
        ("low = 9, high = 11", "low = 8, high = 11", "not one step"),
        ("low = 12, high = 20", "low = 12, high = 20.5", "finer"),
        ("{ points = 3, high = 8 }", "{ points = 3, low = 1, high = 8 }", "no low"),
        ("{ points = 3, low = 25 }", "{ points = 3, low = 25, high = 99 }", "no high"),
        ("{ points = 3, high = 8 }", "{ points = 3 }", "open limit"),
        ("{ points = 3, high = 8 }", "{ points = -3, high = 8 }", "below zero"),
        ("low = 12, high = 20", "low = 12, high = 11", "above"),
        ('name = "heart_rate"', 'name = "respiratory_rate"', "different names"),
        ('word = "medium"', 'word = "low"', "one word"),
        ("at_least = 7", "at_least = 4", "rise"),
        ('version = "1"', 'version = ""', "version is empty"),
        ('kind = "sum"', 'kind = "ratio"', "two components"),
        ("decimals = 1", "decimals = 9", "decimals"),
    ],
)
def test_a_protocol_that_contradicts_itself_is_refused(written, old, new, said):
    assert old in NEWS2
    with pytest.raises(ConfigurationError, match=said) as error:
        load(written(NEWS2.replace(old, new, 1)))
    assert "changed.toml" in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "not toml [",
        'name = "x"',
        NEWS2 + '\nunknown = "field"\n',
        NEWS2.replace('input = "heart_rate"', 'input = "shoe_size"'),
        NEWS2.replace("points = 3", 'points = "3"', 1),
    ],
)
def test_a_file_of_another_shape_is_refused(written, text):
    with pytest.raises(ConfigurationError, match="shape"):
        load(written(text))


def test_a_missing_or_empty_folder_is_said(tmp_path):
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load(tmp_path / "none.toml")
    with pytest.raises(ConfigurationError, match="no protocol"):
        load_all(tmp_path)


def test_two_files_of_one_name_are_refused(tmp_path):
    for name in ("a.toml", "b.toml"):
        (tmp_path / name).write_text(NEWS2)
    with pytest.raises(ConfigurationError, match=r"b\.toml"):
        load_all(tmp_path)
