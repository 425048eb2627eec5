"""Contributing to joint totals, at home.

Durable order: ciphertexts kept -> sent; the same attempt gets the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from enclaves.kit.child import PUBLIC, TABLE
from enclaves.kit.envelope import Signed, verify_document
from enclaves.kit.he_masks import mask_keys
from policies.canonical import digest_bytes
from policies.codec import decode, encode
from policies.errors import NotFound, PolicyRefused, Tampered, Unavailable
from policies.joint_documents import JointContribution, JointManifest, manifest_digest
from policies.joint_grant import JointGrant
from policies.odrl import agreement_document
from sandbox.party.joint import Checked, JointPart, key_in_force, require_manifest


@dataclass
class Contributor(JointPart):
    """Contributes this participant's rows to joint totals.

    Attributes:
        tables: by dataset, the local file and its columns' names in it where they differ from the declared ones. Nothing of it is sent
            but encrypted, bounded, masked totals.
    """

    tables: Mapping[str, tuple[Path, Mapping[str, str]]] = field(default_factory=dict)

    tasks = frozenset({"contribution"})
    work = "contribute"

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
            JointManifest, verify_document(signed, "joint-manifest", holder.id, key_in_force(followed, checked.agreement, holder.id))
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
        question = {
            "verb": "contribute",
            "grant": encode(grant),
            "manifest": encode(manifest),
            "agreement": agreement_document(agreement),
            "member": member,
            "table": path.name,
            "sources": dict(sources),
            "masks": [{"key": mask.key.hex(), "adds": mask.adds} for mask in masks],
        }
        try:
            with self._files(public) as (key, output):
                found = self.child.ask(question, {PUBLIC: key, TABLE: path}, output)
                data = output.read_bytes()
        except OSError as error:
            raise Unavailable(f"{path.name} cannot be read: {error.strerror}", code="no-table") from error
        if found["digest"] != digest_bytes(data):
            raise Tampered("the ciphertexts changed on their way", code="upload-digest")
        home.note("encrypted", job=grant.job, attempt=manifest.attempt, isolation=" ".join(self.child.layers))
        return data
