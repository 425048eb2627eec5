"""A broker's part in giving a charge back: it renounces a grant once and for good, and believes of its own ledgers only what it signed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from enclaves.kit.acts import verify_renunciation
from enclaves.kit.envelope import Signed, sign_document
from policies.agreement import Agreement
from policies.documents import GrantRenunciation, SignedRenunciation
from policies.errors import PolicyRefused, SandboxError, Tampered
from policies.grant import Grant, grant_digest
from sandbox.party.followed import Followed
from sandbox.party.home import Home


def release_file(job_id: str) -> str:
    """Where what was released for a job is kept."""
    return f"broker/{job_id}.release.json"


def renounce(home: Home, grant: Grant, agreement: Agreement) -> Signed:
    """Return the renunciation of a grant, which from now on stands at home: no key of this home leaves for its job any more.

    The caller holds the home's lock `release`. The keys of the other providers are kept beside it, by which their words are judged later.

    Raises:
        PolicyRefused: code `keys-released`, if keys were released for the job, whether or not they arrived; `nothing-granted`.
        Tampered: another grant of this job was renounced.
    """
    if (home.folder / release_file(grant.job)).is_file():
        raise PolicyRefused("keys were released for this job: its charge stays", code="keys-released")
    providers = sorted({read.provider for read in grant.reads})
    if home.participant not in providers:
        raise PolicyRefused("the grant reads nothing of this provider", code="nothing-granted")
    name, kept = grant_digest(grant), home.read_or(_dead_file(grant.job), None)
    if kept is not None and kept["grant"] != name:
        raise Tampered("another grant of this job was renounced", code="grant-replaced")
    if kept is None:
        keys = {provider: agreement.party(provider).signing_key for provider in providers}
        home.write(_dead_file(grant.job), {"grant": name, "keys": keys})
        home.note("renounced", job=grant.job, grant=name)
    return sign_document("grant-renunciation", home.participant, GrantRenunciation(job=grant.job, grant=name), home.signing)


def require_alive(home: Home, job_id: str) -> None:
    """Raise PolicyRefused (code `grant-dead`) if a grant of this job was renounced here."""
    if (home.folder / _dead_file(job_id)).is_file():
        raise PolicyRefused("the grant of this job was renounced", code="grant-dead")


def judged(home: Home, followed: Followed) -> Followed:
    """Return the fold with the voids that count for this home: those of other providers' ledgers, and of its own those that it signed.

    A void of a ledger of this home's needs its own renunciation, kept here, and those of all others with the keys that were in force. One
    that lacks any leaves the charge where it is.
    """
    counted = (job for job, row in followed.voids.items() if row["index"] is not None and _counts(home, followed, job, row))
    return replace(followed, void=frozenset(counted))


def _counts(home: Home, followed: Followed, job: str, row: dict[str, Any]) -> bool:
    if home.participant not in followed.providers(job):
        return True
    kept = home.read_or(_dead_file(job), None)
    if kept is None:
        return False
    signed = [(SignedRenunciation.from_ids(item["ids"]), item["index"]) for item in row["renounced"]]
    valid = {item.provider for item, index in signed if item.renunciation.grant == kept["grant"] and _holds(followed, kept, item, index)}
    return set(kept["keys"]) | followed.providers(job) <= valid


def _holds(followed: Followed, kept: dict[str, Any], signed: SignedRenunciation, index: int) -> bool:
    named = kept["keys"].get(signed.provider)
    key = None if named is None else followed.keyring.signing_key(named, index)
    if key is None:
        return False
    try:
        verify_renunciation(signed, key)
    except SandboxError:
        return False
    return True


def _dead_file(job_id: str) -> str:
    return f"broker/{job_id}.dead.json"
