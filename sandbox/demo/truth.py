"""True values, which only a demo on public data may compute: from the raw files, with and without the declared bounds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from enclaves.kit.sources import read_table
from policies.declaration import Declaration


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """One cell: on the declared bounds, which is what the release estimates, and on the raw values."""

    bounded: float
    raw: float


def cells(insurer: tuple[Path, Declaration], clinic: tuple[Path, Declaration]) -> dict[tuple[int, str], Truth]:
    """Return the truth of person_years, mean_visits and mean_spending by coinsurance rate."""
    plans = {(row["person_id"], row["year"]): row for row in read_table(*insurer).to_pylist()}
    care = {(row["person_id"], row["year"]): row for row in read_table(*clinic).to_pylist()}
    groups: dict[int, list[tuple[float, float]]] = {}
    for key in plans.keys() & care.keys():
        row = (float(care[key]["doctor_visits"]), float(plans[key]["medical_spend"]))
        groups.setdefault(plans[key]["coinsurance"], []).append(row)
    most_visits = clinic[1].column("doctor_visits").bounds[1]
    most_spend = insurer[1].column("medical_spend").bounds[1] / 100
    found = {}
    for rate, rows in sorted(groups.items()):
        count = len(rows)
        found[rate, "person_years"] = Truth(bounded=count, raw=count)
        found[rate, "mean_visits"] = Truth(
            bounded=sum(min(visits, most_visits) for visits, _ in rows) / count, raw=sum(visits for visits, _ in rows) / count
        )
        found[rate, "mean_spending"] = Truth(
            bounded=sum(min(spend, most_spend) for _, spend in rows) / count, raw=sum(spend for _, spend in rows) / count
        )
    return found
