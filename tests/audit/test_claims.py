"""Processes that share out a log claim each bundle once, and one that dies holds nobody up."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
from multiprocessing.connection import Connection
from typing import Any

import pytest

from sandbox.audit.claims import Claims

BUNDLES = 400
FORK: Any = multiprocessing.get_context("fork")


def claim(claims: Claims, most: int, sender: Connection[Any, Any]) -> None:
    """Go over all bundles and send what was claimed."""
    at, own = 0, []
    while at < BUNDLES:
        end, mine = claims.take(at, min(most, BUNDLES - at))
        own += list(range(at, end)) if mine else []
        at = end
    sender.send(own)


def test_every_bundle_is_claimed_once() -> None:
    with Claims() as claims:
        pipes = [FORK.Pipe(duplex=False) for _ in range(4)]
        processes = [FORK.Process(target=claim, args=(claims, most, sender)) for most, (_, sender) in enumerate(pipes, start=1)]
        for process in processes:
            process.start()
        claimed = [bundle for receiver, _ in pipes for bundle in receiver.recv()]
        for process in processes:
            process.join()
    assert sorted(claimed) == list(range(BUNDLES))


def test_who_stands_behind_is_told_how_far_it_may_go() -> None:
    with Claims() as claims:
        assert claims.take(0, 5) == (5, True)
        assert claims.take(0, 5) == (5, False)
        assert claims.take(3, 1) == (5, False)
        assert claims.take(5, 2) == (7, True)
        with pytest.raises(AssertionError):
            claims.take(9, 1)


def test_a_process_that_dies_while_it_claims_holds_nobody_up() -> None:
    def die(claims: Claims) -> None:
        fcntl.lockf(claims._file.fileno(), fcntl.LOCK_EX)
        os._exit(9)

    with Claims() as claims:
        process = FORK.Process(target=die, args=(claims,))
        process.start()
        process.join()
        assert claims.take(0, 1) == (1, True)
