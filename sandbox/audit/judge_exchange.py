"""Judging the entries of the exchange: admissions, datasets, offers and agreements."""

from __future__ import annotations

from dataclasses import dataclass

from enclaves.kit.envelope import Signed, document_digest
from policies.agreement import Agreement
from policies.codec import decode
from policies.declaration import Declaration
from policies.documents import Admission, AgreementSignature, SignedRotation, VersionManifest
from policies.odrl import parse_agreement, parse_offer
from policies.request import VersionFact
from sandbox.audit.bodies import SignedBody
from sandbox.audit.folds import AgreementFold, Entry, Keys
from sandbox.audit.state import State


@dataclass(frozen=True, kw_only=True, slots=True)
class AgreedBody:
    """The body of `agreed`."""

    agreement: str


def signed_body(entry: Entry) -> Signed:
    """The signed document of an opened entry. Raises Malformed."""
    return decode(SignedBody, entry.body).signed


def admitted(state: State, entry: Entry) -> None:
    """A participant with keys and a credential of its own that nobody had before, signed with the key it names."""
    name = entry.ids["participant"]
    if not state.require(entry, name not in state.participants, "signatures", f"`{name}` is admitted twice"):
        return
    _admit(state, entry, name)


def _admit(state: State, entry: Entry, name: str) -> None:
    state.participants[name] = None
    if entry.body is None:
        return
    signed = signed_body(entry)
    admission = decode(Admission, signed.body)
    keys = {key for key in (admission.signing_key, admission.sealing_key, admission.credential_digest) if key}
    state.require(entry, admission.participant == name, "signatures", f"the admission is of `{admission.participant}`")
    state.require(entry, not keys & state.keys, "signatures", f"a key or the credential of `{name}` belongs to another participant")
    state.keys |= keys
    state.participants[name] = Keys(signing=admission.signing_key, sealing=admission.sealing_key)
    state.verify(entry, signed, "admission", name)


def rotated(state: State, entry: Entry) -> None:
    """New keys for an admitted participant, signed with the key that they replace and with the new one. The header says all of it."""
    _require_empty(state, entry)
    state.keyring.fold(entry.index, entry.header)
    rotation = SignedRotation.from_ids(entry.ids).rotation
    name, new = rotation.participant, {rotation.signing_key, rotation.sealing_key}
    if not state.require(entry, name in state.participants, "signatures", f"`{name}` is not admitted"):
        return
    before = state.participants[name]
    if before is None:
        state.cannot("signatures")
    else:
        state.require(entry, before.signing == rotation.old_key, "signatures", f"the key replaced is not the one of `{name}` in force")
    state.require(entry, not new & state.keys, "signatures", f"a new key of `{name}` was in use before")
    state.keys |= new
    state.participants[name] = Keys(signing=rotation.signing_key, sealing=rotation.sealing_key)


def revoked(state: State, entry: Entry) -> None:
    """The end of a participant's keys, by itself or by the operator. The header says all of it."""
    _require_empty(state, entry)
    state.keyring.fold(entry.index, entry.header)
    name = entry.ids["participant"]
    if not state.require(entry, name in state.participants, "signatures", f"`{name}` is not admitted"):
        return
    state.gone.add(name)
    before = state.participants[name]
    if before is None:
        state.cannot("signatures")
    else:
        state.require(entry, before.signing == entry.ids["key"], "signatures", f"the key revoked is not the one of `{name}` in force")


def readmitted(state: State, entry: Entry) -> None:
    """A participant whose keys were revoked, with keys and a credential that nobody had before. Its agreements do not carry over."""
    name = entry.ids["participant"]
    if not state.require(entry, name in state.participants, "signatures", f"`{name}` was never admitted"):
        return
    if not state.require(entry, name in state.gone, "signatures", f"`{name}` is readmitted while its keys are in force"):
        return
    state.gone.discard(name)
    _admit(state, entry, name)


def declared(state: State, entry: Entry) -> None:
    """A dataset, once, by its provider."""
    name = entry.ids["dataset"]
    if not state.require(entry, name not in state.declarations, "signatures", f"`{name}` is declared twice"):
        return
    state.declarations[name] = None
    if entry.body is None:
        return
    signed = signed_body(entry)
    declaration = decode(Declaration, signed.body)
    state.verify(entry, signed, "declaration", declaration.provider)
    same = declaration.dataset == name and document_digest(signed) == entry.ids["declaration"]
    if state.require(entry, same, "signatures", "the header names another declaration than was signed"):
        state.declarations[name] = declaration


def published(state: State, entry: Entry) -> None:
    """The next version of a declared dataset, by its provider."""
    name, file = entry.ids["dataset"], entry.ids["file"]
    state.require(entry, name in state.declarations, "signatures", f"`{name}` is not declared")
    before = state.newest[name].version if name in state.newest else 0
    follows = entry.ids["version"] == str(before + 1)
    state.require(entry, follows, "signatures", f"version {entry.ids['version']} of `{name}` follows version {before}")
    state.newest[name] = VersionFact(dataset=name, version=int(entry.ids["version"]), file_digest=file)
    if entry.body is None:
        return
    signed = signed_body(entry)
    manifest = decode(VersionManifest, signed.body)
    state.verify(entry, signed, "version", name.partition(".")[0])
    same = (manifest.dataset, str(manifest.version), manifest.file_digest) == (name, entry.ids["version"], file)
    state.require(entry, same, "signatures", "the header names another version or file than was signed")
    declaration = state.declarations.get(name)
    if declaration is not None:
        columns = sorted(column.name for column in declaration.columns)
        state.require(entry, sorted(manifest.columns) == columns, "signatures", "the file's columns are not the declared ones")


def offered(state: State, entry: Entry) -> None:
    """An offer, once, on the provider's own declared dataset."""
    name = entry.ids["offer"]
    state.require(entry, name not in state.offers, "order", "this offer is made twice")
    state.offers.add(name)
    if entry.body is None:
        return
    signed = signed_body(entry)
    offer = parse_offer(signed.body)
    state.verify(entry, signed, "offer", offer.declaration.provider)
    same = (document_digest(signed), offer.declaration.provider) == (name, entry.ids["provider"])
    state.require(entry, same, "signatures", "the header names another offer than was signed")
    _require_declared(state, entry, offer.declaration)


def proposed(state: State, entry: Entry) -> None:
    """An agreement, once, by a party, that names this log and the keys and declarations that the log knows."""
    name, by = entry.ids["agreement"], entry.ids["participant"]
    if not state.require(entry, name not in state.agreements, "order", "this agreement is proposed twice"):
        return
    fold = state.agreements[name] = AgreementFold()
    if entry.body is None:
        return
    signed = signed_body(entry)
    state.verify(entry, signed, "agreement", by)
    if not state.require(entry, document_digest(signed) == name, "signatures", "the header names another agreement than was signed"):
        return
    fold.agreement = parse_agreement(signed.body)
    state.require(entry, fold.agreement.has_party(by), "signatures", f"`{by}` is no party of the agreement")
    state.named.append((entry.index, fold.agreement.log))
    _require_admitted(state, entry, fold.agreement)
    for declaration in fold.agreement.declarations:
        _require_declared(state, entry, declaration)


def signed(state: State, entry: Entry) -> None:
    """One party's signature on an agreement, with the key that the agreement gives it."""
    name, by = entry.ids["agreement"], entry.ids["participant"]
    fold = state.agreements.get(name)
    if not state.require(entry, fold is not None, "order", "an agreement is signed that was not proposed") or fold is None:
        return
    if not state.require(entry, by not in fold.signed, "order", f"`{by}` signs the same agreement twice"):
        return
    fold.signed[by] = "unopened"
    if entry.body is None:
        return
    document = signed_body(entry)
    key = None
    if fold.agreement is not None:
        if not state.require(entry, fold.agreement.has_party(by), "signatures", f"`{by}` is no party of the agreement"):
            return
        key = fold.agreement.party(by).signing_key
    holds = state.verify(entry, document, "agreement-signature", by, key)
    same = decode(AgreementSignature, document.body).agreement == name
    state.require(entry, same, "signatures", f"`{by}` signed another agreement")
    fold.signed[by] = "ok" if holds and same else "broken"


def agreed(state: State, entry: Entry) -> None:
    """The statement that all parties have signed, once, when they have."""
    fold = state.agreements.get(entry.ids["agreement"])
    if not state.require(entry, fold is not None, "order", "an agreement is agreed that was not proposed") or fold is None:
        return
    state.require(entry, not fold.agreed, "order", "the agreement is agreed twice")
    fold.agreed = True
    if fold.standing == "unopened":
        state.cannot("signatures")
    elif fold.standing == "broken" and fold.agreement is not None:
        absent = [party.id for party in fold.agreement.parties if fold.signed.get(party.id) != "ok"]
        state.report(entry, "signatures", f"agreed without a valid signature of {', '.join(absent)}")
    if entry.body is not None:
        same = decode(AgreedBody, entry.body).agreement == entry.ids["agreement"]
        state.require(entry, same, "signatures", "the body names another agreement than the header")


def _require_empty(state: State, entry: Entry) -> None:
    if entry.body is not None:
        state.require(entry, entry.body == {}, "signatures", f"the body of `{entry.header.kind}` says something")


def _require_admitted(state: State, entry: Entry, agreement: Agreement) -> None:
    for party in agreement.parties:
        if not state.require(entry, party.id in state.participants, "signatures", f"party `{party.id}` is not admitted"):
            continue
        state.require(entry, party.id not in state.gone, "signatures", f"the keys of `{party.id}` were revoked before")
        keys = state.participants[party.id]
        if keys is None:
            state.cannot("signatures")
            continue
        same = (keys.signing, keys.sealing) == (party.signing_key, party.sealing_key)
        state.require(entry, same, "signatures", f"the keys of `{party.id}` are not those in force")


def _require_declared(state: State, entry: Entry, declaration: Declaration) -> None:
    name = declaration.dataset
    if not state.require(entry, name in state.declarations, "signatures", f"`{name}` is not declared"):
        return
    known = state.declarations[name]
    if known is None:
        state.cannot("signatures")
        return
    state.require(entry, known == declaration, "signatures", f"`{name}` is declared otherwise")
