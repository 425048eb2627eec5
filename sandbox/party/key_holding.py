"""Holding the key of joint totals, at home.

Durable order: key kept -> manifest sent; the opening marked -> decrypted -> statement kept and key destroyed -> sent. A total whose opening
was marked and not finished is aborted: nothing is decrypted twice, and no second total of a job is opened.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from enclaves.kit.child import SECRET, TOTAL
from enclaves.kit.envelope import Signed, verify_document
from enclaves.kit.he import generate_key
from policies.canonical import digest_bytes
from policies.codec import decode, encode
from policies.errors import PolicyRefused, SandboxError, Tampered
from policies.grant import grant_digest
from policies.joint_documents import JointContribution, JointManifest, JointStatement, contributions_digest, manifest_digest
from policies.joint_grant import JointGrant
from policies.names import require_slug
from policies.odrl import agreement_document
from sandbox.party.joint import Checked, JointPart, key_in_force, require_manifest

KEYS_S = 10.0
"""How often the holder looks for keys of jobs that have ended without it."""

SUFFIX = ".secret"


@dataclass
class KeyHolder(JointPart):
    """Makes a fresh key per attempt, opens one total per job, and destroys the key."""

    tasks = frozenset({"key", "opening"})
    work = "open"
    idle_s, soon_s = 0.2, 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        self._swept = -KEYS_S

    def step(self) -> int:
        """As of every part; besides, the keys of jobs that have ended without an opening are destroyed."""
        if time.monotonic() - self._swept >= (KEYS_S if self._next else 0.0):
            self._swept = time.monotonic()
            for path in sorted((self.client.home.folder / "joint").glob(f"*{SUFFIX}")):
                job = require_slug(path.name.removesuffix(SUFFIX), "job")
                if self.client.job(job)["state"] not in ("charged", "running"):
                    self._destroy(job)
        return super().step()

    def _do(self, item: dict[str, Any], grant: JointGrant) -> None:
        if grant.pool.key_holder != self.client.home.participant:
            raise PolicyRefused("this participant holds no key of this pool", code="joint-manifest")
        if item["task"] == "key":
            self._key(item, grant)
        else:
            self._open(item, grant)

    def _key(self, item: dict[str, Any], grant: JointGrant) -> None:
        client, home = self.client, self.client.home
        if (home.folder / _opened_file(grant.job)).exists():
            raise PolicyRefused("a total of this job was opened already", code="joint-opened")
        self._checked(item, grant)
        attempt = int(item["attempt"])
        kept = home.read_or(_attempt_file(grant.job), None)
        if kept is not None and int(kept["manifest"]["attempt"]) > attempt:
            raise Tampered("a later attempt was begun before", code="joint-manifest")
        if kept is None or int(kept["manifest"]["attempt"]) < attempt:
            self._destroy(grant.job)
            pair = generate_key(grant.parameters)
            manifest = JointManifest(
                job=grant.job,
                grant=grant_digest(grant),
                attempt=attempt,
                contributors=tuple(str(name) for name in item["contributors"]),
                public_key=digest_bytes(pair.public),
            )
            require_manifest(manifest, grant)
            home.write_bytes(_secret_file(grant.job), pair.secret)
            home.write_bytes(_public_file(grant.job), pair.public)
            home.write(_attempt_file(grant.job), {"manifest": encode(manifest)})
            home.note("joint-key", job=grant.job, attempt=attempt)
        manifest = decode(JointManifest, home.read(_attempt_file(grant.job))["manifest"])
        client.add_file(grant.job, home.read_bytes(_public_file(grant.job)))
        client.send_manifest(client.signed_manifest(manifest))

    def _open(self, item: dict[str, Any], grant: JointGrant) -> None:
        client, home = self.client, self.client.home
        kept = home.read_or(_opened_file(grant.job), None)
        if kept is None:
            checked = self._checked(item, grant)
            manifest = decode(JointManifest, home.read(_attempt_file(grant.job))["manifest"])
            statement = self._bound(item, checked, manifest)
            total = client.joint_file(grant.job, statement.total)
            # From here on this total is the only one of the job that is ever opened, whatever becomes of this process.
            home.write(_opened_file(grant.job), {"statement": encode(statement), "sealed": ""})
            self._decrypted(checked, manifest, statement, total)
            kept = home.read(_opened_file(grant.job))
        self._destroy(grant.job)
        statement = decode(JointStatement, kept["statement"])
        if statement.sealed is not None:
            client.add_file(grant.job, bytes.fromhex(kept["sealed"]))
        client.send_statement(statement)
        home.note("opened" if statement.sealed else "aborted", job=grant.job, total=statement.total)

    def _bound(self, item: dict[str, Any], checked: Checked, manifest: JointManifest) -> JointStatement:
        """The statement of an abort of this total, after everything about it was checked: contributors, their signatures, and the log."""
        grant, followed = checked.grant, checked.followed
        name = manifest_digest(manifest)
        logged = followed.joint.get(grant.job, {"manifest": "", "contributions": {}, "total": ""})
        contributions = []
        for signed, who in zip(decode(tuple[Signed, ...], item["contributions"]), manifest.contributors, strict=True):
            key = key_in_force(followed, checked.agreement, who)
            contribution = decode(JointContribution, verify_document(signed, "joint-contribution", who, key))
            if (contribution.job, contribution.manifest) != (grant.job, name):
                raise Tampered(f"`{who}` signed for another attempt", code="joint-binding")
            if logged["contributions"].get(who) != contribution.ciphertexts:
                raise Tampered(f"the log holds other ciphertexts of `{who}`", code="not-logged")
            contributions.append(contribution)
        if (logged["manifest"], logged["total"]) != (name, item["total"]) or not item["total"]:
            raise Tampered("the log holds another total for this job", code="not-logged")
        return JointStatement(
            job=grant.job,
            grant=grant_digest(grant),
            manifest=name,
            contributions=contributions_digest(contributions),
            total=str(item["total"]),
            sealed=None,
            withheld="aborted",
            statistics=grant.statistics,
            loss=grant.loss,
        )

    def _decrypted(self, checked: Checked, manifest: JointManifest, abort: JointStatement, total: bytes) -> None:
        """Open the total in a child process and keep what is to be stated; the statement of an abort stands until then."""
        home, grant = self.client.home, checked.grant
        try:
            with self._files(total) as (path, _):
                found = self.child.ask(
                    {
                        "verb": "open",
                        "grant": encode(grant),
                        "manifest": encode(manifest),
                        "agreement": agreement_document(checked.agreement),
                        "total": abort.total,
                    },
                    {TOTAL: path, SECRET: home.folder / _secret_file(grant.job)},
                )
        except SandboxError as error:
            home.note("error", code=error.code, message="the opening ended without a release")
            return
        home.note("decrypted", job=grant.job, total=abort.total, isolation=" ".join(self.child.layers))
        sealed = found["sealed"]
        fields = {"sealed": digest_bytes(bytes.fromhex(sealed)), "withheld": None} if sealed else {"withheld": found["withheld"]}
        home.write(_opened_file(grant.job), {"statement": encode(abort) | fields, "sealed": sealed or ""})

    def _destroy(self, job: str) -> None:
        """Overwrite and remove the job's secret key. A file system that copies on write, or a backup, may still have it."""
        path = self.client.home.folder / _secret_file(job)
        with suppress(FileNotFoundError):
            size = path.stat().st_size
            with path.open("r+b") as file:
                file.write(bytes(size))
                file.flush()
                os.fsync(file.fileno())
            path.unlink()


def _attempt_file(job: str) -> str:
    return f"joint/{job}.attempt.json"


def _secret_file(job: str) -> str:
    return f"joint/{job}{SUFFIX}"


def _public_file(job: str) -> str:
    return f"joint/{job}.public"


def _opened_file(job: str) -> str:
    return f"joint/{job}.opened.json"
