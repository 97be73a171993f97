"""The fleet as a whole, for as long as a run of all tests can spare; ``make test-fleet`` gives it five minutes."""

import os

import pytest

from tests.faults.conftest import alone
from tests.fleet import driving

__all__ = ["alone"]

pytestmark = pytest.mark.live

FULL = os.environ.get("STATECAR_FLEET") == "full"
SECONDS, SHARE = (300.0, 0.9) if FULL else (8.0, 0.8)
"""How long, and the least share of the ideal cache's hits: of a short run much is what nobody knew before."""


async def test_model_servers_come_and_go_and_talks_find_their_cache(tmp_path, capsys):
    drive = driving.Drive(tmp_path, SECONDS, os.environ.get("STATECAR_SEED") or "1", share=SHARE)
    await drive.run()
    with capsys.disabled():
        if FULL:
            print(f"\n{drive.summary()}")
    assert drive.broken == [], drive.summary()
