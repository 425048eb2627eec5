"""A benchmark's last line is one JSON object with the names that others read."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from policies.isolation import LAYERS

NAMES = {
    "prepared_ratio", "on_the_fly_ratio", "join_ratio", "end_to_end_ratio", "cells_per_s_core", "opendp_cells_per_s_core",
    "vs_smartnoise", "vs_tumult", "vs_opendp_polars", "vs_smartnoise_clustered", "vs_opendp_polars_clustered",
}  # fmt: skip


def test_the_benchmark_of_isolation_answers_and_no_attempt_succeeds() -> None:
    command = [sys.executable, "-m", "benchmarks.isolation", "--quick", "--repeats", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) >= {"overhead_ms", "attested_ms", "attempts", "succeeded"}
    assert found["control"] > 0
    assert found["attempts"] >= 40
    if len(found["layers"]) == len(LAYERS):
        assert found["succeeded"] == 0


def test_the_benchmark_of_encrypted_columns_answers_and_names_its_figures() -> None:
    command = [sys.executable, "-m", "benchmarks.columns", "--quick", "--rows", "20000", "--repeats", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["read_ratio"] > 0
    assert found["publish_mb_per_s_core"] > 0
    assert found["file_ratio"] > 0.5


def test_the_benchmark_of_private_sql_answers_and_names_its_figures() -> None:
    command = [sys.executable, "-m", "benchmarks.dp_sql", "--quick", "--rows", "20000", "--repeats", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) >= NAMES
    assert all(found[name] > 0 for name in NAMES if found[name] is not None)
    clustered = found["parts"]["clustered"]
    # Bounding alone loses little of clustered data: a wrong bound or clamp would show.
    assert all(error < 0.1 for error in clustered["errors_of_bounding"])


def test_the_benchmark_of_decisions_answers_and_both_engines_deny_alike() -> None:
    pytest.importorskip("cedarpy", reason="pip install -r requirements-dev.txt")
    command = [sys.executable, "-m", "benchmarks.policy", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["rules"] == 100 <= found["findings"]
    assert found["decisions_per_s_core"] > 0
    assert found["ratio_to_cedar"] > 0


def test_the_benchmarks_of_training_answer_and_name_their_figures() -> None:
    """Figures of peers are null where their environment is not installed."""
    for name, options, names in (
        ("train_quality", ["--quick"], {"auc", "auc_nonprivate", "r2", "r2_nonprivate", "auc_diffprivlib"}),
        ("train_speed", ["--quick", "--repeats", "1"], {"ratio_to_sklearn", "peak_mib"}),
    ):
        command = [sys.executable, "-m", f"benchmarks.{name}", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
        found = json.loads(done.stdout.splitlines()[-1])
        assert set(found) >= names
        if name == "train_quality":
            assert found["auc"] > 0.65
            assert found["r2"] > 0.5
            assert found["auc_trees_generated"] > 0.7 > 0.55 > found["auc_logistic_generated"]
        else:
            assert found["peak_mib"] > 0


SUM_NAMES = {"encrypt_us_per_value", "ratio_to_tenseal", "ratio_to_phe", "ratio_to_heu", "bytes_per_value", "host_ns_per_value", "linear"}


def test_the_benchmark_of_encrypted_sums_answers_and_names_its_figures() -> None:
    command = [sys.executable, "-m", "benchmarks.he_sum", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) >= SUM_NAMES
    assert all(found[name] > 0 for name in SUM_NAMES if found[name] is not None)
    assert found["narrow"]["bytes_per_value"] < 0.6 * found["bytes_per_value"]


def test_the_benchmark_of_encrypted_scores_answers_and_names_its_figures() -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks.he_score", "--quick"], capture_output=True, text=True, check=True, timeout=600)
    found = json.loads(done.stdout.splitlines()[-1])
    assert all(found[name] > 0 for name in ("us_per_row", "ratio_to_tenseal", "encrypt_us_per_row", "bytes_per_row"))


def test_the_benchmarks_of_replay_and_log_answer_and_name_their_figures() -> None:
    wanted = {
        ("replay", "--entries", "250", "--repeats", "1"): {"entries_per_s_core", "scaling_2_cores", "peak_mib"},
        ("log", "--quick"): {"appends_per_s", "verifies_per_s"},
    }
    for (name, *options), names in wanted.items():
        command = [sys.executable, "-m", f"benchmarks.{name}", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
        found = json.loads(done.stdout.splitlines()[-1])
        assert names <= found.keys()
        assert all(found[figure] > 0 for figure in names)


def test_the_benchmark_of_memory_answers_and_the_run_keeps_to_its_limit() -> None:
    command = [sys.executable, "-m", "benchmarks.memory", "--rows", "100000"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["ended"] == "released"
    assert 0 < found["peak_mib"] < found["limit_mib"]
