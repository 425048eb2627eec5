"""The example of four insurers does what its page says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from sandbox.jobs.worker import Worker
from tests.support.pooled import work_in_this_process
from tests.support.service import checkout, running


def test_four_insurers_total_their_claims_and_get_a_model_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Children's work is done in this process: that children do it is shown in tests/http/test_joint_jobs.py."""
    import threading

    work_in_this_process(monkeypatch)
    path = checkout() / "examples" / "claims" / "total.py"
    spec = importlib.util.spec_from_file_location("total", path)
    assert spec is not None
    assert spec.loader is not None
    total = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(total)
    with running(tmp_path, "sqlite") as service:
        ended = threading.Event()
        thread = threading.Thread(target=Worker(host=service.host, stopping=ended.is_set).work)
        thread.start()
        try:
            release, card = total.main(service.url, {name: service.code(name) for name in total.NAMES}, tmp_path / "homes", people=1200)
        finally:
            ended.set()
            thread.join()
    assert release.contributors == total.INSURERS
    assert [cell.keys for cell in release.cells] == [(region, band) for region in ("north", "south") for band in ("0-39", "40-64", "65+")]
    counted = sum(float(cell.figures[0].value) for cell in release.cells)
    assert abs(counted - 4 * 1200 * 2) < 300, "1 to 3 claims of 4,800 people, and noise"
    found = {(line["column"], line["category"]): float(line["value"]) for line in card["coefficients"]}
    assert found["age_band", "65+"] > 0.4, "older people's claims cost e times as much; ridge and noise take away less than 0.6"
    assert [read["dataset"] for read in card["datasets"]] == [f"{name}.claims" for name in total.INSURERS]
