"""What learning costs: the feature kernel, scoring, and the orchestrator, each beside its peer in the same run.

Here: `python -m benchmarks.learning [--from FOLDER] [--only kernel scoring overhead]`, one JSON line at the end.
Without a folder of the PhysioNet 2012 challenge, and without one beside the checkout, a synthetic cohort is written.
Not here: the measurements themselves (benchmarks.learning_kernel, learning_scoring, learning_dagster).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
from pathlib import Path

from benchmarks import learning_kernel
from hospital.cohort import write_cohort
from interop import physionet2012
from models.stay_series import bins_of_records

PARTS = ("kernel", "scoring", "overhead")
_OTHERS = {"scoring": "benchmarks.learning_scoring", "overhead": "benchmarks.learning_dagster"}
_REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "icu" / "physionet2012"


def kernel(source: Path, seed: int) -> dict[str, float]:
    """Return the kernel's figures over a cohort."""
    return learning_kernel.figures(bins_of_records(physionet2012.read(source)), seed)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning", description=__doc__)
    parser.add_argument("--from", dest="source", type=Path, metavar="FOLDER", help="set-a.tar.gz, or a folder with it")
    parser.add_argument("--stays", type=int, default=1500, help="of a synthetic cohort, where there is no real one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    given = parser.parse_args()
    result: dict[str, object] = {}
    with tempfile.TemporaryDirectory(prefix="vigil-bench-") as folder:
        source = given.source or (_REAL if _REAL.is_dir() else Path(folder))
        if source == Path(folder):
            write_cohort(source, given.stays, given.seed)
        result["is_synthetic"] = physionet2012.is_synthetic(source)
        for part in given.only:
            if part == "kernel":
                result |= kernel(source, given.seed)
            elif importlib.util.find_spec(_OTHERS[part]) is None:
                print(f"{part}: not measured, {_OTHERS[part]} is not there")
            else:
                result |= importlib.import_module(_OTHERS[part]).figures(source, given.seed)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
