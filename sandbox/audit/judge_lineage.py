"""Judging new keys of the log, and the epoch with which a log opens."""

from __future__ import annotations

from dataclasses import dataclass

from enclaves.kit.lineage import verify_log_rotation
from policies.agreement import LogIdentity
from policies.canonical import digest
from policies.codec import decode, encode
from policies.lineage import Epoch, SignedLogRotation
from sandbox.audit.folds import Entry
from sandbox.audit.judge_exchange import signed_body
from sandbox.audit.noted import Noted, require_following
from sandbox.audit.state import State


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochBody:
    """The body of `epoch_opened`."""

    epoch: Epoch


def log_rotated(state: State, entry: Entry) -> None:
    """A new key of this log, signed with the key in force and with the new one. The header says all of it."""
    if entry.body is not None:
        state.require(entry, entry.body == {}, "log", "the body of `log_rotated` says something")
    rotation = verify_log_rotation(SignedLogRotation.from_ids(entry.ids))
    state.require(entry, rotation.origin == state.log.name, "log", "a key of another log is replaced")
    in_force = not state.log_keys or state.log_keys[-1] == rotation.old_key
    state.require(entry, in_force, "log", "a key of the log is replaced that is not in force")
    state.log_keys += [rotation.key] if state.log_keys else [rotation.old_key, rotation.key]


def log_noted(state: State, entry: Entry) -> None:
    """A checkpoint of another log, signed by it, that extends the one noted before. The header says all of it."""
    if entry.body is not None:
        state.require(entry, entry.body == {}, "log", "the body of `log_noted` says something")
    noted = Noted.from_ids(entry.ids)
    if not state.require(entry, noted.origin != state.log.name, "log", "a log notes its own checkpoint"):
        return
    require_following(noted, state.noted.get(noted.origin))
    state.noted[noted.origin] = noted


def epoch_opened(state: State, entry: Entry) -> None:
    """The first entry of a log that follows another: its totals are charged, and its counts counted, before anything else."""
    for loss in entry.header.losses:
        state.charge(loss, "", entry.header.at)
    state.require(entry, entry.index == 0, "log", "an epoch opens within a log")
    state.epoch_id = entry.ids["epoch"]
    if entry.body is None:
        state.waiting = state.carried = None
        state.open_with(None)
        return
    epoch = decode(EpochBody, entry.body).epoch
    log = LogIdentity(origin=entry.ids["origin"], key=entry.ids["key"])
    named = (digest(encode(epoch)), str(epoch.number), epoch.log) == (state.epoch_id, entry.ids["number"], log)
    state.require(entry, named, "log", "the header names another epoch or log than the body")
    state.require(entry, log.origin == state.log.name, "log", "the epoch opens another log")
    state.require(entry, epoch.totals == entry.header.losses, "budgets", "the header has other totals than the epoch")
    state.log_names |= set(epoch.before)
    state.log_names.add(log)
    state.waiting = set(epoch.providers)
    state.carried = {item.exchange: item.course for item in epoch.exchanges}
    state.open_with(epoch.counts)


def epoch_signed(state: State, entry: Entry) -> None:
    """A provider's signature on the epoch with which this log opens."""
    name = entry.ids["participant"]
    state.require(entry, entry.ids["epoch"] == state.epoch_id, "order", "another epoch is signed than the one that opens this log")
    if state.waiting is not None:
        state.require(entry, name in state.waiting, "order", f"`{name}` has signed the epoch already, or need not")
        state.waiting.discard(name)
    if entry.body is None:
        return
    signed = signed_body(entry)
    state.verify(entry, signed, "epoch", name)
    state.require(entry, digest(signed.body) == entry.ids["epoch"], "signatures", "the header names another epoch than was signed")
