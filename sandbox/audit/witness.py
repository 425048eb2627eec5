"""What a witness decides (C2SP tlog-witness, add-checkpoint). Pure: who keeps the newest checkpoint and signs passes it in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from policies.errors import Malformed, Tampered
from sandbox.audit.checkpoint import Checkpoint, LogKey, decode_base64, encode_base64, open_note, parse_text, signature_lines
from sandbox.audit.merkle import HASH_BYTES, verify_consistency

MAX_PROOF = 63
MAX_REQUEST = 128 * 1024
_OLD = re.compile(r"old (0|[1-9][0-9]{0,18})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """A parsed request: a checkpoint, and the proof that it extends the tree of size `old`."""

    old: int
    proof: tuple[bytes, ...]
    note: str

    def render(self) -> str:
        """The body of the request."""
        return "".join([f"old {self.old}\n", *(f"{encode_base64(item)}\n" for item in self.proof), "\n", self.note])


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the witness answers.

    Attributes:
        status: HTTP status; 200 means that `checkpoint` is to be kept and the note's `text` cosigned.
        body: of any other answer.
        conflict: whether the log signed two histories: worth keeping the request, for it proves so.
    """

    status: int
    body: str = ""
    checkpoint: Checkpoint | None = None
    text: str = ""
    conflict: bool = False


def parse_submission(body: str) -> Submission:
    """Parse the body of add-checkpoint. Raises Malformed (code "submission")."""
    head, separator, note = body.partition("\n\n")
    lines = head.split("\n")
    match = _OLD.fullmatch(lines[0])
    if not separator or match is None or len(lines) - 1 > MAX_PROOF:
        raise Malformed(f"a submission is `old SIZE`, up to {MAX_PROOF} hashes, an empty line and a checkpoint", code="submission")
    proof = tuple(decode_base64(line, "submission") for line in lines[1:])
    if any(len(item) != HASH_BYTES for item in proof):
        raise Malformed(f"a hash of the proof has {HASH_BYTES} bytes", code="submission")
    return Submission(old=int(match[1]), proof=proof, note=note)


def judge_submission(body: str, logs: Mapping[str, Sequence[LogKey]], newest: Mapping[str, Checkpoint]) -> Answer:
    """Decide on a submission.

    Args:
        logs: trusted keys by origin.
        newest: by origin, the newest checkpoint that this witness has cosigned.
    """
    try:
        submission = parse_submission(body)
        text, _ = signature_lines(submission.note)
        origin = text.partition("\n")[0]
        if origin not in logs:
            return Answer(status=404, body="this witness does not know the log\n")
        if not _is_signed(submission.note, logs[origin]):
            return Answer(status=403, body="the checkpoint is not signed by a trusted key of the log\n")
        checkpoint = parse_text(text, origin)
    except (Malformed, Tampered) as error:
        return Answer(status=400, body=f"{error}\n")
    return _compare(submission, checkpoint, text, newest.get(origin))


def _compare(submission: Submission, checkpoint: Checkpoint, text: str, kept: Checkpoint | None) -> Answer:
    seen = 0 if kept is None else kept.size
    if submission.old > checkpoint.size:
        return Answer(status=400, body="the old size is above the checkpoint's\n")
    if submission.old != seen:
        forked = kept is not None and checkpoint.size == kept.size and checkpoint.root != kept.root
        return Answer(status=409, body=f"{seen}\n", conflict=forked)
    if kept is not None and checkpoint.size == kept.size and checkpoint.root != kept.root:
        return Answer(status=409, body=f"{seen}\n", conflict=True)
    if not submission.old and submission.proof:
        return Answer(status=422, body="a proof from the empty tree is empty\n")
    try:
        if kept is not None and kept.size:
            verify_consistency(kept.size, kept.root, checkpoint.size, checkpoint.root, submission.proof)
    except Tampered as error:
        return Answer(status=422, body=f"{error}\n", conflict=True)
    return Answer(status=200, checkpoint=checkpoint, text=text)


def _is_signed(note: str, keys: Sequence[LogKey]) -> bool:
    for key in keys:
        try:
            open_note(note, key)
        except Tampered:
            continue
        return True
    return False
