"""What ``make bench`` makes of figures: a table, JSON, and an exit code."""

import json

import pytest

from bench import __main__ as bench
from bench.measures import Figure

HELD = Figure("a token", 12.0, "us", base=10.0, budget=1.35, alone=2.5)
TOLD = Figure("a turn", 3.0, "ms")
OVER = Figure("memory", 80.0, "MB", budget=70)


@pytest.mark.parametrize(
    ("figures", "code"),
    [
        pytest.param([HELD, TOLD], 0, id="held"),
        pytest.param([HELD, OVER], 1, id="a value over its budget"),
        pytest.param([Figure("a token", 14.0, "us", base=10.0, budget=1.35)], 1, id="a ratio over its budget"),
    ],
)
def test_the_exit_code_says_whether_every_budget_holds(monkeypatch, capsys, figures, code):
    monkeypatch.setattr(bench, "measured", lambda tree, only: (figures, 0.0))
    assert bench.main([]) == code
    assert ("over budget" in capsys.readouterr().out) is bool(code)


def test_the_table_and_the_json_have_all_that_was_measured(monkeypatch, capsys, tmp_path):
    before = [Figure("a token", 10.0, "us", base=10.0, budget=1.35), OVER]
    runs = {tmp_path: before, bench.machine.HERE.parent: [HELD, OVER]}
    monkeypatch.setattr(bench, "measured", lambda tree, only: (runs[tree], 0.2))
    assert bench.main(["--json", str(tmp_path / "told.json"), "--base", str(tmp_path)]) == 1
    table = capsys.readouterr().out
    assert "| a token | 12 us | 10 relay | 1.20 | 1.35 | holds | 2.5 | 10 | +20.0% |" in table
    assert "| memory | 80 MB |  |  | 70 | **exceeded** |  | 80 | +0.0% |" in table
    told = json.loads((tmp_path / "told.json").read_text())
    assert [row["judged"] for row in told["figures"]] == [1.2, 80.0]
    assert [row["holds"] for row in told["figures"]] == [True, False]
    assert [row["value"] for row in told["before"]] == [10.0, 80.0]
    assert told["others"] == 0.2
