"""The oracle of the kill tests is the uninterrupted live plane: tests/twin/simulation.py."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def simulation() -> ModuleType:
    """The module tests/twin/simulation.py; pytest's import mode gives test folders no package."""
    known = "vigil_tests_simulation"
    if known not in sys.modules:
        path = Path(__file__).parent.parent / "twin" / "simulation.py"
        spec = importlib.util.spec_from_file_location(known, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[known] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[known])
    return sys.modules[known]
