"""Layer `source`, recorded stays: files of the PhysioNet 2012 challenge's format, taken as they lie in a folder.

Here: `source/physionet2012`, which says which files there are and what they are, byte for byte.
Not here: the live feeds (assets.sources), decoding (interop.physionet2012).
"""

import hashlib
from pathlib import Path
from typing import Final

import dagster as dg
import msgspec

from assets.learning_plane import CODE_VERSION, OWNERS, LearningPlane, default_cohort_folder, step
from interop import physionet2012
from vocabulary.errors import ConfigurationError

KEY: Final = dg.AssetKey(["source", "physionet2012"])
_CHUNK: Final = 1 << 20


class RecordedFolder(dg.Config):
    """Where the stays lie."""

    folder: str = ""
    """A folder with set-a.tar.gz (or *.txt) and Outcomes-a.txt; "" for <data_dir>/cohort."""


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """A folder of recorded stays at one moment."""

    folder: str
    fingerprint: str  # SHA-256 over names and contents
    files: int
    bytes: int
    is_synthetic: bool


def look(folder: Path) -> Recorded:
    """Return what lies in a folder.

    Raises:
        ConfigurationError: no archive and no stays.
    """
    files = [
        path
        for path in sorted(folder.glob("*"))
        if path.is_file() and (path.suffix == ".txt" or path.name == physionet2012.ARCHIVE)
    ]
    if not any(path.name == physionet2012.ARCHIVE or path.stem.isdigit() for path in files):
        raise ConfigurationError(
            f"{folder} holds no recorded stays: expected {physionet2012.ARCHIVE}, or files like 132539.txt. "
            "Name another folder in the run's configuration, or make a synthetic one with `python -m hospital cohort`."
        )
    digest = hashlib.sha256()
    size = 0
    for path in files:
        content = hashlib.sha256()
        with path.open("rb") as opened:
            while chunk := opened.read(_CHUNK):
                content.update(chunk)
                size += len(chunk)
        digest.update(f"{path.name}\n{content.hexdigest()}\n".encode())
    return Recorded(
        folder=str(folder.resolve()),
        fingerprint=digest.hexdigest(),
        files=len(files),
        bytes=size,
        is_synthetic=physionet2012.is_synthetic(folder),
    )


@dg.asset(
    key=KEY,
    group_name="source",
    owners=OWNERS,
    kinds={"file"},
    code_version=CODE_VERSION,
    description="Recorded ICU stays and how they ended, as published: the PhysioNet 2012 challenge's format. "
    "Nothing is copied; the fingerprint says which bytes were used.",
)
def physionet2012_files(
    config: RecordedFolder, learning: dg.ResourceParam[LearningPlane]
) -> dg.MaterializeResult[Recorded]:
    """Look at the folder."""
    with step(learning, KEY):
        folder = Path(config.folder) if config.folder else default_cohort_folder(learning.settings())
        found = look(folder)
    return dg.MaterializeResult(
        value=found,
        data_version=dg.DataVersion(found.fingerprint),
        metadata={
            "folder": dg.MetadataValue.path(found.folder),
            "fingerprint": found.fingerprint,
            "files": found.files,
            "bytes": found.bytes,
            "is_synthetic": found.is_synthetic,
        },
    )
