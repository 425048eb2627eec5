"""The host's side of encrypted scoring: it decides, counts rows, passes ciphertexts on and logs what was signed. It can read none of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from enclaves.kit.envelope import Signed, document_digest
from policies.codec import decode, encode
from policies.counts import Tally
from policies.decide import LAW_VERSION
from policies.entries import EntryKind
from policies.errors import Conflict, Malformed, NotFound
from policies.odrl import timestamp
from policies.scorer import ScoreRequest, ScoreReturn, ScoreStatement, answer_bytes, request_bytes, scoring_id
from policies.scoring_decision import ScoreFacts, decide_scoring
from sandbox.audit.scoring_receipt import ScoreReceipt
from sandbox.exchange.agreements import read_agreement
from sandbox.exchange.epochs import require_signed_epoch
from sandbox.exchange.records import Participant, StoredAgreement
from sandbox.exchange.rotation import require_carried, require_in_force
from sandbox.exchange.signed import require_signed
from sandbox.host import Host
from sandbox.jobs.score_receipts import receipt_of
from sandbox.jobs.scoring_states import Scoring

if TYPE_CHECKING:
    from sandbox.store.database import Transaction


def ask(host: Host, caller: Participant, signed: Signed) -> Scoring:
    """Decide a signed request, log the decision and, if it allows, count its rows, in one transaction. The same again is the same.

    Raises:
        Malformed: the request; code `unknown-model`. Forbidden: code `bad-signature`. NotFound: the agreement is not the caller's.
        Conflict: it is not active, names revoked keys, or the request id was used for another request. Unavailable.
    """
    require_signed(signed, "score-request", caller.id, caller.signing_key)
    request, name = decode(ScoreRequest, signed.body), document_digest(signed)
    if request.consumer != caller.id:
        raise NotFound("a request is made in one's own name")
    stored = read_agreement(host, caller, request.agreement)
    if stored.state != "active":
        raise Conflict(f"the agreement waits for {', '.join(stored.waiting_for)}", code="agreement-not-active")
    owner = stored.agreement.scorer_of(request.model).owner
    with host.store.transaction() as tx:
        tx.hold_log()
        known = tx.scoring_by_request(caller.id, request.request_id)
        if known is not None and known.digest != name:
            raise Conflict("this request id was used for another request", code="request-id")
        if known is not None:
            return known
        if tx.scoring_is_lost(scoring_id(name)):
            raise Conflict("this request was decided before the service was restored; make a new one", code="request-lost")
        require_signed_epoch(tx)
        require_in_force(tx, caller)
        require_carried(tx, stored, (caller.id, owner))
        scoring = _decided(host, tx, stored, signed, request, owner)
        tx.add_scoring(scoring)
    host.publish()
    return scoring


def _decided(host: Host, tx: Transaction, stored: StoredAgreement, signed: Signed, request: ScoreRequest, owner: str) -> Scoring:
    now, name = host.now(), document_digest(signed)
    rows, requests = tx.encrypted_rows(request.agreement, request.model)
    before = Tally.of(tx.opening_counts()).encrypted[request.agreement, request.model]
    facts = ScoreFacts(now=now // 1000, rows=rows + before[0], requests=requests + before[1], tightenings=tx.tightenings(request.agreement))
    decision = decide_scoring(request, stored.agreement, facts)
    ids = {
        "scoring": scoring_id(name),
        "agreement": request.agreement,
        "model": request.model,
        "request": name,
        "rows": str(request.rows),
        "allowed": "yes" if decision.allowed else "no",
    }
    body = {"signed": encode(signed), "facts": encode(facts), "decision": encode(decision), "law": LAW_VERSION}
    index = tx.append("score_decided", at=now, ids=ids, body=body, agreement=request.agreement)
    return Scoring(
        id=ids["scoring"],
        state="asked" if decision.allowed else "denied",
        owner=owner,
        request=request,
        digest=name,
        signed=signed,
        facts=facts,
        decision=decision,
        statement=None,
        decided=index,
        ended=None,
        created_at=now,
    )


def find(host: Host, caller: Participant, name: str) -> Scoring:
    """A scoring of the caller's, as consumer or owner. Raises NotFound."""
    with host.store.reading() as tx:
        return _own(tx, caller, name)


def of_caller(host: Host, caller: Participant) -> list[Scoring]:
    """Scorings of the caller's that have not ended, oldest first."""
    with host.store.reading() as tx:
        return tx.open_scorings(caller.id)


def add_file(host: Host, caller: Participant, name: str, chunks: Iterable[bytes]) -> tuple[str, int]:
    """Store the consumer's ciphertexts, which its request names, or the owner's answer; returns (digest, size).

    Raises:
        NotFound: no such scoring of the caller's. Conflict: it waits for no file of the caller's.
        Malformed: code `he-size` or `upload-digest`: another file than was asked for. TooLarge.
    """
    with host.store.reading() as tx:
        scoring = _own(tx, caller, name)
        stored = tx.terms(scoring.request.agreement)
    assert stored is not None, "a scoring has an agreement"
    scorer, rows, asks = stored.scorer_of(scoring.request.model), scoring.request.rows, caller.id == scoring.request.consumer
    if scoring.state not in (("asked", "waiting") if asks else ("waiting",)):
        raise Conflict(f"the scoring is {scoring.state}", code="scoring-state")
    expected = request_bytes(scorer, rows) if asks else answer_bytes(scorer, rows)

    def inspect(_head: bytes, _tail: bytes, size: int) -> None:
        if size != expected:
            raise Malformed(f"this part of the scoring has {expected} bytes, not {size}", code="he-size")

    digest, size = replace(host.blobs, limit=min(host.blobs.limit, expected)).add(chunks, inspect=inspect)
    if asks and digest != scoring.request.ciphertexts:
        raise Malformed("the request names other ciphertexts", code="upload-digest")
    with host.store.transaction() as tx:
        tx.add_upload(digest, caller.id, size, host.config.upload_quota_bytes)
        if asks:
            tx.hold_log()
            held = _own(tx, caller, name)
            if held.state == "asked":
                tx.set_scoring(replace(held, state="waiting"))
    return digest, size


def file_of(host: Host, caller: Participant, name: str, digest: str) -> Path:
    """Where the other side's file of a scoring is: ciphertexts for the owner, the answer for the consumer. Raises NotFound."""
    with host.store.reading() as tx:
        scoring = _own(tx, caller, name)
    wanted = scoring.request.ciphertexts
    if caller.id == scoring.request.consumer:
        wanted = (
            "" if scoring.statement is None or scoring.state != "answered" else str(decode(ScoreStatement, scoring.statement.body).scores)
        )
    elif scoring.state == "asked":
        wanted = ""
    if digest != wanted:
        raise NotFound("there is no such file of this scoring for you")
    return host.blobs.path(digest)


def accept_statement(host: Host, caller: Participant, signed: Signed) -> Scoring:
    """Store and log what the owner answered. The same again is the same.

    Raises:
        NotFound: the caller owns no such model, or the file is missing. Conflict: it is of another request, or the scoring has ended.
    """
    require_signed(signed, "score-statement", caller.id, caller.signing_key)
    statement = decode(ScoreStatement, signed.body)
    with host.store.transaction() as tx:
        tx.hold_log()
        scoring = _own(tx, caller, statement.scoring)
        if caller.id != scoring.owner:
            raise NotFound("no scoring asks you for an answer")
        if scoring.statement is not None and scoring.statement.body == signed.body:
            return scoring
        _require_waiting(scoring, statement.request)
        until = _answered_until(tx, scoring)
        if until is not None and host.now() >= until:
            raise Conflict("the time to answer this request is over", code="owner-late")
        if statement.scores is not None and not tx.has_upload(statement.scores, caller.id):
            raise NotFound("upload the answer first")
        require_in_force(tx, caller)
        kind: EntryKind = "score_answered" if statement.scores else "score_refused"
        ids = {"scoring": scoring.id, "agreement": scoring.request.agreement, "statement": document_digest(signed)}
        ids |= {"scores": statement.scores} if statement.scores else {"code": str(statement.refused)}
        index = tx.append(kind, at=host.now(), ids=ids, body={"signed": encode(signed)}, agreement=scoring.request.agreement)
        ended = replace(scoring, state="answered" if statement.scores else "refused", statement=signed, ended=index)
        tx.set_scoring(ended)
    host.publish()
    return ended


def accept_return(host: Host, caller: Participant, signed: Signed) -> Scoring:
    """Store and log that a client takes back the rows of a request that its owner let pass. The same again is the same.

    What the log has decides: an answer that came in time stands, and none is taken once its time is over.

    Raises:
        NotFound: no such request of the caller's. Conflict: it has ended or lacks its ciphertexts, the agreement gives no rows back (code
            `no-return`), or the owner still has time (code `too-early`).
    """
    require_signed(signed, "score-return", caller.id, caller.signing_key)
    back = decode(ScoreReturn, signed.body)
    with host.store.transaction() as tx:
        tx.hold_log()
        scoring = _own(tx, caller, back.scoring)
        if caller.id != scoring.request.consumer:
            raise NotFound("this is no request of yours")
        if scoring.statement is not None and scoring.statement.body == signed.body:
            return scoring
        _require_waiting(scoring, back.request)
        until = _answered_until(tx, scoring)
        if until is None:
            raise Conflict("the agreement names no time after which rows come back", code="no-return")
        if host.now() < until:
            raise Conflict(f"the owner has time until {timestamp(-(-until // 1000))}", code="too-early")
        require_in_force(tx, caller)
        ids = {"scoring": scoring.id, "agreement": scoring.request.agreement, "statement": document_digest(signed), "code": back.reason}
        body = {"signed": encode(signed), "request": encode(scoring.signed)}
        index = tx.append("score_returned", at=host.now(), ids=ids, body=body, agreement=scoring.request.agreement)
        ended = replace(scoring, state="returned", statement=signed, ended=index)
        tx.set_scoring(ended)
    host.publish()
    return ended


def _require_waiting(scoring: Scoring, request: str) -> None:
    if scoring.state != "waiting" or request != scoring.digest:
        raise Conflict(f"the scoring is {scoring.state}, or the statement is of another request", code="scoring-state")


def _answered_until(tx: Transaction, scoring: Scoring) -> int | None:
    agreement = tx.terms(scoring.request.agreement)
    assert agreement is not None, "a scoring has an agreement"
    return agreement.scorer_of(scoring.request.model).answered_until(scoring.created_at)


def receipt(host: Host, caller: Participant, name: str) -> ScoreReceipt:
    """The receipt of an answered, refused or returned scoring; one of a former log as it was kept.

    Raises:
        NotFound: it has no answer, or no checkpoint of the former log covers it. Unavailable: code `not-published`.
    """
    with host.store.reading() as tx:
        scoring = _own(tx, caller, name)
        kept = tx.former_score_receipt(name)
        return decode(ScoreReceipt, kept) if kept is not None else receipt_of(tx, scoring)


def _own(tx: Transaction, caller: Participant, name: str) -> Scoring:
    scoring = tx.scoring(name)
    if scoring is None or caller.id not in (scoring.request.consumer, scoring.owner):
        raise NotFound("there is no such scoring of yours")
    return scoring
