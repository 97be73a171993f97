"""The fleet as a whole, for as long as a run of all tests can spare; ``make test-fleet`` gives it five minutes."""

import os

import pytest

from tests.faults.conftest import alone
from tests.fleet import driving

__all__ = ["alone"]

pytestmark = pytest.mark.live

SECONDS = 300.0 if os.environ.get("STATECAR_FLEET") == "full" else 9.0


async def test_model_servers_come_and_go_and_talks_find_their_cache(tmp_path, capsys):
    drive = driving.Drive(tmp_path, SECONDS, os.environ.get("STATECAR_SEED") or "1")
    await drive.run()
    with capsys.disabled():
        if SECONDS > 60:
            print(f"\n{drive.summary()}")
    assert drive.broken == [], drive.summary()
