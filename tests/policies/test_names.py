"""Names can never be a path, a quote, a control character or a look-alike."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.errors import Malformed
from policies.names import (
    require_dataset,
    require_digest,
    require_key,
    require_name,
    require_request_id,
    require_slug,
)

ATTACKS = [
    "",
    " ",
    "..",
    "../etc/passwd",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "a:b",
    "a'b",
    'a"b',
    "a;b",
    "a b",
    " a",
    "a ",
    "a\n",
    "a\x00",
    "a\x1b[31m",
    "a\x7f",
    "a\u0085",
    "a\u202eb",
    "\u0430bc",  # Cyrillic a
    "insur\u0435r",
    "\uff41bc",  # full-width a
    "a\u0301",
    "a\u200b",
    "caf\u00e9",
    "a\u0661",  # Arabic digit
    "A",
    "aB",
    "_a",
    "1a",
    "-a",
    "%2e%2e",
    "a%",
    "a*",
    "a.b.c",
    "a..b",
    ".a",
    "a.",
    "x" * 100_000,
]


@pytest.mark.parametrize("require", [require_name, require_slug, require_dataset, require_digest, require_key])
@pytest.mark.parametrize("text", ATTACKS, ids=lambda text: ascii(text[:20]))
def test_hostile_name_is_refused_with_a_printable_message(require: Callable[[str, str], str], text: str) -> None:
    with pytest.raises(Malformed) as refused:
        require(text, "field")
    assert refused.value.where == "field"
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("require", "longest", "too_long"),
    [
        (require_name, "a" * 40, "a" * 41),
        (require_slug, "a" * 60, "a" * 61),
        (require_dataset, "a" * 40 + "." + "b" * 40, "a." + "b" * 41),
        (require_request_id, "a" * 64, "a" * 65),
        (require_request_id, "a" * 8, "a" * 7),
        (require_key, "0f" * 32, "0f" * 33),
        (require_key, "0f" * 32, "0F" * 32),
        (require_key, "0f" * 32, "0f" * 31),
        (require_digest, "sha256:" + "0f" * 32, "sha256:" + "0f" * 31),
        (require_digest, "sha256:" + "0f" * 32, "sha256:" + "0F" * 32),
        (require_digest, "sha256:" + "0f" * 32, "SHA256:" + "0f" * 32),
        (require_digest, "sha256:" + "0f" * 32, "sha256:" + "0f" * 32 + "\n"),
        (require_dataset, "clinic.care", "clinic"),
        (require_dataset, "clinic.care", "clinic.care.visits"),
        (require_name, "a_1", "a-1"),
        (require_slug, "a-1_b", "a.1"),
        (require_request_id, "Job_2026-01", "-ob_2026-01"),
        (require_request_id, "Job_2026-01", "Job 2026-01"),
        (require_request_id, "Job_2026-01", "../../../../x"),
        (require_request_id, "Job_2026-01", "Job_2026-0\u0661"),
    ],
)
def test_limits_are_exact(require: Callable[[str, str], str], longest: str, too_long: str) -> None:
    assert require(longest, "field") == longest
    with pytest.raises(Malformed):
        require(too_long, "field")


@given(st.text(max_size=80))
def test_whatever_passes_is_plain_ascii_without_path_or_quote(text: str) -> None:
    for require in (require_name, require_slug, require_dataset, require_request_id):
        try:
            require(text, "field")
        except Malformed:
            continue
        assert text.isascii()
        assert text.replace("_", "").replace("-", "").replace(".", "").isalnum()
        assert ".." not in text
