"""A replay's verdict as one HTML page to print and file: no script, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape

from sandbox.audit.verdict import PROMISES, Verdict

MAX_ROWS = 2000
"""Mismatches and differences that are listed; a report says how many more there are."""

SAID = {"ok": "holds", "broken": "broken", "unopened": "not shown"}

STYLE = """
:root { color-scheme: light; --ink: #1b1f24; --line: #d0d7de; --good: #116329; --bad: #a40e26; --open: #7a4b00; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, "Noto Sans", "Noto Sans SC", sans-serif; color: var(--ink); max-width: 62rem; margin: 2rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
.verdict { border: 1px solid var(--line); border-left: .6rem solid var(--tone); border-radius: .3rem; padding: .8rem 1rem; margin: 1rem 0; font-size: 1.1rem; }
.good { --tone: var(--good); } .bad { --tone: var(--bad); } .open { --tone: var(--open); }
.state { color: var(--tone); font-weight: 600; white-space: nowrap; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; vertical-align: top; padding: .35rem .6rem; border-bottom: 1px solid var(--line); }
th { font-weight: 600; border-bottom-width: 2px; } td.number { text-align: right; font-variant-numeric: tabular-nums; }
td:last-child, dd { overflow-wrap: anywhere; } dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: 0; } dt { color: #57606a; } dd { margin: 0; }
code { font: .9em ui-monospace, monospace; } footer { margin-top: 2.5rem; color: #57606a; font-size: .9rem; }
@media print { body { margin: 0; max-width: none; font-size: 10.5pt; } h2 { break-after: avoid; } tr { break-inside: avoid; } thead { display: table-header-group; } }
"""  # noqa: E501


def render_report(verdict: Verdict, *, origin: str, vkey: str, root: str, at: int) -> str:
    """Return the page.

    Args:
        origin, vkey: of the log, by the key that the auditor gave.
        root: of the checkpoint's tree, hex; empty if it could not be verified.
        at: when the replay was made, seconds since 1970.
    """
    tone, said = _said(verdict)
    facts = {
        "log": origin,
        "verifier key": vkey,
        "entries replayed": f"{verdict.entries} of {verdict.size}",
        "root of the checkpoint": root or "none that the key verifies",
        "cosigned by": ", ".join(f"{name} ({_time(when)})" for name, when in sorted(verdict.witnesses.items())) or "nobody that was named",
        "bodies not opened": str(verdict.unopened),
        "queries not parsed again": str(verdict.not_reparsed),
        "replayed at": _time(at),
    }
    parts = [
        f"<h1>Replay of a log</h1><p>{escape(origin)}</p>",
        f'<p class="verdict {tone}">{escape(said)}</p>',
        "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items()) + "</dl>",
        "<h2>Promises</h2>",
        _table(
            ("promise", "verdict", "what it says"), [(name, state, PROMISES[name]) for name, state in verdict.promises.items()], state=1
        ),
        "<h2>Mismatches</h2>",
        _mismatches(verdict),
        "<h2>Privacy loss, from public headers</h2>",
        _table(("ledger", "charged"), [(name, total.text) for name, total in verdict.totals.items()]),
        *_differences(verdict),
        *_reading(verdict),
        "<h2>What this replay cannot show</h2>",
        "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in verdict.notes) + "</ul>",
        "<footer>Made by <code>sandbox audit replay</code> from the exported files alone.</footer>",
    ]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Replay of {escape(origin)}</title>'
    return f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head><body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _said(verdict: Verdict) -> tuple[str, str]:
    if verdict.mismatches:
        first = verdict.mismatches[0]
        place = "the log as a whole" if first.index is None else f"entry {first.index}"
        return "bad", f"The log does not replay: {len(verdict.mismatches)} mismatches, the first at {place} ({first.kind}): {first.what}"
    if verdict.ok:
        return "good", "The log replays: every promise holds and every body was opened."
    return "open", "Nothing contradicts the log, but not everything is open to this reader."


def _mismatches(verdict: Verdict) -> str:
    if not verdict.mismatches:
        return "<p>None.</p>"
    rows = [("log" if m.index is None else str(m.index), m.kind, m.promise, m.what) for m in verdict.mismatches[:MAX_ROWS]]
    return _table(("entry", "kind", "promise", "what does not follow"), rows) + _more(len(verdict.mismatches))


def _reading(verdict: Verdict) -> list[str]:
    """Under which scopes the export was made, and what was closed to its reader."""
    found = verdict.reading
    if found is None:
        return []
    scopes = [(str(s.index), s.owner, s.agreement, ", ".join(s.openings), _time(s.not_before), _time(s.not_after)) for s in found.scopes]
    closed = [(str(c.entries), c.kind, c.agreement, "; ".join(c.why)) for c in found.closed[:MAX_ROWS]]
    return [
        f"<h2>Openings, as {escape(found.reader)} read them at {_time(found.at)}</h2>",
        _table(("entry", "owner", "agreement", "opens", "from", "until"), scopes) if scopes else "<p>Under no scope.</p>",
        _table(("entries", "kind", "agreement", "closed because"), closed) if closed else "<p>Everything was opened.</p>",
    ]


def _differences(verdict: Verdict) -> list[str]:
    if verdict.differences is None:
        return []
    rows = [
        (str(d.index), d.job, "allowed" if d.logged else "denied", "allows" if d.candidate else "denies", "; ".join(d.why))
        for d in verdict.differences[:MAX_ROWS]
    ]
    found = _table(("entry", "job", "logged", "candidate", "because"), rows) + _more(len(verdict.differences)) if rows else "<p>None.</p>"
    return ["<h2>Decisions that the candidate would have made otherwise</h2>", found]


def _more(count: int) -> str:
    return f"<p>And {count - MAX_ROWS} more.</p>" if count > MAX_ROWS else ""


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], state: int | None = None) -> str:
    """A table; the cells of column `state` hold the state of a promise."""
    tones = {"ok": "good", "broken": "bad", "unopened": "open"}
    lines = []
    for row in rows:
        cells = [
            f'<td class="state {tones[cell]}">{SAID[cell]}</td>' if at == state else f"<td>{escape(cell)}</td>"
            for at, cell in enumerate(row)
        ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    if not lines:
        return "<p>None.</p>"
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _time(at: int) -> str:
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return f"{at} s"
