"""The two firms' tables of the RAND Health Insurance Experiment as an enclave reads them, and what the benchmarks train on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from enclaves.kit.tables import load_table, open_database, readable
from enclaves.learn.release import read_rows
from enclaves.learn.rows import Rows
from policies.conversion import epsilon_at
from policies.declaration import Column, Declaration
from policies.plan import parse_plan
from policies.privacy import Loss
from policies.query import Plan, columns_read
from policies.schedule import Statistic, schedule, task_of
from policies.shape import shape
from policies.task import Task
from policies.training import Input, Learner, Training

FOLDER = Path(__file__).parent.parent / "examples" / "data"
ROWS = 5
"""Most years of one person."""

_KEYS = (Column(name="person_id", type="integer"), Column(name="year", type="integer", domain=(1, 2, 3, 4, 5)))


def _number(name: str, upper: str, decimals: int = 0, **more: Any) -> Column:
    kind: Any = "decimal" if decimals else "integer"
    return Column(name=name, type=kind, decimals=decimals, lower="0", upper=upper, **more)


DECLARATIONS = {
    name: Declaration(
        dataset=name,
        title=name,
        unit="person_id",
        id_space="rand-hie",
        rows_per_unit=ROWS,
        unique_key=("person_id", "year"),
        columns=columns,
    )
    for name, columns in {
        "insurer.plans": (
            *_KEYS,
            Column(name="coinsurance", type="integer", domain=(0, 25, 50, 95, 100)),
            Column(name="female", type="integer", domain=(0, 1)),
            _number("age", "70", 2),
            _number("family_size", "9"),
            _number("medical_spend", "20000", 2),
        ),
        "clinic.care": (
            *_KEYS,
            _number("doctor_visits", "20"),
            _number("admissions", "8"),
            _number("chronic_diseases", "30", 1),
            _number("general_health", "100", 1, nullable=True),
            _number("physical_limitation", "1"),
        ),
    }.items()
}

FEATURES = (
    Input(column="coinsurance", encoding="categories"),
    Input(column="female", encoding="categories"),
    Input(column="age", encoding="scaled"),
    Input(column="family_size", encoding="scaled", centre="4"),
    Input(column="doctor_visits", encoding="log", centre="2"),
    Input(column="chronic_diseases", encoding="log", centre="10"),
    Input(column="general_health", encoding="scaled", centre="75"),
    Input(column="physical_limitation", encoding="scaled", centre="0"),
)
"""From both firms; bounds and centres are what anybody would say without the data."""

_FROM = "FROM insurer.plans AS p JOIN clinic.care AS c USING (person_id, year)"
ADMITTED = (f"SELECT {', '.join(f.column for f in FEATURES)}, admissions > 0 AS y {_FROM}", Input(column="y", encoding="categories"))
SPEND = (
    f"SELECT {', '.join(f.column for f in FEATURES)}, medical_spend AS y {_FROM}",
    Input(column="y", encoding="log", centre="60"),
)


def planned(question: tuple[str, Input], learner: Learner) -> tuple[Plan, Task]:
    """The plan and task of a question."""
    sql, label = question
    plan = parse_plan(sql, DECLARATIONS, Training(learner=learner, features=FEATURES, label=label))
    return plan, task_of(plan, shape(plan.source, DECLARATIONS))


def loss_of(epsilon: float) -> Loss:
    """The largest zCDP loss that is at most so much epsilon at delta 10^-6."""
    low, high = 1, 20 * 10**9
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if float(epsilon_at(Loss(measure="zcdp", amount=middle))) <= epsilon else (low, middle)
    return Loss(measure="zcdp", amount=low)


def paid(plan: Plan, epsilon: float) -> tuple[Statistic, ...]:
    """What a job of so much epsilon at delta 10^-6 may draw, the number of persons included."""
    return schedule(plan, DECLARATIONS, loss_of(epsilon), 1)


def rows_of_question(plan: Plan, task: Task, *, memory_mib: int = 1024) -> Rows:
    """All rows of both firms, joined and encoded as inside an enclave."""
    names = dict(zip(plan.sources, ("d0", "d1"), strict=True))
    read = columns_read(plan, DECLARATIONS)
    with open_database(memory_mib=memory_mib, threads=1) as connection:
        for dataset, name in names.items():
            table = readable(pq.read_table(FOLDER / f"{dataset.partition('.')[0]}.parquet"))
            load_table(connection, name, table, DECLARATIONS[dataset], read[dataset], bounded=True, unique=True)
        rows, _ = read_rows(plan, task, DECLARATIONS, connection, names)
    return rows


def median(values: Sequence[float]) -> float:
    """The middle value."""
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
