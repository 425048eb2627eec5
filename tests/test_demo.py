"""The demo is the product's first promise: it tells the whole story on real data and every check passes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from tests.support.chance import near

ROOT = Path(__file__).resolve().parent.parent


def test_the_demo_passes_all_its_checks_and_writes_them_down(tmp_path: Path) -> None:
    report = tmp_path / "outcome.json"
    done = subprocess.run(
        [sys.executable, "-m", "sandbox", "demo", "--json", str(report)], cwd=ROOT, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    outcome = json.loads(report.read_text())
    assert outcome["ok"] is True
    assert len(outcome["checks"]) >= 15
    assert all(check["ok"] and check["seconds"] >= 0 for check in outcome["checks"])
    assert outcome["loss"] == {"epsilon": 2.4, "delta": 0.0}
    assert {(row["coinsurance"], row["cell"]) for row in outcome["release"]} == {
        (rate, cell) for rate in (0, 25, 50, 95, 100) for cell in ("person_years", "mean_visits", "mean_spending")
    }
    assert all(near(SimpleNamespace(**row), row["truth"]) for row in outcome["release"])


def test_the_examples_carry_the_public_data_set_unchanged() -> None:
    """Counts and means that the data set's own documentation gives."""
    from enclaves.kit.sources import read_table
    from sandbox.demo.truth import cells
    from sandbox.party.forms import declaration_of, read_form

    examples = ROOT / "examples"
    both = [
        (examples / "data" / f"{name}.parquet", declaration_of(read_form(examples / "rand_hie" / f"{name}.declaration.yaml")))
        for name in ("insurer", "clinic")
    ]
    assert [read_table(*one).num_rows for one in both] == [20190, 20190]
    truth = cells(*both)
    documented = {0: (10997, 3.1236, 183.93), 25: (4065, 2.7875, 167.59), 50: (1401, 2.5610, 178.19), 95: (2653, 2.1116, 129.86),
                  100: (1074, 2.6825, 154.45)}  # fmt: skip
    for rate, (count, visits, spending) in documented.items():
        assert truth[rate, "person_years"].raw == count
        assert abs(truth[rate, "mean_visits"].raw - visits) < 1e-4
        assert abs(truth[rate, "mean_spending"].raw - spending) < 0.01
