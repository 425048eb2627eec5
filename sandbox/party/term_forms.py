"""Offers and agreements as compact YAML, both ways and without loss: what is compiled from a form gives the same form again, and back.

The wire form is ODRL (policies/odrl.py). A form says the same with fewer words; every term of the vocabulary has one spelling here.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import yaml

from policies.agreement import Agreement, Offer, Terms
from policies.codec import decode, encode, members
from policies.declaration import Declaration
from policies.errors import Malformed
from policies.odrl import agreement_document, offer_document, parse_agreement, parse_offer
from policies.privacy import PARAMETERS, Loss, Measure, parse_loss, units_to_decimal
from sandbox.party.forms import declaration_of

_LOSSES = {"job_loss": "per_job", "total_loss": "total", "consumer_loss": "per_consumer"}
_SAME = {
    "assignees": "assignees",
    "recipients": "recipients",
    "purposes": "purposes",
    "minimum_group": "minimum_group",
    "renew_total_days": "total_refresh",
    "renew_per_consumer_days": "consumer_refresh",
    "enclaves": "enclave_kinds",
    "measurements": "measurements",
    "uses": "uses",
    "windows": "windows",
    "enclave_countries": "enclave_jurisdictions",
    "recipient_countries": "recipient_jurisdictions",
    "no_debug": "no_debug",
    "exchange_only": "exchange_only",
    "evidence_age_s": "evidence_age",
    "pre_approved": "pre_approved",
    "output_kinds": "output_kinds",
    "output_rows": "output_rows",
    "output_bytes": "output_bytes",
    "approvals": "approvals",
    "pay": "payment",
    "notify": "notify",
    "attribution": "attribution",
    "delete_after_days": "delete_after",
    "pass_on": "onward",
    "platforms": "platforms",
    "isolation": "isolation",
    "scored_rows": "scored_rows",
    "score_decimals": "score_decimals",
    "withhold_probing": "withhold_probing",
    "division": "division",
    "quantum_s": "quantum",
}
"""Word of a form -> field of `Terms`; times, losses and columns have forms of their own."""

_NEEDED = ("assignees", "recipients", "purposes", "minimum_group", "enclaves", "measurements")
_KNOWN = {*_SAME, "from", "until", "columns"} | {
    f"{parameter}_{bound}" for parameter in (*PARAMETERS.values(), "delta0") for bound in _LOSSES.values()
}


def compiled(form: Any) -> dict[str, Any]:
    """Return the ODRL document that a form of an offer or agreement spells. Raises Malformed."""
    if isinstance(form, dict) and "offer" in form:
        return offer_document(_offer(form))
    if isinstance(form, dict) and "agreement" in form:
        return agreement_document(_agreement(form))
    raise Malformed("a form begins with `offer:` or `agreement:` and its short name")


def form_of(document: Any) -> dict[str, Any]:
    """Return the form of an ODRL document. Raises Malformed."""
    if isinstance(document, dict) and document.get("@type") == "Offer":
        offer = parse_offer(document)
        declared = {"declaration": declaration_form(offer.declaration), "terms": terms_form(offer.terms)}
        return {"offer": offer.uid, "title": offer.title, **declared}
    agreement = parse_agreement(document)
    return {
        "agreement": agreement.uid,
        "title": agreement.title,
        "log": encode(agreement.log),
        "parties": {party.id: {name: item for name, item in encode(party).items() if name != "id"} for party in agreement.parties},
        "datasets": {
            declaration.dataset: {"declaration": declaration_form(declaration), "terms": terms_form(terms)}
            for declaration, terms in zip(agreement.declarations, agreement.terms, strict=True)
        },
        **({"pools": encode(agreement.pools)} if agreement.pools else {}),
        **({"scorers": encode(agreement.scorers)} if agreement.scorers else {}),
    }


def to_yaml(form: dict[str, Any]) -> str:
    """Return a form as text."""
    return str(yaml.safe_dump(form, allow_unicode=True, sort_keys=False, width=140))


def offer_of(form: dict[str, Any], declaration: Declaration, measurement: str) -> Offer:
    """Return the offer that a form spells for a declared dataset.

    Args:
        measurement: reference value that the terms pin unless the form lists `measurements`: that of the provider's own checkout.

    Recipients are the assignees unless the form lists them. Of a public table no losses need be given: nothing is charged.

    Raises:
        Malformed: with the field.
    """
    unknown = sorted(set(form) - {"uid", "title", "dataset", "terms"})
    if unknown or not isinstance(form.get("terms"), dict):
        raise Malformed(f"unknown field `{unknown[0]}`" if unknown else "needs `terms`", where="offer")
    if form.get("dataset") != declaration.dataset:
        raise Malformed(f"is for `{form.get('dataset')}`, the declaration for `{declaration.dataset}`", where="dataset")
    return Offer(
        uid=decode(str, form.get("uid"), "uid"),
        title=decode(str, form.get("title"), "title"),
        declaration=declaration,
        terms=terms_of({**_given(form["terms"], declaration, measurement), **form["terms"]}, declaration.dataset),
    )


def _given(form: dict[str, Any], declaration: Declaration, measurement: str) -> dict[str, Any]:
    """What an offer's terms say where its form leaves it out."""
    given: dict[str, Any] = {"measurements": [measurement]}
    given |= {"recipients": form["assignees"]} if "assignees" in form else {}
    written = [bound for bound in ("per_job", "total") if any(f"{name}_{bound}" in form for name in PARAMETERS.values())]
    if declaration.public:
        given |= {f"epsilon_{bound}": "1" for bound in ("per_job", "total") if bound not in written}
    return given


def terms_form(terms: Terms) -> dict[str, Any]:
    """Return the words of a permission's terms."""
    found: dict[str, Any] = {"from": _time(terms.not_before), "until": _time(terms.not_after)}
    stated = members(terms)
    found |= {word: encode(stated[field]) for word, field in _SAME.items() if field in stated}
    for field, bound in _LOSSES.items():
        loss: Loss | None = getattr(terms, field)
        if loss is not None:
            found[f"{PARAMETERS[loss.measure]}_{bound}"] = _number(loss.epsilon)
            found |= {f"delta0_{bound}": _number(units_to_decimal(loss.delta0, 12))} if loss.delta0 else {}
    plain = len({term.column for term in terms.columns}) == len(terms.columns) and not any(term.recipients for term in terms.columns)
    listed = [encode(term) for term in terms.columns]
    found["columns"] = {term["column"]: term["operations"] for term in listed} if plain else listed
    return found


def terms_of(form: Any, dataset: str) -> Terms:
    """Return the terms that a form spells. Raises Malformed (code `unknown-term`)."""
    if not isinstance(form, dict):
        raise Malformed("must be a mapping", where="terms")
    unknown = sorted(str(word) for word in set(form) - _KNOWN)
    if unknown:
        raise Malformed(f"unknown term `{unknown[0][:60]}`; known: {', '.join(sorted(_KNOWN))}", where="terms", code="unknown-term")
    missing = sorted({*_NEEDED, "from", "until", "columns"} - set(form))
    if missing:
        raise Malformed(f"term `{missing[0]}` is missing", where="terms")
    fields: dict[str, Any] = {
        "dataset": dataset,
        "not_before": _seconds(form["from"], "terms.from"),
        "not_after": _seconds(form["until"], "terms.until"),
        "columns": _columns(form["columns"]),
    }
    fields |= {_SAME[word]: form[word] for word in _SAME if word in form}
    for field, bound in _LOSSES.items():
        loss = _loss(form, bound)
        if loss is not None:
            fields[field] = encode(loss)
    return decode(Terms, fields, "terms")


def declaration_form(declaration: Declaration) -> dict[str, Any]:
    """Return a declaration with its columns by name and without what says nothing."""
    found = {name: item for name, item in encode(declaration).items() if name != "columns"}
    found["columns"] = {column.name: _column_form(column) for column in declaration.columns}
    return found


def _column_form(column: Any) -> dict[str, Any]:
    plain = {name: item for name, item in encode(column).items() if name != "name"}
    if column.type == "date" and column.domain is not None:
        plain["domain"] = [date(1970, 1, 1) + timedelta(days=days) for days in column.domain]
    silent = {"lower": None, "upper": None, "decimals": 0, "domain": None, "nullable": False, "description": ""}
    return {name: item for name, item in plain.items() if name not in silent or item != silent[name]}


def _offer(form: dict[str, Any]) -> Offer:
    _require_members(form, {"offer", "title", "declaration", "terms"})
    declaration = _declaration(form["declaration"])
    return Offer(
        uid=decode(str, form["offer"], "offer"),
        title=decode(str, form["title"], "title"),
        declaration=declaration,
        terms=terms_of(form["terms"], declaration.dataset),
    )


def _agreement(form: dict[str, Any]) -> Agreement:
    needed = {name: item for name, item in form.items() if name not in ("pools", "scorers")}
    _require_members(needed, {"agreement", "title", "log", "parties", "datasets"})
    parties, datasets = form["parties"], form["datasets"]
    for where, value in (("parties", parties), ("datasets", datasets)):
        if not isinstance(value, dict) or not all(isinstance(item, dict) for item in value.values()):
            raise Malformed("must map names to their properties", where=where)
    fields: dict[str, Any] = {
        "uid": form["agreement"],
        "title": form["title"],
        "log": form["log"],
        "parties": [{"id": name, **properties} for name, properties in parties.items()],
        "declarations": [],
        "terms": [],
        **{name: form[name] for name in ("pools", "scorers") if name in form},
    }
    for name, parts in datasets.items():
        _require_members(parts, {"declaration", "terms"}, f"datasets.{name}")
        declaration = _declaration(parts["declaration"])
        if declaration.dataset != name:
            raise Malformed(f"holds the declaration of `{declaration.dataset}`", where=f"datasets.{name}")
        fields["declarations"].append(encode(declaration))
        fields["terms"].append(encode(terms_of(parts["terms"], declaration.dataset)))
    return decode(Agreement, fields)


def _declaration(form: Any) -> Declaration:
    if not isinstance(form, dict):
        raise Malformed("must be a mapping", where="declaration")
    return declaration_of(form)


def _require_members(form: dict[str, Any], wanted: set[str], where: str | None = None) -> None:
    for name in sorted(wanted ^ set(map(str, form))):
        raise Malformed(f"{'missing' if name in wanted else 'unknown'} member `{name[:60]}`", where=where)


def _columns(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [{"column": name, "operations": operations} for name, operations in value.items()]
    if not isinstance(value, list):
        raise Malformed("must map columns to operations, or list them", where="terms.columns")
    return value


def _loss(form: dict[str, Any], bound: str) -> Loss | None:
    written: list[tuple[Measure, str]] = [(m, f"{name}_{bound}") for m, name in PARAMETERS.items() if f"{name}_{bound}" in form]
    if not written and bound == "per_consumer":
        return None
    if len(written) != 1:
        raise Malformed(f"give either `epsilon_{bound}` or `rho_{bound}`", where="terms")
    (measure, name), delta0 = written[0], form.get(f"delta0_{bound}", "0")
    return parse_loss(measure, _decimal(form[name]), _decimal(delta0), f"terms.{name}")


def _number(text: str) -> float | int | str:
    """A decimal as YAML writes it best: as a number where that reads back as the very same decimal."""
    value = int(text) if "." not in text else float(text)
    return value if Decimal(_decimal(value)) == Decimal(text) else text


def _decimal(value: Any) -> str:
    return format(Decimal(str(value)), "f") if isinstance(value, float) else str(value)


def _time(seconds: int) -> date | datetime:
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.date() if seconds % 86_400 == 0 else moment


def _seconds(value: Any, where: str) -> int:
    if isinstance(value, datetime):
        return int(value.replace(tzinfo=value.tzinfo or UTC).timestamp())
    if isinstance(value, date):
        return int(datetime(value.year, value.month, value.day, tzinfo=UTC).timestamp())
    raise Malformed("must be a date like 2026-01-31 or a UTC time like 2026-01-31T00:00:00Z", where=where)


__all__ = ["compiled", "declaration_form", "form_of", "offer_of", "terms_form", "terms_of", "to_yaml"]
