"""A scoring service at home: its owner offers a model and sees how it is used; what others ask goes the way of every job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enclaves.kit.measure import checkout_root, measurement
from enclaves.kit.offered import model_table
from policies.agreement import Agreement
from policies.codec import decode
from policies.errors import Malformed, NotFound
from policies.model import Model
from policies.service import MAX_MODEL_BYTES, MODEL_COLUMN, Scores, model_declaration, parse_model, require_usable
from policies.statement import Release, Statement
from sandbox.audit.receipt import Receipt, verify_receipt
from sandbox.party.client import Client
from sandbox.party.kept import kept_agreement
from sandbox.party.modelling import model_of
from sandbox.party.publish import publish
from sandbox.party.term_forms import offer_of


def model_from(client: Client, source: str) -> Model:
    """Return the model of one's own job, or of a file with its integers (`model` of a release, as JSON).

    Raises:
        NotFound: neither a file nor a release with a model. Malformed: code `foreign-model` for an ONNX file or whatever else is not such
            integers; it is not parsed beyond that.
    """
    path = Path(source)
    if source.startswith("job-") and not path.exists():
        found = model_of(client.release(source)[0]).model
        require_usable(found)
        return found
    if not path.is_file():
        raise NotFound(f"`{source[:80]}` is neither a job nor a file", code="no-model")
    with path.open("rb") as file:
        data = file.read(MAX_MODEL_BYTES + 1)
    try:
        return parse_model([data.decode("utf-8")])
    except (Malformed, UnicodeDecodeError) as error:
        why = error.message if isinstance(error, Malformed) else "is not text"
        message = f"{path.name}: a service takes models as their integers in JSON, no ONNX files and no code: {why}"
        raise Malformed(message, code="foreign-model") from error


def offer_model(client: Client, model: Model, dataset: str, title: str, terms: Mapping[str, Any]) -> dict[str, Any]:
    """Publish a model, encrypted at home, as the next version of a dataset, and offer it. Returns the offer's record.

    Args:
        terms: words of an offer's form (`sandbox.party.term_forms`), or such a form of this dataset; the operation on the model's column
            and the minimum group are given.

    Raises:
        Malformed: terms that say too little or too much, before anything is published.
    """
    declaration = model_declaration(dataset, title)
    if isinstance(terms.get("terms"), Mapping):
        if terms.get("dataset") != dataset:
            raise Malformed(f"these are terms for `{str(terms.get('dataset'))[:80]}`", where="dataset")
        terms = terms["terms"]
    form = {"minimum_group": 1, **terms, "columns": {MODEL_COLUMN: ["score"]}}
    uid = dataset.replace(".", "-").lower()
    offer = offer_of({"uid": uid, "title": title, "dataset": dataset, "terms": form}, declaration, measurement(checkout_root()))
    publish(client, declaration, model_table(model))
    return client.offer(offer)


def scores_of(release: object) -> Scores:
    """Return the scores of a release. Raises NotFound if it has none."""
    if not isinstance(release, Release) or release.scores is None:
        raise NotFound("this release holds no scores", code="no-scores")
    return release.scores


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """How one consumer used a model under one agreement.

    Attributes:
        calls, rows: that were charged; rows as the calls stated them.
        released, withheld: calls that ended so.
        versions: of the asker's rows that these calls read.
        few: calls on a version with too few rows to say whether they were made to copy the model, by the enclave's signed word.
        suspected: calls whose rows looked made to, by the same.
        quota: what the terms count, for people; empty where they count nothing.
        unfinished: calls that wait, run or failed.
    """

    agreement: str
    consumer: str
    calls: int
    rows: int
    released: int
    withheld: int
    versions: int
    few: int
    suspected: int
    unfinished: int
    quota: str


def usage_of(client: Client, dataset: str) -> list[Usage]:
    """Return the usage of a model by agreement and consumer, from this participant's own agreements and receipts that were verified.

    Raises:
        Tampered, EvidenceRejected: a receipt does not hold.
    """
    found: dict[tuple[str, str], list[_Call]] = {}
    for job in client.jobs():
        scoring = job["plan"].get("scoring")
        if scoring is None or scoring["model"] != dataset or job["grant"] is None:
            continue
        word = _word(client, job, kept_agreement(client.home, job["agreement"])) if job["state"] in ("released", "withheld") else ""
        found.setdefault((job["agreement"], job["consumer"]), []).append(
            _Call(rows=int(scoring["rows"]), state=str(job["state"]), word=word, read=_versions(job["grant"], dataset))
        )
    return [_usage(client, dataset, *key, calls) for key, calls in sorted(found.items())]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Call:
    rows: int
    state: str
    word: str
    read: frozenset[tuple[str, int]]


def _versions(grant: Mapping[str, Any], model: str) -> frozenset[tuple[str, int]]:
    """The datasets and versions that a call reads besides the model."""
    return frozenset((str(read["dataset"]), int(read["version"])) for read in grant["reads"] if read["dataset"] != model)


def _usage(client: Client, dataset: str, agreement: str, consumer: str, calls: list[_Call]) -> Usage:
    quota = kept_agreement(client.home, agreement).terms_of(dataset).scored_rows
    states, words = [call.state for call in calls], [call.word for call in calls]
    return Usage(
        agreement=agreement,
        consumer=consumer,
        calls=len(calls),
        rows=sum(call.rows for call in calls),
        released=states.count("released"),
        withheld=states.count("withheld"),
        versions=len(frozenset().union(*(call.read for call in calls))),
        few=words.count("few"),
        suspected=words.count("suspected"),
        unfinished=len(calls) - states.count("released") - states.count("withheld"),
        quota="" if quota is None else quota.text,
    )


def _word(client: Client, job: Mapping[str, Any], agreement: Agreement) -> str:
    verified = verify_receipt(decode(Receipt, client.receipt(str(job["id"]))), agreement)
    statement = verified.receipt.statement.statement
    return str(statement.probing or "") if isinstance(statement, Statement) else ""
