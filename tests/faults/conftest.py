"""What these tests borrow from those of the live plane: the uninterrupted oracle, people who sign, a small model."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def _of_the_twin(name: str) -> ModuleType:
    """A module of tests/twin; pytest's import mode gives test folders no package."""
    known = f"vigil_tests_{name}"
    if known not in sys.modules:
        path = Path(__file__).parent.parent / "twin" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(known, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[known] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[known])
    return sys.modules[known]


@pytest.fixture(scope="session")
def simulation() -> ModuleType:
    """The module tests/twin/simulation.py."""
    return _of_the_twin("simulation")


@pytest.fixture(scope="session")
def committee() -> ModuleType:
    """The module tests/twin/committee.py."""
    return _of_the_twin("committee")


@pytest.fixture(scope="session")
def small_model() -> ModuleType:
    """The module tests/twin/small_model.py."""
    return _of_the_twin("small_model")
