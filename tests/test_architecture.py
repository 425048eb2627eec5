"""The house: imports point left, each heavy library has one owner, the law is pure, names keep to the glossary."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("policies", "enclaves", "sandbox")

LAYERS = [
    ("policies",),
    ("enclaves/kit",),
    ("enclaves", "sandbox/audit"),
    ("sandbox/party", "sandbox/config", "sandbox/logs", "sandbox/host", "sandbox/exchange", "sandbox/jobs"),
    ("sandbox/store", "sandbox/web", "sandbox/cli", "sandbox/demo", "sandbox/__main__"),
    ("app",),
]
"""From left to right; a module may import modules of its own layer and of those to its left."""

ENCLAVE_SEAM = {"enclaves/attesters"}
"""What the host may import of the inside besides the kit: the devices that enclaves cannot reach themselves."""

OWNERS = {
    "sqlglot": ("policies/plan", "policies/sql"),
    "orjson": ("policies/canonical",),
    "pyarrow": (
        "enclaves/kit",
        "enclaves/learn/release",
        "enclaves/aggregate",
        "enclaves/lines",
        "enclaves/preload",
        "enclaves/parts",
    ),
    "duckdb": ("enclaves/kit",),
    "tenseal": ("enclaves/kit",),
    "Crypto": ("enclaves/kit",),
    "cryptography": ("enclaves/kit",),
    "cbor2": ("enclaves/kit/attestation/nitro", "enclaves/attesters"),
    "dcap_qvl": ("enclaves/kit/attestation/collateral",),
    "pkcs11": ("sandbox/party/token",),
    "opendp": ("enclaves/dp",),
    "numpy": (
        "enclaves/dp",
        "enclaves/learn",
        "enclaves/kit/artefact",
        "enclaves/kit/arrays",
        "enclaves/kit/prepared",
        "enclaves/kit/he",
        "enclaves/lookups",
        "enclaves/pairs",
        "enclaves/bounded",
        "enclaves/lines",
        "enclaves/joint",
    ),
    "onnx": ("enclaves/kit/artefact",),
    "onnxruntime": ("enclaves/kit/artefact",),
    "sqlalchemy": ("sandbox/store",),
    "alembic": ("sandbox/store",),
    "prometheus_client": ("sandbox/web/metrics",),
    "gunicorn": ("sandbox/web/server_log", "sandbox/web/server", "sandbox/web/server_worker"),
    "flask": ("sandbox/web", "app"),
    "werkzeug": ("sandbox/web",),
    "pydantic": ("sandbox/web",),
    "huey": ("sandbox/jobs/queue",),
    "redis": ("sandbox/jobs/queue",),
    "click": ("sandbox/cli",),
    "rich": ("sandbox/cli", "sandbox/demo"),
    "requests": ("sandbox/party/connection", "sandbox/party/cosigning", "sandbox/demo/stage"),
    "rdflib": ("sandbox/audit/odrl_suite",),
    "yaml": ("sandbox/party/forms", "sandbox/party/term_forms"),
}

IMPURE = {"os", "time", "random", "secrets", "socket", "pathlib", "subprocess", "threading", "io", "tempfile", "sqlite3", "logging"}


def modules() -> Iterator[tuple[str, ast.Module]]:
    """(path without suffix, syntax tree) of every module of the product."""
    for path in sorted([*(p for package in PACKAGES for p in (ROOT / package).rglob("*.py")), ROOT / "app.py"]):
        name = path.relative_to(ROOT).with_suffix("").as_posix().removesuffix("/__init__")
        yield name, ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.Module) -> Iterator[str]:
    """Imported module names, without those that only the type checker sees."""
    hidden = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and isinstance(branch.test, ast.Name) and branch.test.id == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(path: str) -> int | None:
    """Index of the layer that holds `path`, the longest prefix deciding."""
    found = [
        (len(prefix), index)
        for index, prefixes in enumerate(LAYERS)
        for prefix in prefixes
        if path == prefix or path.startswith(prefix + "/")
    ]
    return max(found)[1] if found else None


def test_every_module_is_in_a_room() -> None:
    homeless = [name for name, _ in modules() if name not in ("sandbox", "enclaves") and layer(name) is None]
    assert not homeless


def test_imports_point_left() -> None:
    wrong = [
        f"{name} imports {target}"
        for name, tree in modules()
        for target in imports(tree)
        if target.partition(".")[0] in PACKAGES
        and name not in ("sandbox/cli/composing",)
        and (there := layer(target.replace(".", "/"))) is not None
        and (here := layer(name)) is not None
        and there > here
    ]
    assert not wrong


def test_commands_reach_the_composition_root_in_one_place() -> None:
    users = {name for name, tree in modules() for target in imports(tree) if target == "app"}
    assert users <= {"sandbox/cli/composing"}


def test_the_enclave_imports_nothing_of_the_host() -> None:
    wrong = [
        name for name, tree in modules() if name.startswith(("enclaves", "policies")) for t in imports(tree) if t.startswith("sandbox")
    ]
    assert not wrong


def test_the_host_reaches_the_inside_only_through_the_kit_and_the_pipe() -> None:
    wrong = {
        f"{name} imports {target}"
        for name, tree in modules()
        if name.startswith("sandbox")
        for target in imports(tree)
        if target.startswith("enclaves.")
        and not target.startswith("enclaves.kit")
        and not any(target.replace(".", "/").startswith(seam) for seam in ENCLAVE_SEAM)
    }
    assert not wrong


def test_a_participant_runs_no_host_code_but_audit() -> None:
    wrong = [
        f"{name} imports {target}"
        for name, tree in modules()
        if name.startswith("sandbox/party")
        for target in imports(tree)
        if target.startswith("sandbox.") and not target.startswith(("sandbox.party", "sandbox.audit"))
    ]
    assert not wrong


def test_each_heavy_library_has_one_owner() -> None:
    wrong = [
        f"{name} imports {target}"
        for name, tree in modules()
        for target in imports(tree)
        if (owners := OWNERS.get(target.partition(".")[0])) is not None and not name.startswith(owners)
    ]
    assert not wrong


def test_the_law_has_no_io_no_clock_no_randomness() -> None:
    wrong = [
        f"{name} uses {target}"
        for name, tree in modules()
        if name.startswith("policies")
        for target in imports(tree)
        if target.partition(".")[0] in IMPURE
    ]
    calls = [
        f"{name} calls {node.func.id}"
        for name, tree in modules()
        if name.startswith("policies")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("open", "print", "input", "eval", "exec")
    ]
    clocks = [
        f"{name} reads a clock"
        for name, tree in modules()
        if name.startswith("policies")
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in ("now", "utcnow", "today")
        and isinstance(node.value, ast.Name)
        and node.value.id in ("datetime", "date")
    ]
    assert not wrong + calls + clocks


def test_the_enclave_does_not_load_a_sql_parser_or_a_web_framework() -> None:
    code = (
        "import sys; import enclaves.main, enclaves.run, enclaves.evidence; "
        "print(sorted(m for m in ('sqlglot', 'flask', 'sqlalchemy', 'requests', 'sandbox') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_what_starts_often_loads_no_library_that_it_seldom_needs() -> None:
    """A participant's command, and a process of the service: each library below costs more than everything else they load."""
    code = (
        "import sys; import sandbox.party.client; "
        "client = [m for m in ('sqlglot', 'pyarrow', 'numpy', 'duckdb', 'tenseal', 'sqlalchemy') if m in sys.modules]; "
        "import app; print(client, [m for m in ('pyarrow', 'numpy', 'duckdb', 'tenseal', 'alembic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[] []"


@pytest.mark.parametrize("name", [name.replace("/", ".") for name, _ in modules() if name != "sandbox/__main__"])
def test_importing_a_module_does_nothing(name: str) -> None:
    """No thread, no output, no file: checked on the syntax tree for calls at module level that are not definitions."""
    path = ROOT / (name.replace(".", "/"))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    tree = ast.parse(file.read_text(encoding="utf-8"))
    allowed = re.compile(
        r"(cli|party|log|audit|witness|receipt|job|model|offer|agreement|admin|enclave)\.add_command|dp\.enable_features|cli\.add_command"
    )
    loose = [
        ast.unparse(node)
        for node in tree.body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and not allowed.match(ast.unparse(node))
    ]
    assert not loose


def test_functions_and_modules_stay_readable() -> None:
    long_functions = [
        f"{name}:{node.lineno} {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for name, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.end_lineno is not None and node.end_lineno - node.lineno + 1 > 60
    ]
    long_modules = [
        str(path) for package in PACKAGES for path in (ROOT / package).rglob("*.py") if len(path.read_text().splitlines()) > 420
    ]
    assert not long_functions + long_modules


def test_every_public_function_says_what_it_does() -> None:
    silent = [
        f"{name}:{node.lineno} {node.name}"
        for name, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        and not node.name.startswith("_")
        and ast.get_docstring(node) is None
        and not _is_nested(tree, node)
    ]
    assert not silent


def _is_nested(tree: ast.Module, wanted: ast.AST) -> bool:
    return any(
        wanted is inner for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for inner in ast.walk(node) if inner is not node
    ) or any(
        wanted in node.body and (node.name.startswith("_") or any(isinstance(base, ast.Attribute) for base in node.bases))
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    )


def test_avoided_words_name_nothing() -> None:
    avoided = re.compile(r"(manager|helper|utils?|tenant)", re.I)
    named = [
        f"{name}:{node.name}"
        for name, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and avoided.search(node.name)
    ]
    assert not named + [name for name, _ in modules() if avoided.search(name)]


def test_no_path_of_a_machine_and_no_open_end_in_the_tree() -> None:
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    bad = re.compile(r"(^|[^\w.])/(work|farm|root|home/\w+)/|\bTODO\b|\bFIXME\b|NotImplementedError")
    found = []
    for name in listed.stdout.split():
        path = ROOT / name
        if path.suffix in (".py", ".md", ".yaml", ".toml", ".txt") and path.is_file() and path.name != "test_architecture.py":
            found += [f"{name}:{n}" for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if bad.search(line)]
    assert not found
