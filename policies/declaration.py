"""What a provider declares of a dataset: schema, privacy unit, contribution and value bounds. Never derived from the data by the host."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Literal

from policies.codec import omitted
from policies.errors import Malformed
from policies.names import require_dataset, require_name, require_slug
from policies.privacy import decimal_to_units

MAX_DECIMALS = 6
MAX_ROWS_PER_UNIT = 100_000


def parse_date(text: str, where: str) -> int:
    """Return an ISO 8601 day (`2026-01-31`) as days since 1970-01-01. Raises Malformed."""
    try:
        if len(text) != 10:
            raise ValueError(text)
        return date.fromisoformat(text).toordinal() - date(1970, 1, 1).toordinal()
    except ValueError as error:
        raise Malformed("must be a date like 2026-01-31", where=where) from error


def day_text(days: int) -> str | None:
    """Return days since 1970-01-01 as an ISO 8601 day; None for a day outside of the years 1 to 9999, which that has no form for."""
    try:
        return date.fromordinal(days + date(1970, 1, 1).toordinal()).isoformat()
    except (ValueError, OverflowError):
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One column.

    Attributes:
        type: `integer`, `decimal` (fixed point with `decimals` fractional digits), `text` or `date` (days since 1970-01-01).
        lower, upper: value bounds as decimal strings, of a date as `2026-01-31`; values
            outside are clamped inside the enclave. Needed to sum or average.
        domain: all values that may appear as a group key (integers, days for `date`, strings for `text`). Needed to group by.
        nullable: whether NULL is a value of its own. In a column that is not nullable, a NULL is read as `lower` (or as 0, or "").
    """

    name: str
    type: Literal["integer", "decimal", "text", "date"]
    lower: str | None = None
    upper: str | None = None
    decimals: int = 0
    domain: tuple[str | int, ...] | None = None
    nullable: bool = False
    description: str = ""

    def __post_init__(self) -> None:
        require_name(self.name, "name")
        if not 0 <= self.decimals <= MAX_DECIMALS or (self.decimals and self.type != "decimal"):
            raise Malformed(f"only a decimal column has decimals, at most {MAX_DECIMALS}", where="decimals")
        if (self.lower is None) != (self.upper is None):
            raise Malformed("lower and upper come together", where="upper")
        if self.lower is not None:
            if self.type == "text":
                raise Malformed("a text column has no bounds", where="lower")
            lower, upper = self.bounds
            if lower > upper or (max(abs(lower), abs(upper)) == 0 and self.type != "date"):
                raise Malformed("bounds must satisfy lower <= upper and must not both be 0", where="upper")
        if self.domain is not None:
            self._require_domain(self.domain)

    def _require_domain(self, domain: tuple[str | int, ...]) -> None:
        wanted = str if self.type == "text" else int
        if self.type == "decimal":
            raise Malformed("a decimal column has no domain; declare it as integer or text to group by it", where="domain")
        if not domain or any(type(value) is not wanted for value in domain) or len(set(domain)) != len(domain):
            raise Malformed(f"domain must list distinct values of type {self.type}", where="domain")

    @property
    def bounds(self) -> tuple[int, int]:
        """(lower, upper) in units of 10^-decimals. Raises Malformed if no bounds are declared."""
        if self.lower is None or self.upper is None:
            raise Malformed(f"column `{self.name}` has no declared bounds", where="lower", code="bounds-missing")
        if self.type == "date":
            return parse_date(self.lower, "lower"), parse_date(self.upper, "upper")
        return decimal_to_units(self.lower, self.decimals, "lower"), decimal_to_units(self.upper, self.decimals, "upper")

    @property
    def largest(self) -> int:
        """Largest absolute value of one clamped cell, in units of 10^-decimals."""
        lower, upper = self.bounds
        return max(abs(lower), abs(upper))


@dataclass(frozen=True, kw_only=True, slots=True)
class Declaration:
    """A dataset as its provider describes and bounds it.

    Attributes:
        dataset: `provider.name`.
        unit: the column that identifies the privacy unit, in `id_space`: datasets of one id space identify the same units.
        rows_per_unit: contribution bound; rows beyond it are dropped inside the enclave by an order that only the unit's own rows decide.
        groups_per_unit, rows_per_group: further bounds on what one unit contributes to a query with group keys: most cells, and
            most rows in each. Both or neither.
        public: a table that protects nobody. It has no unit and no id space (both empty), `rows_per_unit` is 1, and nothing is charged.
        unique_key: columns that together identify at most one row; the only columns on which the dataset may be joined. Holds `unit`.
    """

    kind: Literal["declaration/1"] = "declaration/1"
    dataset: str
    title: str
    unit: str
    id_space: str
    rows_per_unit: int
    unique_key: tuple[str, ...]
    columns: tuple[Column, ...]
    groups_per_unit: int | None = omitted(None)
    rows_per_group: int | None = omitted(None)
    public: bool = omitted(False)

    def __post_init__(self) -> None:
        require_dataset(self.dataset, "dataset")
        self._require_unit()
        names = [column.name for column in self.columns]
        if not 1 <= len(names) <= 1000 or len(set(names)) != len(names):
            raise Malformed("column names must be distinct, 1 to 1000 of them", where="columns")
        if not 1 <= self.rows_per_unit <= MAX_ROWS_PER_UNIT:
            raise Malformed(f"must lie between 1 and {MAX_ROWS_PER_UNIT}", where="rows_per_unit")
        if not self.unique_key or (not self.public and self.unit not in self.unique_key):
            raise Malformed("must hold the privacy unit", where="unique_key")
        if len(set(self.unique_key)) != len(self.unique_key):
            raise Malformed("must list distinct columns", where="unique_key")
        for name in self.unique_key:
            if self.column(name).type == "decimal":
                raise Malformed(f"key column `{name}` must be integer or text", where="unique_key")

    def _require_unit(self) -> None:
        if self.public:
            if self.unit or self.id_space or self.rows_per_unit != 1 or self.groups_per_unit is not None:
                raise Malformed("a public table has no unit, no id space and no contribution bounds", where="public")
            return
        require_slug(self.id_space, "id_space")
        if (self.groups_per_unit is None) != (self.rows_per_group is None):
            raise Malformed("groups_per_unit and rows_per_group come together", where="rows_per_group")
        for where, bound in (("groups_per_unit", self.groups_per_unit), ("rows_per_group", self.rows_per_group)):
            if bound is not None and not 1 <= bound <= MAX_ROWS_PER_UNIT:
                raise Malformed(f"must lie between 1 and {MAX_ROWS_PER_UNIT}", where=where)

    @property
    def provider(self) -> str:
        """The participant who provides the dataset."""
        return self.dataset.partition(".")[0]

    def has(self, name: str) -> bool:
        """Whether a column of that name is declared."""
        return any(column.name == name for column in self.columns)

    def column(self, name: str) -> Column:
        """Return the column of that name. Raises Malformed (code `unknown-column`)."""
        for column in self.columns:
            if column.name == name:
                return column
        known = ", ".join(column.name for column in self.columns[:40])
        raise Malformed(f"`{self.dataset}` has no column `{name[:40]}`; it has {known}", code="unknown-column")
