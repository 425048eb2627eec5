"""The example of insurer and clinic does what its page says."""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path

from sandbox.audit.replay import replay
from sandbox.jobs.worker import Worker
from tests.support.service import checkout, running
from tests.support.story import export


def test_an_insurer_pays_a_clinic_with_a_model(tmp_path: Path) -> None:
    path = checkout() / "examples" / "insurer_clinic" / "trade.py"
    spec = importlib.util.spec_from_file_location("trade", path)
    assert spec is not None
    assert spec.loader is not None
    trade = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(trade)
    with running(tmp_path, "sqlite") as service:
        ended = threading.Event()
        thread = threading.Thread(target=Worker(host=service.host, stopping=ended.is_set).work)
        thread.start()
        try:
            card = trade.main(service.url, {name: service.code(name) for name in trade.NAMES}, tmp_path / "homes", persons=6000)
        finally:
            ended.set()
            thread.join()
        verdict = replay(export(service.host, "auditor").__getitem__, service.host.log_identity)
    assert [metric["name"] for metric in card["metrics"]] == ["auc"]
    assert float(card["metrics"][0]["value"]) >= 0.7, "it ranks nearly all rightly; eight deviations of the noise are 0.3"
    assert verdict.mismatches == ()
