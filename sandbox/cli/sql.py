"""`sandbox sql check`: which queries are accepted, without data, service or keys."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from policies.errors import Malformed


@click.group()
def sql() -> None:
    """Queries, before any data are asked."""


@sql.command()
@click.option("--schema", required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Declarations in YAML or JSON.")
@click.option("--epsilon", help="Loss that the noise is planned for; 1 if neither it nor --rho is given.")
@click.option("--rho", help="Loss in zero-concentrated differential privacy instead.")
@click.option("--delta0", default="0.000000001", show_default=True, help="Charged only where group keys are discovered.")
@click.option("--minimum-group", default=1, show_default=True, type=click.IntRange(1), help="Smallest publishable group.")
@click.option("--reveals", "show_reveals", is_flag=True, help="Also say what each output reveals about each column.")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True))
def check(
    schema: Path, files: tuple[Path, ...], epsilon: str | None, rho: str | None, delta0: str, minimum_group: int, show_reveals: bool
) -> None:
    """Tell of every statement in FILES (- is standard input) whether it is accepted, one JSON line each, and why not.

    Nothing is charged and no data are read: a statement is accepted where a plan and the noise of its answers follow from the declarations.

    \b
    The schema is a list of declarations in the product's own form, for example:
      - kind: declaration/1
        dataset: shop.sales
        title: Sales
        unit: customer
        id_space: customers
        rows_per_unit: 20
        unique_key: [customer, day]
        columns:
          - {name: customer, type: integer}
          - {name: day, type: date, lower: "2026-01-01", upper: "2026-12-31"}
          - {name: amount, type: decimal, decimals: 2, lower: "0", upper: "500"}
    With --reveals, the line of an accepted statement says what each output reveals about each column, and where in its text.

    \b
    Example: sandbox sql check --schema schema.yaml queries.sql
    """
    from sandbox.party.checking import check_text, planned_loss, read_schema

    declarations = read_schema(schema)
    planned = planned_loss(epsilon, rho, delta0)
    for file in files:
        try:
            text = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
            verdicts = check_text(text, declarations, planned, minimum_group, told=show_reveals)
        except (OSError, UnicodeDecodeError) as error:
            raise Malformed(f"{file} is not a readable UTF-8 file") from error
        for verdict in verdicts:
            line = {
                "file": str(file),
                "statement": verdict.statement,
                "accepted": verdict.accepted,
                "reason": verdict.reason,
                "text": verdict.text,
                "code": verdict.code,
                "where": verdict.where,
            }
            if show_reveals:
                line["reveals"] = [
                    {"column": str(found.column), "output": found.output, "level": found.level}
                    | {"constraints": list(found.constraints), "how": [origin.text for origin in found.origins]}
                    for found in verdict.reveals
                ]
            click.echo(json.dumps(line, ensure_ascii=False))
