"""The vocabulary of the profile: every term of a permission with its meaning and what enforces it. Pages, schema and tables follow from it.

No term stands here without an enforcing function, and none may stand in an agreement without standing here (tests/policies/test_terms.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from policies.odrl import OPERANDS, OPTIONAL
from policies.odrl_duties import DUTIES

Place = Literal["permission", "constraint", "duty", "tightening"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """One term.

    Attributes:
        field: of `policies.agreement.Terms`, by which tests and rules name it.
        name: as the document spells it: a left operand, an action of a duty, or a member of the permission.
        operator: of a constraint; empty elsewhere.
        value: what its right operand, or its member, holds.
        meaning: when the rule holds, for people.
        enforced: functions that hold it, `module.function`, the deciding rule first.
    """

    field: str
    name: str
    place: Place
    operator: str
    value: str
    meaning: str
    enforced: tuple[str, ...]

    @property
    def optional(self) -> bool:
        """Whether a permission may be without it."""
        return self.place in ("duty", "tightening") or self.field in OPTIONAL


_RULES, _MORE = "policies.rules", "policies.rules_conditions"

_MEANINGS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "assignees": ("list of party ids", "The consumer is one of them.", (f"{_RULES}.assignee",)),
    "columns": (
        "list of `column`, `operations` and, where they hold for some only, `recipients`",
        "Every use of every column by the plan is among the operations that hold for the recipient; a column without a term allows none.",
        (f"{_RULES}.columns", "policies.derive.derive"),
    ),
    "purposes": ("list of labels", "The request states one of them.", (f"{_RULES}.purpose",)),
    "not_before": ("UTC time", "The decision is not before it.", (f"{_RULES}.validity",)),
    "not_after": ("UTC time", "The decision is before it.", (f"{_RULES}.validity",)),
    "recipients": ("list of party ids", "The consumer is one of them.", (f"{_RULES}.recipient",)),
    "minimum_group": (
        "1 to 1000000",
        "The gate suppresses smaller cells, by a noised count of distinct units; 1 means no test.",
        (f"{_RULES}.minimum_group", "enclaves.gate.pass_gate", "enclaves.run.verify_grant"),
    ),
    "job_loss": ("a loss", "The request's loss is at most this, in the same measure.", (f"{_RULES}.job_loss",)),
    "total_loss": ("a loss", "What the ledger of the id space paid, and the request, are at most this.", (f"{_RULES}.total_loss",)),
    "consumer_loss": ("a loss", "What the ledger paid for this consumer, and the request, are at most this.", (f"{_RULES}.consumer_loss",)),
    "total_refresh": (
        "1 to 3650 days",
        "`sb:totalLoss` bounds the request and what the ledger paid in the last so many days, not all that it ever paid. "
        "No ledger ever pays more than 100.",
        (f"{_RULES}.total_loss", "policies.budgets.budgets"),
    ),
    "consumer_refresh": (
        "1 to 3650 days",
        "`sb:consumerLoss` bounds the request and what the ledger paid for this consumer in the last so many days, not what it ever paid.",
        (f"{_RULES}.consumer_loss", "policies.budgets.budgets"),
    ),
    "enclave_kinds": ("list of kinds", "The enclave's kind is listed.", (f"{_RULES}.enclave", "enclaves.kit.appraisal.appraise")),
    "measurements": ("list of digests", "The enclave's measurement is listed.", (f"{_RULES}.enclave", "enclaves.kit.appraisal.appraise")),
    "platforms": (
        "list of floors, one of a kind",
        "The firmware of the TEE shows at least these patch levels; AMD's needs a floor, Intel's must be up to date without one.",
        ("enclaves.kit.appraisal.appraise",),
    ),
    "isolation": (
        "list of layers, in order: `network`, `processes`, `filesystem`, `uid`, `capabilities`, `syscalls`, `limits`, `memory`, `pids`",
        "The enclave that would run, and the one whose evidence gets keys, is separated from its machine by every one of them.",
        (f"{_MORE}.isolation", "enclaves.kit.appraisal.appraise"),
    ),
    "uses": (
        "0 to 1000000000",
        "Jobs under the agreement that this provider's keys were granted for, with this one, are at most so many. A repeated question "
        "that is answered with its earlier release is not counted.",
        (f"{_MORE}.uses",),
    ),
    "windows": (
        "list of `days` (mon to sun), `begins` and `ends` (UTC, HH:MM)",
        "The decision falls into one of them.",
        (f"{_MORE}.windows",),
    ),
    "enclave_jurisdictions": (
        "list of ISO 3166-1 alpha-2 codes",
        "The operator states that the enclave runs in one of them. Evidence does not show where a machine stands: the statement is logged.",
        (f"{_MORE}.enclave_jurisdictions",),
    ),
    "recipient_jurisdictions": (
        "list of ISO 3166-1 alpha-2 codes",
        "The consumer, and everybody it passes the release on to, is a party whose signed `jurisdiction` is one of them.",
        (f"{_MORE}.recipient_jurisdictions",),
    ),
    "no_debug": (
        "`true`",
        "The enclave is of a kind that shows that it cannot be debugged. A simulated one does not.",
        (f"{_MORE}.no_debug",),
    ),
    "evidence_age": (
        "1 to 86400 seconds",
        "The broker seals keys only to evidence that answers a challenge at most so old.",
        (f"{_MORE}.evidence_age", "sandbox.party.broker.nonce_lifetime"),
    ),
    "pre_approved": (
        "list of digests of plans or templates",
        "The plan is one of them, or is one of them but for its constants (`sandbox policy digest`).",
        (f"{_MORE}.pre_approved",),
    ),
    "output_kinds": (
        "list of `number`, `table`, `discovered`, `model`, `scores`",
        "The release is of one of these kinds: one row; rows whose keys are public beforehand; rows whose keys were found in the data; a "
        "trained model; a model's scores of the asker's own rows.",
        (f"{_MORE}.output_kinds",),
    ),
    "output_rows": ("1 to 10000000", "The plan cannot give more rows.", (f"{_MORE}.output_rows",)),
    "output_bytes": (
        "4096 and more",
        "The gate withholds a sealed release that is larger.",
        (f"{_MORE}.output_bytes", "enclaves.run.run"),
    ),
    "scored_rows": (
        "`rows`, and `days` where only the last days count",
        "Rows that the model scored for the consumer under the agreement, with those of this call, are at most so many: as many as calls "
        "stated, in all or in any so many times 24 hours. A repeated call is not counted. It is of models in enclaves. Of encrypted rows "
        "the agreement's `sb:scorer` counts `rows` of all clients, beside `uses` and `output_rows`; where it stands they are denied.",
        (f"{_MORE}.scored_rows", "enclaves.learn.service.score"),
    ),
    "score_decimals": ("0 to 6", "Scores have at most so many decimals.", (f"{_MORE}.score_decimals", "enclaves.learn.service.score")),
    "withhold_probing": (
        "`true`",
        "The enclave withholds the scores of a call whose rows look made to copy the model.",
        (f"{_MORE}.withhold_probing", "enclaves.learn.service.score"),
    ),
    "division": (
        "`method` (`shapley` or `leave-one-out`) and `amount`, an integer",
        "A training that asks for a report on contributions divides this amount by this method. Without the term, none may ask.",
        (f"{_MORE}.division", "policies.division.contribution_of"),
    ),
    "quantum": (
        "1 to 86400 seconds",
        "The end of a run, whatever it is, is recorded and handed out only at multiples of so many seconds, or of more, after it began. "
        "A joint total, which parties add up in their own time, is denied.",
        (f"{_MORE}.quantum", "sandbox.jobs.run.quantum_of", "sandbox.audit.judge_policy.require_due"),
    ),
    "approvals": (
        "`need` and `of`, a list of party ids",
        "So many of them have signed an approval of this very request; its author is never the only one. The job waits meanwhile.",
        (f"{_MORE}.approvals", "sandbox.jobs.approve.approve"),
    ),
    "exchange_only": (
        "`true`",
        "The job is part of a leg of an exchange, asks what the leg says, and its release stays sealed until both legs are handed over.",
        (f"{_MORE}.exchange_only", "sandbox.jobs.handout.require_handed_over"),
    ),
    "payment": (
        "`sb:amount`, `sb:currency` (ISO 4217), `sb:per` (`agreement` or `job`), `sb:before`",
        "The provider has signed that it was paid: once, or once for each job of the consumer.",
        (f"{_MORE}.payment",),
    ),
    "notify": (
        "`sb:informed`, a list of party ids",
        "The transaction that stores a release gives notice of it to them.",
        (f"{_MORE}.notify", "sandbox.jobs.record.informed"),
    ),
    "attribution": (
        "`sb:text`",
        "The client shows the words with each release.",
        (f"{_MORE}.attribution", "sandbox.cli.releases.show_duties"),
    ),
    "delete_after": (
        "`sb:afterDays`",
        "After so many days the release is handed out no more, and the consumer has signed that it deleted its copy; until it has, its "
        "further requests are denied.",
        (f"{_MORE}.delete_after", "sandbox.jobs.duties.require_in_time"),
    ),
    "onward": (
        "`sb:recipients`, `sb:purposes`",
        "Every use by others that the request states is to one of the recipients for one of the purposes. Without this duty, none may be.",
        (f"{_MORE}.onward",),
    ),
    "standing": (
        "a signed tightening",
        "The provider has not revoked, ended or suspended the terms; lowered bounds replace those of the agreement.",
        (f"{_MORE}.standing", "policies.tightening.tightened", "sandbox.exchange.tightening.require_standing"),
    ),
}


def _term(field: str, name: str, place: Place, operator: str = "") -> Term:
    value, meaning, enforced = _MEANINGS[field]
    return Term(field=field, name=name, place=place, operator=operator, value=value, meaning=meaning, enforced=enforced)


TERMS: tuple[Term, ...] = (
    _term("assignees", "assignee", "permission"),
    _term("columns", "sb:column", "permission"),
    *(_term(field, left, "constraint", operator) for (left, operator), field in OPERANDS.items()),
    *(_term(field, action, "duty") for action, field in DUTIES.items()),
    _term("standing", "tightening/1", "tightening"),
)
"""Every term, in the order in which a document writes them."""
