"""From SQL text to the canonical Plan, over the declarations of an agreement.

Accepted: one SELECT of group keys and aggregates from tables, inner joins and subqueries, as docs/sql.md lists it. Every other construct is
refused by name: the walk allows what it knows and never skips a part of the syntax tree. A plan does not depend on aliases, letter case,
parentheses or on the order in which conditions and join columns are written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Literal

import sqlglot.expressions as exp

from policies.declaration import Declaration
from policies.errors import Malformed
from policies.expression import Constant, Expression, Ref, refs, typed
from policies.normal_form import all_of
from policies.plan_text import fits_into_entry
from policies.privacy import units_to_decimal
from policies.query import (
    MAX_CELLS,
    MAX_OUTPUTS,
    RANKED,
    AggregateOutput,
    Examined,
    Having,
    Key,
    KeyOutput,
    NamedExpression,
    Order,
    Plan,
    Table,
    declared,
    tables,
)
from policies.request import JobRequest
from policies.schedule import fitted, measures, needs, task_of
from policies.service import Scoring
from policies.shape import public_cells, require_sound
from policies.sql.aggregates import Aggregate, holds_aggregate, is_aggregate, read_aggregate
from policies.sql.functions import day_of, literal_number
from policies.sql.rows import Rows, group_items, unaliased
from policies.sql.sources import Sources
from policies.sql.text import at, bare, conjuncts, name_of, only, parse_select, position, refuse, refuse_construct
from policies.task import needs_of
from policies.training import Training

PARSER_VERSION = f"sqlglot/{version('sqlglot')} plan/2"
"""Logged with every decision: replay parses SQL again only under the same parser."""

_SELECT = {"expressions", "from_", "joins", "where", "group", "having", "order", "limit", "with_"}
_OPERATORS: dict[type[exp.Expr], tuple[str, str, str]] = {
    exp.EQ: ("=", "=", "<>"), exp.NEQ: ("<>", "<>", "="), exp.LT: ("<", ">", ">="), exp.LTE: ("<=", ">=", ">"),
    exp.GT: (">", "<", "<="), exp.GTE: (">=", "<=", "<"),
}  # fmt: skip
"""Operator as written, with its sides exchanged, and negated."""


def plan_of(request: JobRequest, declarations: Mapping[str, Declaration]) -> Plan:
    """Return the canonical plan of what a request asks. Raises Malformed as `parse_plan` does."""
    return parse_plan(request.sql, declarations, request.training, request.scoring)


def parse_plan(sql: str, declarations: Mapping[str, Declaration], training: Training | None = None, scoring: Scoring | None = None) -> Plan:
    """Return the canonical plan of `sql` over the declared datasets.

    Args:
        training: what is learned from the rows of `sql`, which then names columns of rows (SELECT x AS name) instead of aggregates. The
            query of its test, if it has one, is read alike.
        scoring: which model scores the rows of `sql`, which then names columns of rows likewise.

    Raises:
        Malformed: naming the construct that is not accepted, in `where` its position where the parser knows it, and the accepted form
            where there is one; or whatever `policies.shape.require_sound` and `policies.schedule.measures` refuse.
    """
    select = parse_select(sql)
    if select.args.get("distinct"):
        refuse(select, "is not accepted: SELECT DISTINCT shows raw values; use GROUP BY, or COUNT(DISTINCT x)")
    if select.args.get("offset"):
        refuse(select.args["offset"], "is not accepted: OFFSET hides cells that are paid for; use ORDER BY and LIMIT")
    if select.args.get("qualify"):
        refuse(select.args["qualify"], "is not accepted: QUALIFY filters by window functions, which are not accepted; use HAVING")
    only(select, "SELECT", _SELECT)
    sources = Sources(declarations=declarations)
    rows = sources.rows(select, sources.named_queries(select, {}))
    sources.require_used()
    query = _Query(select=select, rows=rows, declarations=declarations)
    if training is not None and training.test is not None and training.test.sql is not None:
        plan = _with_test(query, training, training.test.sql, declarations)
    else:
        plan = query.plan() if training is None and scoring is None else query.rows_read(training, scoring)
    with at(select):
        found = require_sound(plan, declarations)
        public_cells(plan, found.scope)
        measures(plan, found)
    if training is not None:
        needs_of(task_of(plan, found))
    _require_depth(plan)
    return plan


def _with_test(query: _Query, training: Training, sql: str, declarations: Mapping[str, Declaration]) -> Plan:
    """The plan of a training with the rows of its test, which a query of their own names."""
    plain = replace(training, test=None)
    try:
        tested = parse_plan(sql, declarations, plain)
    except Malformed as error:
        raise Malformed(error.message, where="test.sql", code=error.code) from error
    examined = Examined(source=tested.source, where=tested.where, inputs=tested.inputs)
    return replace(query.rows_read(plain, None), training=training, examined=examined)


def _require_depth(plan: Plan) -> None:
    if not fits_into_entry(plan):
        raise Malformed("the query nests too deep: its plan does not fit into a log entry", code="sql")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Query:
    """The outermost SELECT, over the rows that it reads."""

    select: exp.Select
    rows: Rows
    declarations: Mapping[str, Declaration]

    def plan(self) -> Plan:
        keys = self._keys()
        if len(self.select.expressions) > MAX_OUTPUTS:
            raise Malformed(f"output names must be distinct, at most {MAX_OUTPUTS}", code="sql")
        outputs = tuple(self._output(item, keys, index) for index, item in enumerate(self.select.expressions))
        self._require_outputs(outputs, keys)
        return Plan(
            source=self.rows.relation,
            where=all_of(self.rows.where),
            group_by=keys,
            outputs=outputs,
            having=self._having(outputs),
            order=self._order(outputs),
            limit=self._limit(),
        )

    def rows_read(self, training: Training | None, scoring: Scoring | None) -> Plan:
        """The plan of a query of rows, from which a model learns or which it scores."""
        what = "training" if scoring is None else "scoring"
        for name in ("group", "having", "order", "limit"):
            if self.select.args.get(name) is not None:
                raise Malformed(f"a {what} reads rows: {name.upper()} has no meaning", code="sql")
        inputs = []
        for item in self.select.expressions:
            written, node = unaliased(item)
            if holds_aggregate(node):
                refuse(node, f"is not accepted: a {what} reads rows; aggregate per unit in a subquery")
            if isinstance(node, exp.Star) or (isinstance(node, exp.Column) and isinstance(node.this, exp.Star)):
                refuse(node, "is not accepted: name the features and the label")
            expression = self.rows.reader("in SELECT").read(node)
            if self.rows.is_unit(expression) and scoring is None:
                refuse(node, "is the privacy unit: a model that knows it knows persons", code="raw-column")
            if written is None and not isinstance(node, exp.Column):
                refuse(node, "needs a name: write AS name")
            inputs.append(NamedExpression(name=written or name_of(node.this), expression=expression))
        counted = (AggregateOutput(name="people", function="COUNT_UNITS"),) if scoring is None else ()
        return Plan(
            source=self.rows.relation,
            where=all_of(self.rows.where),
            outputs=counted,
            training=training,
            scoring=scoring,
            # The order in which columns are selected means nothing.
            inputs=tuple(sorted(inputs, key=lambda item: item.name)),
        )

    def _keys(self) -> tuple[Key, ...]:
        items = group_items(self.select, self.rows)
        found: dict[Expression, Key] = {}
        for written, expression in items:
            if expression in found:
                raise Malformed("GROUP BY names a key twice", code="sql", where=position(written))
            with at(written):
                if typed(expression, self.rows.shape.scope).type == "decimal":
                    why = "is a decimal, and a decimal is no group key; group by CAST(x AS INTEGER), FLOOR(x) or a CASE"
                    refuse(written, why, code="decimal-key")
                found[expression] = Key(expression=expression, source=self._source_of(expression))
        return tuple(found.values())

    def _source_of(self, expression: Expression) -> Literal["declared", "public", "discovered"]:
        if typed(expression, self.rows.shape.scope).domain is not None:
            return "declared"
        public = {t.alias for t in tables(self.rows.relation) if isinstance(t, Table) and declared(t.dataset, self.declarations).public}
        return "public" if isinstance(expression, Ref) and expression.table in public else "discovered"

    def _output(self, item: exp.Expr, keys: tuple[Key, ...], index: int) -> KeyOutput | AggregateOutput:
        name, node = unaliased(item)
        if is_aggregate(node):
            found = self._aggregate(node)
            output = _named(name or _default_name(node, found, index), found)
            with at(node):
                for measured in needs(output, self.rows.shape.scope).values():
                    fitted(measured, self.rows.shape, set())
            return output
        if holds_aggregate(node) and node.find(exp.Window) is None:
            why = "is not accepted in SELECT: noise is added to each aggregate by itself; select each and compute outside"
            refuse(node, why)
        if isinstance(node, exp.Star) or (isinstance(node, exp.Column) and isinstance(node.this, exp.Star)):
            refuse(node, "is not accepted: SELECT * shows rows; rows never leave, only aggregates and group keys")
        expression = self.rows.reader("in SELECT").read(node)
        position_of = {key.expression: number for number, key in enumerate(keys)}
        if expression not in position_of:
            if isinstance(expression, Constant):
                refuse(node, "is not accepted in SELECT; only group keys and aggregates are")
            why = "is neither aggregated nor a group key: raw values never leave; use COUNT, SUM or AVG of it, or drop it from SELECT"
            refuse(node, why, code="raw-column")
        column = name_of(node.this) if isinstance(node, exp.Column) else f"key_{index}"
        return KeyOutput(name=name or column, key=position_of[expression])

    def _aggregate(self, node: exp.Expr) -> Aggregate:
        if (inner := bare(node)).find(exp.Window) is not None:
            refuse_construct(inner.find(exp.Window), "here")
        return read_aggregate(node, self.rows.reader("in an aggregate"), self.rows.is_unit)

    def _require_outputs(self, outputs: tuple[KeyOutput | AggregateOutput, ...], keys: tuple[Key, ...]) -> None:
        names = [output.name for output in outputs]
        twice = next((index for index, name in enumerate(names) if name in names[:index]), None)
        if twice is not None:
            why = f"output names must be distinct; `{names[twice]}` stands twice"
            raise Malformed(why, code="sql", where=position(self.select.expressions[twice]))
        shown = {output.key for output in outputs if isinstance(output, KeyOutput)}
        items = self.select.args["group"].expressions if keys else []
        for number, written in enumerate(items):
            if number not in shown:
                refuse(written, "is a group key and must also be selected: without it nobody could tell the cells apart")
        if all(isinstance(output, KeyOutput) for output in outputs):
            why = "the query has no aggregate; add COUNT(*), SUM(x) or AVG(x)"
            raise Malformed(why, code="sql", where=position(self.select))

    def _having(self, outputs: tuple[KeyOutput | AggregateOutput, ...]) -> tuple[Having, ...]:
        having = self.select.args.get("having")
        if having is None:
            return ()
        only(having, "HAVING", {"this"})
        found = [rule for term in conjuncts(having.this) for rule in self._rules(term, outputs)]
        return tuple(sorted(set(found), key=lambda rule: (rule.output, rule.operator, rule.value)))

    def _rules(self, node: exp.Expr, outputs: tuple[KeyOutput | AggregateOutput, ...], negated: bool = False) -> list[Having]:
        if isinstance(node, exp.Not):
            only(node, "NOT", {"this"})
            return self._rules(bare(node.this), outputs, not negated)
        if isinstance(node, exp.Between) and not negated:
            only(node, "BETWEEN", {"this", "low", "high"})
            low, high = node.args["low"], node.args["high"]
            return [self._rule(node, node.this, ">=", low, outputs), self._rule(node, node.this, "<=", high, outputs)]
        operators = _OPERATORS.get(type(node))
        if operators is None:
            refuse(node, "is not accepted in HAVING; write conditions like name > 5 on selected aggregates, joined by AND")
        only(node, "HAVING", {"this", "expression"})
        left, right, operator = bare(node.this), bare(node.expression), operators[0]
        if _constant(left) is not None:
            left, right, operator = right, left, operators[1]
        if negated:
            operator = next(names[2] for names in _OPERATORS.values() if names[0] == operator)
        return [self._rule(node, left, operator, right, outputs)]

    def _rule(
        self, node: exp.Expr, left: exp.Expr, operator: str, right: exp.Expr, outputs: tuple[KeyOutput | AggregateOutput, ...]
    ) -> Having:
        output = self._output_of(left, outputs, "HAVING")
        if isinstance(output, KeyOutput):
            refuse(node, "is not accepted in HAVING: it is a group key; write the condition in WHERE")
        dated = output.function in RANKED and typed(output.arguments[0], self.rows.shape.scope).type == "date"
        value = _constant(right) or (self._day(right) if dated else None)
        if value is None:
            compared = "a day, DATE '2026-01-31'" if dated else "a number"
            refuse(node, f"is not accepted in HAVING; compare a selected aggregate with {compared}")
        return Having(output=output.name, operator=operator, value=value)  # type: ignore[arg-type]

    def _day(self, node: exp.Expr) -> str | None:
        """A day that is written out, in days since 1970 as plans hold it; None of anything else."""
        found = self.rows.reader("in HAVING").read(node)
        if isinstance(found, Constant) and found.type == "text":
            with at(node):
                found = day_of(found)
        return str(found.value) if isinstance(found, Constant) and found.type == "date" and found.value is not None else None

    def _output_of(self, node: exp.Expr, outputs: tuple[KeyOutput | AggregateOutput, ...], clause: str) -> KeyOutput | AggregateOutput:
        """The output that a name, or the same aggregate written again, means."""
        if isinstance(node, exp.Column) and not node.args.get("table") and isinstance(node.this, exp.Identifier):
            name = name_of(node.this)
            for output in outputs:
                if output.name == name:
                    return output
        if is_aggregate(node):
            found = self._aggregate(node)
            for output in outputs:
                if isinstance(output, AggregateOutput) and replace(output, name="x") == _named("x", found):
                    return output
            refuse(node, f"is not selected: {clause} reads noised outputs only; select it AS a name and write {clause} with the name")
        keys = {key.expression: number for number, key in enumerate(self._keys())}
        number = keys.get(self.rows.reader(f"in {clause}").read(node))
        for output in outputs:
            if isinstance(output, KeyOutput) and output.key == number:
                return output
        refuse(node, f"is not accepted in {clause}, which reads noised outputs only: a selected column's name, or the aggregate again")

    def _order(self, outputs: tuple[KeyOutput | AggregateOutput, ...]) -> tuple[Order, ...]:
        order = self.select.args.get("order")
        if order is None:
            return ()
        only(order, "ORDER BY", {"expressions"})
        found: dict[str, Order] = {}
        for item in order.expressions:
            only(item, "ORDER BY", {"this", "desc"})
            node = bare(item.this)
            if isinstance(node, exp.Literal):
                index = int(node.this) if str(node.this).isdigit() and len(str(node.this)) < 6 else 0
                if node.is_string or not 1 <= index <= len(outputs):
                    refuse(node, f"is no position in SELECT, which has {len(outputs)} columns")
                name = outputs[index - 1].name
            elif isinstance(node, exp.Var):
                refuse(node, "is not accepted in ORDER BY; list columns")
            else:
                name = self._output_of(node, outputs, "ORDER BY").name
            # Ordering again by a column that has decided already changes nothing.
            found.setdefault(name, Order(output=name, descending=bool(item.args.get("desc"))))
        return tuple(found.values())

    def _limit(self) -> int | None:
        limit = self.select.args.get("limit")
        if limit is None:
            return None
        if not isinstance(limit, exp.Limit):
            refuse(limit, "is not accepted; write LIMIT n")
        only(limit, "LIMIT", {"expression"})
        node = bare(limit.expression)
        if not isinstance(node, exp.Literal) or node.is_string or not str(node.this).isdigit() or len(str(node.this)) > 9:
            refuse(limit, f"is not accepted; LIMIT takes a number between 0 and {MAX_CELLS}")
        if self.select.args.get("order") is None:
            refuse(limit, "is not accepted without ORDER BY: which cells it keeps would be nobody's choice")
        return int(str(node.this))


def _named(name: str, found: Aggregate) -> AggregateOutput:
    return AggregateOutput(name=name, function=found.function, arguments=found.arguments, filter=found.filter, fraction=found.fraction)


def _default_name(node: exp.Expr, found: Aggregate, index: int) -> str:
    """A name for an aggregate without an alias: its function, its column as it is written, and its position."""
    written = bare(node).find(exp.Column) if found.arguments else None
    column = (
        name_of(written.this) if isinstance(written, exp.Column) else next((r.column for a in found.arguments for r in refs(a)), "rows")
    )
    return f"{found.function.lower()}_{column}"[:36] + f"_{index}"


def _constant(node: exp.Expr) -> str | None:
    """A number as a decimal string, None of anything else."""
    node, sign = bare(node), 1
    if isinstance(node, exp.Neg):
        node, sign = bare(node.this), -1
    if not isinstance(node, exp.Literal) or node.is_string:
        return None
    found = literal_number(node, sign)
    return units_to_decimal(found.value, found.decimals) if isinstance(found.value, int) else None
