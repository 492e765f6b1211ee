"""Where the genuine pictures lie: beside the repository in shared/realdata, or in $MANYHOT_REALDATA."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of genuine data; without it the test is skipped, or fails where MANYHOT_REQUIRE names "realdata"."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "realdata"
    folder = Path(os.environ.get("MANYHOT_REALDATA") or beside)
    if not folder.is_dir():
        reason = f"the real data are not at {folder}; MANYHOT_REALDATA says where they are"
        if "realdata" in os.environ.get("MANYHOT_REQUIRE", ""):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder
