"""Where the tests find the public data sets: FEDPRIV_DATA, or shared/data beside the checkout, or a download."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    if not os.environ.get("FEDPRIV_DATA") and beside.is_dir():
        monkeypatch.setenv("FEDPRIV_DATA", str(beside))
