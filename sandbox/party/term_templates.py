"""Terms for the common cases as offer forms to look at, in English and Chinese: each asks for as little as its case needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from policies.declaration import Column, Declaration
from policies.errors import Malformed, NotFound
from policies.names import require_digest
from policies.service import MODEL_COLUMN, holds_model
from sandbox.party.forms import yaml_line

Words = Mapping[str, str]
"""A text by language: `en` and `zh`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """One case.

    Attributes:
        numbers: operations on columns with bounds; `labels`: on columns with a domain.
        terms: words of the form (sandbox/party/term_forms.py) with their values.
        fixed: whether only pre-approved queries may be asked.
        model: whether it is for the dataset of a model that stays in the enclave, instead of a table.
    """

    name: str
    title: Words
    about: Words
    numbers: tuple[str, ...]
    labels: tuple[str, ...]
    terms: Mapping[str, Any] = field(default_factory=dict)
    fixed: bool = False
    model: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What a person fills in."""

    uid: str
    consumers: tuple[str, ...]
    purposes: tuple[str, ...]
    begins: date
    ends: date
    pre_approved: tuple[str, ...] = ()


_ALL = (
    Template(
        name="aggregate-statistics",
        title={"en": "Aggregate statistics", "zh": "聚合统计"},
        about={
            "en": "Counts, sums and averages by public groups, with noise and a minimum group.",
            "zh": "按公开分组计数、求和、求平均，加噪声并设最小分组。",
        },
        numbers=("count", "sum", "avg", "filter"),
        labels=("group_by", "output", "filter", "count"),
        terms={"minimum_group": 20, "epsilon_per_job": 0.5, "epsilon_total": 3, "output_kinds": ["number", "table"]},
    ),
    Template(
        name="model-training",
        title={"en": "Model training", "zh": "模型训练"},
        about={
            "en": "Models trained inside on noised sums of whole persons; only the model leaves; approved by the provider job by job.",
            "zh": "在飞地内以按人加噪的统计量训练模型，仅释放模型；逐个任务由数据提供方批准。",
        },
        numbers=("feature", "label", "filter"),
        labels=("feature", "label", "filter"),
        terms={"minimum_group": 50, "rho_per_job": 0.2, "rho_total": 0.5, "output_kinds": ["model"], "uses": 20, "approvals": True},
    ),
    Template(
        name="model-from-moments",
        title={"en": "Models from moments", "zh": "基于矩统计的建模"},
        about={
            "en": "Means, variances and covariances, from which linear models are fitted outside; approved by the provider job by job.",
            "zh": "仅释放均值、方差与协方差，由此在外部拟合线性模型；逐个任务由数据提供方批准。",
        },
        numbers=("count", "sum", "avg", "variance", "covariance"),
        labels=("filter", "count"),
        terms={"minimum_group": 50, "rho_per_job": 0.1, "rho_total": 0.5, "output_kinds": ["number"], "uses": 50, "approvals": True},
    ),
    Template(
        name="verification-query",
        title={"en": "Verification query", "zh": "核验查询"},
        about={
            "en": "Fixed pre-approved queries that answer one number; few uses, small loss.",
            "zh": "只能提出预先批准的固定查询，仅返回一个数值；次数少、隐私损耗小。",
        },
        numbers=("count", "filter"),
        labels=("filter", "count"),
        terms={"minimum_group": 20, "epsilon_per_job": 0.1, "epsilon_total": 1, "output_kinds": ["number"], "output_rows": 1, "uses": 100},
        fixed=True,
    ),
    Template(
        name="scoring-service",
        title={"en": "Scoring service", "zh": "评分服务"},
        about={
            "en": "A model stays in the enclave and scores rows of the asker's own: a quota of rows, rounded scores, paid call by call.",
            "zh": "模型留在飞地内，只为请求方自己的数据评分：限定行数、分值取整、按次付费。",
        },
        numbers=(),
        labels=(),
        terms={
            "minimum_group": 1,
            "scored_rows": {"rows": 10000, "days": 30},
            "score_decimals": 2,
            "withhold_probing": True,
            "uses": 200,
            "pay": {"amount": "100", "currency": "CNY", "per": "job"},
            "windows": [{"days": ["mon", "tue", "wed", "thu", "fri"], "begins": "00:00", "ends": "12:00"}],
        },
        model=True,
    ),
    Template(
        name="report",
        title={"en": "Analysis report", "zh": "数据分析报告"},
        about={
            "en": "Fixed tables with attribution, deleted after 180 days.",
            "zh": "固定表格的分析报告，须注明数据来源，180 天后删除。",
        },
        numbers=("count", "sum", "avg", "quantile"),
        labels=("group_by", "output", "filter"),
        terms={
            "minimum_group": 30,
            "epsilon_per_job": 1,
            "epsilon_total": 4,
            "output_kinds": ["table"],
            "output_rows": 1000,
            "delete_after_days": 180,
            "attribution": True,
        },
        fixed=True,
    ),
    Template(
        name="public-data",
        title={"en": "Public data", "zh": "公共数据"},
        about={
            "en": "A table that protects nobody: every operation, nothing is charged; the source is named.",
            "zh": "不涉及个人的公开表：允许全部操作、不计隐私损耗；须注明来源。",
        },
        numbers=("count", "sum", "avg", "filter", "distinct", "variance", "quantile", "covariance", "join_key"),
        labels=("group_by", "output", "filter", "count", "distinct", "join_key"),
        terms={"minimum_group": 1, "attribution": True},
    ),
)

TEMPLATES: Mapping[str, Template] = {template.name: template for template in _ALL}

_COMMENTS: dict[str, Words] = {
    "assignees": {"en": "who may ask and receive", "zh": "可以提出请求并接收结果的参与方"},
    "purposes": {"en": "purposes that a request may state", "zh": "允许声明的用途"},
    "from": {"en": "first day, UTC", "zh": "生效日（UTC）"},
    "until": {"en": "no longer from this day on, UTC", "zh": "自该日起失效（UTC）"},
    "minimum_group": {"en": "smaller cells are suppressed, by a noised count", "zh": "小于该人数（加噪计数）的分组不予公布"},
    "epsilon_per_job": {"en": "privacy loss of one job, at most", "zh": "单个任务的隐私损耗上限"},
    "epsilon_total": {"en": "privacy loss in total, at most", "zh": "隐私损耗总预算"},
    "rho_per_job": {"en": "privacy loss of one job (zCDP), at most", "zh": "单个任务的隐私损耗上限（zCDP）"},
    "rho_total": {"en": "privacy loss in total (zCDP), at most", "zh": "隐私损耗总预算（zCDP）"},
    "enclaves": {
        "en": "`simulated` proves nothing about the machine: name a real TEE where you can",
        "zh": "simulated 不能证明机器可信；如有条件请改为真实 TEE",
    },
    "output_kinds": {
        "en": "number: one row; table: groups that are public; model: a trained model",
        "zh": "number：单行；table：公开分组；model：训练所得模型",
    },
    "output_rows": {"en": "rows of a release, at most", "zh": "结果行数上限"},
    "scored_rows": {"en": "rows that one consumer may have scored, in any so many days", "zh": "每个请求方在任意若干天内可评分的行数上限"},
    "score_decimals": {
        "en": "decimals of a score, at most: coarse scores copy a model slowly",
        "zh": "分值小数位上限：取整可防止模型被复制",
    },
    "withhold_probing": {
        "en": "no scores for rows that look made to copy the model",
        "zh": "对疑似为复制模型而构造的数据不予返回分值",
    },
    "uses": {"en": "jobs under the agreement, at most", "zh": "协议期内任务次数上限"},
    "approvals": {"en": "each job waits for the provider's approval", "zh": "每个任务须经数据提供方批准"},
    "pay": {"en": "confirmed by you before use: `sandbox agreement paid`", "zh": "使用前须由您确认收款：sandbox agreement paid"},
    "windows": {"en": "when requests are decided, UTC", "zh": "受理时间（UTC）"},
    "delete_after_days": {"en": "the release is deleted after so many days", "zh": "若干天后删除结果"},
    "attribution": {"en": "words that stand by each release", "zh": "随结果显示的来源说明"},
    "pre_approved": {"en": "digests of the only queries that may be asked", "zh": "仅可提出的查询的摘要"},
    "columns": {"en": "operations by column; delete what the case does not need", "zh": "各列允许的操作；请删去不需要的"},
}


def filled(name: str, declaration: Declaration, wanted: Wanted, language: str) -> str:
    """Return an offer form as YAML text with comments.

    Raises:
        NotFound: no such template. Malformed: the template is for the other kind of table, or needs pre-approved queries.
    """
    if name not in TEMPLATES:
        raise NotFound(f"there is no template `{name[:40]}`; there are {', '.join(TEMPLATES)}")
    template = TEMPLATES[name]
    if template.model != holds_model(declaration):
        raise Malformed("`scoring-service` is for the dataset of a model, and all other templates for tables", where="declaration")
    if not template.model and declaration.public != (name == "public-data"):
        raise Malformed("`public-data` is for public tables, and all other templates for tables that protect somebody", where="declaration")
    if template.fixed != bool(wanted.pre_approved):
        what = "needs pre-approved queries" if template.fixed else "asks queries of any form"
        raise Malformed(f"`{name}` {what}", where="pre-approved")
    lines = [
        f"# {template.title[language]}: {template.about[language]}",
        yaml_line("uid", wanted.uid),
        yaml_line("title", template.title[language]),
        yaml_line("dataset", declaration.dataset),
        "terms:",
    ]
    for word, value in _words(template, declaration, wanted, language).items():
        lines += [f"  # {_COMMENTS[word][language]}", *_term(word, value)]
    lines += [f"  # {_COMMENTS['columns'][language]}", "  columns:"]
    allowed = ((column.name, _operations(template, column, declaration)) for column in declaration.columns)
    lines += [yaml_line(column, operations, indent=4) for column, operations in allowed if operations or not template.model]
    return "\n".join(lines) + "\n"


def _words(template: Template, declaration: Declaration, wanted: Wanted, language: str) -> dict[str, Any]:
    words: dict[str, Any] = {
        "assignees": list(wanted.consumers),
        "purposes": list(wanted.purposes),
        "from": wanted.begins,
        "until": wanted.ends,
        "enclaves": ["simulated"],
        **template.terms,
    }
    if words.get("attribution"):
        words["attribution"] = {"en": f"Source: {declaration.provider}", "zh": f"数据来源：{declaration.provider}"}[language]
    if words.get("approvals"):
        words["approvals"] = {"need": 1, "of": [declaration.provider]}
    if wanted.pre_approved:
        words["pre_approved"] = [require_digest(digest, "pre_approved") for digest in wanted.pre_approved]
    return words


def _term(word: str, value: Any) -> list[str]:
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        rows = [[yaml_line(key, part) for key, part in item.items()] for item in value]
        return [f"  {word}:", *(f"    {'- ' if not at else '  '}{line}" for row in rows for at, line in enumerate(row))]
    if isinstance(value, dict):
        return [f"  {word}:", *(yaml_line(key, part, indent=4) for key, part in value.items())]
    return [yaml_line(word, value, indent=2)]


def _operations(template: Template, column: Column, declaration: Declaration) -> list[str]:
    """What fits a column: keys join, bounded numbers are aggregated, columns with a domain are groups."""
    if template.model:
        return ["score"] if column.name == MODEL_COLUMN else []
    if column.name == declaration.unit:
        return ["join_key"]
    found = ["join_key"] if column.name in declaration.unique_key else []
    if column.lower is not None:
        found += template.numbers
    if column.domain is not None:
        found += template.labels
    return list(dict.fromkeys(found))
