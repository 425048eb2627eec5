"""Which SQL statements are accepted over declarations: parsing and planning, without data, service or keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from policies.declaration import Declaration
from policies.errors import Malformed
from policies.plan import parse_plan
from policies.privacy import Loss, parse_loss
from policies.query import MAX_SQL
from policies.reveals import Reveal, reveals
from policies.schedule import schedule
from policies.sizes import require_releasable
from sandbox.party.forms import read_declarations

MAX_STATEMENTS = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """What came of one statement.

    Attributes:
        statement: its number in the file, from 1.
        reason: why it is refused, or what it takes: the number of noised statistics. `code` and `where` as of errors.
        text: its beginning.
        reveals: what its outputs reveal about each column to somebody who owns none; where that
            was asked for.
    """

    statement: int
    accepted: bool
    reason: str
    text: str = ""
    code: str | None = None
    where: str | None = None
    reveals: tuple[Reveal, ...] = ()


def read_schema(path: Path) -> Mapping[str, Declaration]:
    """Return the declarations that a YAML or JSON file lists, by dataset. Raises Malformed."""
    return {declaration.dataset: declaration for declaration in read_declarations(path)}


def planned_loss(epsilon: str | None, rho: str | None, delta0: str) -> Loss:
    """Return the loss to plan for, epsilon 1 without either; its delta0 counts only where keys are discovered. Raises Malformed."""
    if epsilon is not None and rho is not None:
        raise Malformed("give either --epsilon or --rho", where="--epsilon")
    parse_loss("pure", "1", delta0, "--delta0")
    return (
        parse_loss("zcdp", rho, delta0, "--rho")
        if rho is not None
        else parse_loss("pure", "1" if epsilon is None else epsilon, delta0, "--epsilon")
    )


def check_text(
    text: bytes, declarations: Mapping[str, Declaration], loss: Loss, minimum_group: int, *, told: bool = False
) -> list[Checked]:
    """Return what comes of every statement of a text; `told`: also what it reveals. Too many statements end with a refused one.

    Raises:
        UnicodeDecodeError: the text is not UTF-8.
    """
    found: list[Checked] = []
    # Editors of some systems begin a file with a mark of its encoding.
    for number, statement in enumerate(statements(text.decode("utf-8-sig")), start=1):
        if number > MAX_STATEMENTS:
            return [*found, Checked(statement=number, accepted=False, reason=f"more than {MAX_STATEMENTS} statements", code="too-large")]
        found.append(check_statement(statement, declarations, loss, minimum_group, number, told=told))
    return found or [Checked(statement=1, accepted=False, reason="one statement is accepted, not 0", code="sql")]


def check_statement(
    text: str, declarations: Mapping[str, Declaration], loss: Loss, minimum_group: int, number: int = 1, *, told: bool = False
) -> Checked:
    """Return what comes of one statement: its plan and the schedule of its noise."""
    begins = " ".join(text[:400].split())[:80]
    try:
        plan = parse_plan(text, declarations)
        asked = loss if plan.discovers else replace(loss, delta0=0)
        statistics = schedule(plan, declarations, asked, minimum_group)
        require_releasable(plan, declarations, minimum_group)
    except Malformed as error:
        return Checked(statement=number, accepted=False, reason=str(error), text=begins, code=error.code, where=error.where)
    found = reveals(plan, ("",), text) if told else ()
    reason = f"{len(statistics)} noised statistics for {asked.text}"
    return Checked(statement=number, accepted=True, reason=reason, text=begins, reveals=found)


def statements(text: str) -> Iterator[str]:
    """Yield the statements of a script: the text between semicolons that stand outside quotes and comments.

    Line breaks before a statement are kept, so that positions are those of the file.
    """
    start, line_breaks, index = 0, 0, 0
    while index <= len(text):
        if index == len(text) or text[index] == ";":
            body = text[start:index]
            if _says_something(body):
                # A statement that is refused for its length needs no position.
                yield ("\n" * line_breaks + body) if line_breaks + len(body) <= MAX_SQL else body
            line_breaks += body.count("\n")
            start = index + 1
            index += 1
        else:
            index = _after(text, index)


def _after(text: str, index: int) -> int:
    """The index after the quoted text, comment or character at `index`."""
    for opening, closing in (("'", "'"), ('"', '"'), ("--", "\n"), ("/*", "*/")):
        if text.startswith(opening, index):
            end = text.find(closing, index + len(opening))
            if end < 0:
                return len(text)
            # The line break after a comment belongs to nobody.
            return end if closing == "\n" else end + len(closing)
    return index + 1


def _says_something(body: str) -> bool:
    index = 0
    while index < len(body):
        if body.startswith(("--", "/*"), index):
            index = _after(body, index)
        elif body[index].isspace():
            index += 1
        else:
            return True
    return False
