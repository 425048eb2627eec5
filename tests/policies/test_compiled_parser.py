"""The parser's compiled form: the same plans as its source, within the stack, and no query that takes forever."""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlglot.parser

from policies.errors import Malformed
from policies.query import MAX_SQL
from policies.sql.text import MAX_JOIN_WORDS, parse_select
from sandbox.party.checking import statements

ROOT = Path(__file__).parents[2]
CORPUS = Path(__file__).parent / "corpus"
COMPILED = not str(sqlglot.parser.__file__).endswith(".py")
STACK = 4 << 20
"""Bytes: half of what a thread has where nothing else is said."""

READ = """
import json, sys
if sys.argv[1] == "source":
    from importlib.machinery import FileFinder, SourceFileLoader, SOURCE_SUFFIXES
    of_source = FileFinder.path_hook((SourceFileLoader, SOURCE_SUFFIXES))
    def hook(path):
        if "sqlglot" not in path:
            raise ImportError
        return of_source(path)
    sys.path_hooks.insert(0, hook)
import sqlglot.parser
from policies.canonical import digest
from policies.codec import encode
from policies.errors import Malformed
from policies.plan import parse_plan
from tests.support.sql import declarations
DECLARATIONS = declarations()
def read(sql):
    try:
        return digest(encode(parse_plan(sql, DECLARATIONS)))
    except Malformed as error:
        return [error.code, error.message, error.where]
texts = json.load(sys.stdin)
print(json.dumps([sqlglot.parser.__file__, [read(sql) for sql in texts]]))
"""
DEEP = {
    "not": "NOT ", "negative": "- ", "case": "CASE WHEN ", "case of case": "CASE ", "else": "CASE WHEN a THEN 1 ELSE ", "if": "IF ",
    "from": "FROM ", "interval": "INTERVAL ", "any": "ANY ", "types": "ARRAY<", "array": "ARRAY ", "at": "@",
    "describe": "DESCRIBE ", "summarize": "SUMMARIZE ", "equals not": "a = NOT ", "dots": "a.", "lambda": "x -> ", "select": "SELECT ",
    "with": "WITH a AS ", "explain": "EXPLAIN ", "lateral": "LATERAL ", "exists": "EXISTS ",
}  # fmt: skip
"""What the parser descends into once more each time that it stands there."""

needs_compiled = pytest.mark.skipif(not COMPILED, reason="pip install -r requirements.txt: the parser is not compiled here")


def _child(code: str, texts: list[str], *arguments: str, stack: int | None = None) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        if stack is not None:
            resource.setrlimit(resource.RLIMIT_STACK, (stack, resource.getrlimit(resource.RLIMIT_STACK)[1]))

    return subprocess.run(
        [sys.executable, "-c", code, *arguments], input=json.dumps(texts), capture_output=True, text=True, cwd=ROOT, preexec_fn=limit
    )


@needs_compiled
def test_the_compiled_parser_reads_the_corpus_as_its_source_does() -> None:
    texts = [sql for name in ("accepted.sql", "refused.sql") for sql in statements((CORPUS / name).read_text())]
    assert len(texts) > 90
    source, own = (json.loads(_child(READ, texts, form).stdout) for form in ("source", "compiled"))
    assert source[0].endswith(".py")
    assert not own[0].endswith(".py")
    assert source[1] == own[1]
    assert sum(isinstance(found, str) for found in own[1]) > 30


def _deep_texts() -> list[str]:
    """Texts of the longest length that descend again and again, by one construct and by several."""
    draw, parts = random.Random(1), list(DEEP.values())
    runs = [[part] for part in parts] + [draw.sample(parts, draw.randint(2, 4)) for _ in range(20)]
    return [("SELECT " * (run[0] != DEEP["from"]) + "".join(run) * MAX_SQL)[:MAX_SQL] for run in runs]


@needs_compiled
def test_the_deepest_texts_leave_half_of_a_usual_stack() -> None:
    code = (
        "import json, sys\nfrom policies.errors import Malformed\nfrom policies.sql.text import parse_select\n"
        "for number, sql in enumerate(json.load(sys.stdin)):\n    try:\n        parse_select(sql)\n    except Malformed:\n        pass\n"
        "    print(number, flush=True)"
    )
    texts = _deep_texts()
    found = _child(code, texts, stack=STACK)
    assert (found.returncode, found.stdout.split()) == (0, [str(number) for number in range(len(texts))]), found.stderr[-500:]


@pytest.mark.parametrize(
    "word", ["JOIN t ", "left join t ", "join\nt ", "/**/JOIN/**/t ", "INNER JOIN t ", "FULL OUTER JOIN t ", "straight_join t "]
)
def test_joins_that_would_double_the_work_again_and_again_are_refused(word: str) -> None:
    started = time.process_time()
    for times in (MAX_JOIN_WORDS + 1, (MAX_SQL - 100) // len(word)):
        with pytest.raises(Malformed, match="JOIN more than"):
            parse_select("SELECT COUNT(*) FROM t " + word * times)
    assert time.process_time() - started < 1
    parse_select("SELECT COUNT(*) FROM t " + "JOIN t USING (a) " * MAX_JOIN_WORDS)
    parse_select("SELECT joins, join_, a_join FROM t " * 1 + "WHERE joined = 1 " + "AND joined = 2 " * 30)
