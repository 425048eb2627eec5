"""A participant's part in joint totals, at home: contributing, and holding the key. Both decide again before they do anything.

Durable order of a contributor: ciphertexts kept -> sent; the same attempt gets the same bytes. Of a key holder: key kept -> manifest sent;
the opening marked -> decrypted -> statement kept and key destroyed -> sent. A total whose opening was marked and not finished is aborted:
nothing is decrypted twice, and no second total of a job is opened.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from enclaves.kit.child import PUBLIC, SECRET, TOTAL, Child
from enclaves.kit.envelope import Signed, verify_document
from enclaves.kit.he import generate_key
from enclaves.kit.he_masks import mask_keys
from policies.agreement import Agreement
from policies.canonical import digest_bytes
from policies.codec import decode, encode
from policies.errors import NotFound, PolicyRefused, SandboxError, Tampered, Unavailable
from policies.grant import grant_digest
from policies.joint_documents import JointContribution, JointManifest, JointStatement, contributions_digest, manifest_digest
from policies.joint_grant import JointGrant
from policies.names import require_slug
from policies.odrl import agreement_document
from sandbox.party.deciding import require_decided, require_logged
from sandbox.party.followed import Followed
from sandbox.party.joint_client import JointClient

RETRY_S = 1.0
SUFFIX = ".secret"

_UNUSABLE = (KeyError, TypeError, ValueError, AttributeError)
"""What an answer of the service of any shape may raise; none may end a participant's process."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """A joint total that this participant decided again and allows."""

    grant: JointGrant
    agreement: Agreement
    followed: Followed


@dataclass
class JointPart:
    """What contributors and key holders have in common."""

    client: JointClient
    now: Callable[[], float] = time.time
    progress: Callable[[str, int, int], None] = lambda what, done, of: None
    child: Child = field(default_factory=Child)

    tasks = frozenset[str]()

    def serve(self, stopping: Callable[[], bool] = lambda: False, poll_s: float = 0.2) -> None:
        """Do what waits until told to stop; a service that cannot be reached is waited for, what goes wrong stands in the journal.

        A child process stands ready for the next computation.
        """
        try:
            while not stopping():
                self._turn(poll_s)
        finally:
            self.child.close()

    def _turn(self, poll_s: float) -> None:
        self.child.ready()
        try:
            self.step()
        except (SandboxError, *_UNUSABLE) as error:
            code = error.code if isinstance(error, SandboxError) else "malformed-answer"
            if code != "unreachable":
                told = str(error) if isinstance(error, SandboxError) else type(error).__name__
                self.client.home.note("error", code=code, message=told)
            time.sleep(RETRY_S)
        time.sleep(poll_s)

    def step(self) -> int:
        """Do everything that waits once; returns how much that was. The first failure is raised after all were tried."""
        mine, failures = [item for item in self.client.joint_totals() if item["task"] in self.tasks], list[Exception]()
        for item in mine:
            try:
                self._one(item)
            except (SandboxError, *_UNUSABLE) as error:
                if isinstance(error, Unavailable) and error.code in ("unreachable", "home"):
                    raise
                failures.append(error)
        if failures:
            raise failures[0]
        return len(mine)

    def _one(self, item: dict[str, Any]) -> None:
        job = item["job"]
        grant = decode(JointGrant, job["grant"])
        if grant.job != require_slug(str(job["id"]), "job"):
            raise Tampered("the grant is for another job", code="grant-job")
        with self.client.home.locked("joint"):
            self._do(item, grant)

    def _do(self, item: dict[str, Any], grant: JointGrant) -> None:
        """Do one thing that waits."""

    def _checked(self, item: dict[str, Any], grant: JointGrant) -> Checked:
        agreement, followed = self.client.followed_agreement(grant.agreement)
        require_logged(grant, followed)
        require_decided(self.client.home, item["job"], grant, agreement, followed, self.now())
        return Checked(grant=grant, agreement=agreement, followed=followed)

    @contextmanager
    def _files(self, *contents: bytes) -> Iterator[list[Path]]:
        """Private files for a child process, gone afterwards; one more for what it writes."""
        with tempfile.TemporaryDirectory(prefix="joint-", dir=self.client.home.folder) as folder:
            paths = [Path(folder) / str(index) for index in range(len(contents) + 1)]
            for path, content in zip(paths, contents, strict=False):
                path.write_bytes(content)
            yield paths


def require_manifest(manifest: JointManifest, grant: JointGrant) -> None:
    """Raise PolicyRefused (code `joint-manifest`) unless an attempt is one that the agreement allows."""
    pool = grant.pool
    own = tuple(name for name in pool.contributors if name in manifest.contributors)
    most = len(pool.members) - pool.fewest + 1 if pool.dropout == "rerun" else 1
    complete = len(own) == len(pool.members) or (pool.dropout == "rerun" and manifest.attempt > 1)
    fits = (manifest.job, manifest.grant, manifest.contributors) == (grant.job, grant_digest(grant), own)
    if not fits or not complete or len(own) < pool.fewest or manifest.attempt > most:
        raise PolicyRefused("the attempt is not one that the agreement allows", code="joint-manifest")


@dataclass
class Contributor(JointPart):
    """Contributes this participant's rows to joint totals.

    Attributes:
        tables: by dataset, the local file and its columns' names in it where they differ from the declared ones. Nothing of it is sent
            but encrypted, bounded, masked totals.
        child: reads files of this participant's own, by their paths, and one public key of fixed shape; it may start processes to encrypt
            on several cores, and so has no walls.
    """

    tables: Mapping[str, tuple[Path, Mapping[str, str]]] = field(default_factory=dict)
    child: Child = field(default_factory=lambda: Child(walled=False))

    tasks = frozenset({"contribution"})

    def _do(self, item: dict[str, Any], grant: JointGrant) -> None:
        client, me = self.client, self.client.home.participant
        checked = self._checked(item, grant)
        member = grant.pool.member_of(me)
        if member not in self.tables:
            raise NotFound(f"no file is named for `{member}`", code="no-table")
        manifest = self._manifest(item, checked)
        kept = f"joint/{grant.job}.{manifest.attempt}.bin"
        data = client.home.read_bytes(kept) if (client.home.folder / kept).is_file() else self._computed(checked, manifest, member)
        client.home.write_bytes(kept, data)
        name = client.add_file(grant.job, data, lambda sent: self.progress("sending", sent, len(data)))
        client.send_contribution(JointContribution(job=grant.job, manifest=manifest_digest(manifest), ciphertexts=name))
        client.home.note("contributed", job=grant.job, attempt=manifest.attempt, ciphertexts=name)
        (client.home.folder / kept).unlink(missing_ok=True)

    def _manifest(self, item: dict[str, Any], checked: Checked) -> JointManifest:
        """The attempt, as its key holder signed it and as the log records it."""
        grant, followed = checked.grant, checked.followed
        holder = checked.agreement.party(grant.pool.key_holder)
        signed = decode(Signed, item["manifest"])
        manifest = decode(
            JointManifest, verify_document(signed, "joint-manifest", holder.id, _key_now(followed, checked.agreement, holder.id))
        )
        require_manifest(manifest, grant)
        if self.client.home.participant not in manifest.contributors:
            raise PolicyRefused("this attempt does not want this contributor", code="joint-manifest")
        if followed.joint.get(grant.job, {}).get("manifest") != manifest_digest(manifest):
            raise Tampered("the log holds another key for this job", code="not-logged")
        return manifest

    def _computed(self, checked: Checked, manifest: JointManifest, member: str) -> bytes:
        grant, agreement, home = checked.grant, checked.agreement, self.client.home
        me = home.participant
        self.progress("encrypting", 0, 0)
        public = self.client.joint_file(grant.job, manifest.public_key)
        peers = {name: agreement.party(name).sealing_key for name in manifest.contributors if name != me}
        masks = mask_keys(home.sealing_of(agreement.party(me).sealing_key), me, peers, manifest_digest(manifest))
        path, sources = self.tables[member]
        with self._files(public) as (key, output):
            found = self.child.ask(
                {
                    "verb": "contribute",
                    "grant": encode(grant),
                    "manifest": encode(manifest),
                    "agreement": agreement_document(agreement),
                    "member": member,
                    "data": str(path.resolve()),
                    "sources": dict(sources),
                    "masks": [{"key": mask.key.hex(), "adds": mask.adds} for mask in masks],
                },
                {PUBLIC: key},
                output,
            )
            data = output.read_bytes()
        if found["digest"] != digest_bytes(data):
            raise Tampered("the ciphertexts changed on their way", code="upload-digest")
        return data


@dataclass
class KeyHolder(JointPart):
    """Makes a fresh key per attempt, opens one total per job, and destroys the key."""

    tasks = frozenset({"key", "opening"})

    def step(self) -> int:
        """As of every part; besides, the keys of jobs that have ended without an opening are destroyed."""
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
            key = _key_now(followed, checked.agreement, who)
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


def _key_now(followed: Followed, agreement: Agreement, name: str) -> str:
    """The signing key of a party in force. Raises PolicyRefused (code `party-revoked`)."""
    key = followed.keyring.signing_key(agreement.party(name).signing_key)
    if key is None:
        raise PolicyRefused(f"the keys of `{name}` were revoked", code="party-revoked")
    return key


def _attempt_file(job: str) -> str:
    return f"joint/{job}.attempt.json"


def _secret_file(job: str) -> str:
    return f"joint/{job}{SUFFIX}"


def _public_file(job: str) -> str:
    return f"joint/{job}.public"


def _opened_file(job: str) -> str:
    return f"joint/{job}.opened.json"
