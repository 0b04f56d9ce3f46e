"""Modules that tests of the whole house share; pytest's import mode gives test folders no package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def _beside(name: str) -> ModuleType:
    known = f"vigil_tests_{name}"
    if known not in sys.modules:
        spec = importlib.util.spec_from_file_location(known, Path(__file__).parent / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[known] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[known])
    return sys.modules[known]


@pytest.fixture(scope="session")
def canaries() -> ModuleType:
    """The module tests/house/canaries.py."""
    return _beside("canaries")


@pytest.fixture(scope="session")
def haunted_house() -> ModuleType:
    """The module tests/house/haunted_house.py."""
    return _beside("haunted_house")


@pytest.fixture(scope="session")
def visitors() -> ModuleType:
    """The module tests/house/visitors.py."""
    return _beside("visitors")
