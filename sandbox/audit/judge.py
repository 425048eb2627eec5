"""Judging one entry against everything before it: one function per kind of entry, in one table. A kind without a rule is a mismatch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from policies.entries import EntryKind, Header, parse_header
from policies.errors import Malformed, SandboxError
from sandbox.audit import (
    judge_decision,
    judge_escrow,
    judge_exchange,
    judge_joint,
    judge_keys,
    judge_lineage,
    judge_policy,
    judge_run,
    judge_scopes,
    judge_scorings,
    judge_void,
)
from sandbox.audit.export import Opened
from sandbox.audit.folds import Entry
from sandbox.audit.judge_reading import note_place
from sandbox.audit.state import State
from sandbox.audit.verdict import Promise


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """How entries of one kind are judged.

    Attributes:
        ids: the fields that the header has; `optional`: fields that it may have besides.
        judge: folds the entry into the state and reports what does not follow.
        rests: promises that cannot be shown where the body is not opened.
        promise: what is broken where the body cannot be read as one of this kind.
    """

    ids: frozenset[str]
    judge: Callable[[State, Entry], None]
    promise: Promise
    rests: tuple[Promise, ...]
    optional: frozenset[str] = frozenset()


def _rule(ids: str, judge: Callable[[State, Entry], None], promise: Promise, *rests: Promise, optional: str = "") -> Rule:
    return Rule(ids=frozenset(ids.split()), judge=judge, promise=promise, rests=rests, optional=frozenset(optional.split()))


RULES: dict[EntryKind, Rule] = {
    "admitted": _rule("participant", judge_exchange.admitted, "signatures", "signatures"),
    "rotated": _rule("participant sequence old signing sealing old_signature new_signature", judge_exchange.rotated, "signatures"),
    "revoked": _rule("participant key by signature", judge_exchange.revoked, "signatures"),
    "readmitted": _rule("participant", judge_exchange.readmitted, "signatures", "signatures"),
    "log_rotated": _rule("origin old key old_signature new_signature", judge_lineage.log_rotated, "log"),
    "epoch_opened": _rule("epoch number origin key", judge_lineage.epoch_opened, "log", "log", "budgets"),
    "epoch_signed": _rule("epoch participant", judge_lineage.epoch_signed, "signatures", "signatures"),
    "declared": _rule("dataset declaration", judge_exchange.declared, "signatures", "signatures"),
    "published": _rule("dataset version file", judge_exchange.published, "signatures", "signatures"),
    "offered": _rule("offer provider", judge_exchange.offered, "signatures", "signatures"),
    "proposed": _rule("agreement participant", judge_exchange.proposed, "signatures", "signatures"),
    "signed": _rule("agreement participant", judge_exchange.signed, "signatures", "signatures"),
    "agreed": _rule("agreement", judge_exchange.agreed, "signatures"),
    "decided": _rule(
        "job agreement request allowed", judge_decision.decided, "decisions", "decisions", "signatures", "budgets", optional="exchange leg"
    ),
    "charged": _rule("job agreement grant", judge_decision.charged, "budgets", optional="consumer public model rows"),
    "granted": _rule("job agreement grant", judge_decision.granted, "grants", "grants"),
    "running": _rule("job agreement", judge_run.running, "order"),
    "attested": _rule("job grant evidence measurement", judge_run.attested, "evidence", "evidence"),
    "key_released": _rule("job provider grant evidence", judge_run.key_released, "evidence", "signatures"),
    "key_refused": _rule("job provider reason", judge_run.key_refused, "signatures", "signatures"),
    "released": _rule("job agreement grant evidence statement sealed", judge_run.ended, "releases", "releases", optional="accepted"),
    "withheld": _rule("job agreement grant evidence statement code", judge_run.ended, "releases", "releases"),
    "repeated": _rule("job agreement of", judge_decision.repeated, "releases", "releases"),
    "tightened": _rule("agreement participant tightening signature", judge_policy.tightened, "signatures"),
    "audit_scoped": _rule("agreement participant auditor scope signature", judge_scopes.scoped, "signatures"),
    "awaiting": _rule("job agreement request", judge_policy.awaiting, "signatures", "signatures"),
    "approved": _rule("agreement job request participant signature", judge_policy.approved, "signatures"),
    "cancelled": _rule("agreement job request participant signature", judge_policy.cancelled, "signatures"),
    "expired": _rule("job agreement", judge_policy.expired, "order"),
    "duty_done": _rule("agreement duty about number participant signature", judge_policy.duty_done, "signatures"),
    "joint_keyed": _rule("job manifest", judge_joint.keyed, "evidence", "signatures", "evidence"),
    "joint_contributed": _rule("job participant manifest ciphertexts", judge_joint.contributed, "signatures", "signatures"),
    "joint_dropped": _rule("job participant attempt reason rerun", judge_joint.dropped, "order"),
    "joint_summed": _rule("job manifest total", judge_joint.summed, "releases"),
    "joint_released": _rule("job agreement grant manifest total statement sealed", judge_joint.ended, "releases", "releases"),
    "joint_withheld": _rule("job agreement grant manifest total statement code", judge_joint.ended, "releases", "releases"),
    "exchange_proposed": _rule("exchange participant agreements", judge_escrow.proposed, "signatures", "signatures", "order"),
    "exchange_act": _rule("exchange act leg about number participant signature", judge_escrow.acted, "signatures"),
    "handed_over": _rule("exchange first second jobs", judge_escrow.handed_over, "releases"),
    "exchange_ended": _rule("exchange reason", judge_escrow.ended, "order"),
    "score_decided": _rule(
        "scoring agreement model request rows allowed", judge_scorings.decided, "decisions", "decisions", "signatures", "budgets"
    ),
    "score_answered": _rule("scoring agreement statement scores", judge_scorings.ended, "releases", "releases"),
    "score_refused": _rule("scoring agreement statement code", judge_scorings.ended, "releases", "releases"),
    "score_returned": _rule("scoring agreement statement code", judge_scorings.returned, "budgets", "budgets", "releases"),
    "failed": _rule("job agreement code", judge_run.failed, "releases"),
    "renounced": _rule("job grant provider signature", judge_void.renounced, "signatures"),
    "voided": _rule("job agreement grant", judge_void.voided, "budgets", optional="consumer"),
    "log_noted": _rule("origin key note proof", judge_lineage.log_noted, "log"),
    "measured": _rule("kind measurement", judge_keys.measured, "evidence", "evidence"),
    "destroyed": _rule("dataset version file", judge_keys.destroyed, "signatures", "signatures"),
}


def read_header(data: bytes) -> Header | Malformed:
    """The header that an entry's bytes spell, or what is wrong with them."""
    try:
        return parse_header(data)
    except Malformed as error:
        return error


def judge_entry(state: State, index: int, header: Header | Malformed, opened: Opened | None) -> None:
    """Fold one entry into the state. Never raises: whatever an entry holds, the rest can still be judged."""
    if isinstance(header, Malformed):
        state.report_at(index, "unreadable", "log", f"the entry is malformed: {header.message}")
        return
    entry = Entry(index=index, header=header, body=None)
    rule = RULES.get(header.kind)
    if rule is None:
        state.report(entry, "log", "nothing says what such an entry means")
        return
    if header.ids.keys() - rule.optional != rule.ids:
        state.report(entry, "log", f"the header must name {', '.join(sorted(rule.ids))} and nothing else")
        return
    if header.losses and header.kind not in ("charged", "voided", "epoch_opened"):
        state.report(entry, "budgets", "only a charge has losses, or what voids it")
    if opened is not None and state.require(
        entry, opened.commitment == header.commitment, "log", "the opening does not match its commitment"
    ):
        entry = Entry(index=index, header=header, body=opened.body)
    if state.counting:
        note_place(state, entry, opened is not None)
    if entry.body is None:
        state.found.unopened += opened is None
        state.cannot(*rule.rests)
    try:
        rule.judge(state, entry)
    except SandboxError as error:
        state.report(entry, rule.promise, str(error))
    except Exception as error:  # noqa: BLE001 - an entry that no rule can judge is wrong, and the rest is judged nevertheless
        state.report(entry, rule.promise, f"the entry cannot be judged ({type(error).__name__})")
