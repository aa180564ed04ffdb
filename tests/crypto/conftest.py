"""A key for every lattice code, and what encrypts under it.

Tests import the helper modules beside them: pytest's import mode leaves ``sys.path`` as it is.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fedpriv.crypto.lattice import PublicKey, SecretKey, SharedSecretKey

sys.path.append(str(Path(__file__).parent))

from lattice_codes import CODES

KEYS: dict[str, SecretKey] = {}


@pytest.fixture(params=CODES)
def key(request: pytest.FixtureRequest) -> SecretKey:
    """One key for each code, made once."""
    if request.param not in KEYS:
        KEYS[request.param] = SharedSecretKey(CODES[request.param])
    return KEYS[request.param]


@pytest.fixture(params=["public", "secret"])
def by(request: pytest.FixtureRequest, key: SecretKey) -> PublicKey | SecretKey:
    """What encrypts."""
    return key.public if request.param == "public" else key
