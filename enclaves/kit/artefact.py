"""Models as ONNX files (opset 17 and ai.onnx.ml 3): made from a model's integers, run by onnxruntime. The owner of both libraries.

A file reads raw columns, each of shape (rows, 1): numbers as float64 in real units, NaN where missing; categories as int64 or text. It
holds the whole encoding, so that whoever scores needs nothing else. A file from elsewhere is parsed only after `require_modest` has held it
to a size, to the operators that files of ours use, and to no external data; nothing is ever unpickled.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from policies.errors import Malformed, Tampered
from policies.model import WEIGHT_BITS, Model, Tree
from policies.scoring import Value, predicted
from policies.training import UNIT, Encoded

OPSET, ML_OPSET, IR_VERSION = 19, 3, 9
MAX_BYTES = 2 << 20
MAX_NODES = 20_000

OPERATORS = frozenset({
    "Add", "ArgMax", "Cast", "Clip", "Concat", "Equal", "Exp", "IsNaN", "Log", "MatMul", "Mul", "Round", "Sigmoid", "Softmax", "Sub",
    "TreeEnsembleRegressor", "Where",
})  # fmt: skip
"""All operators that a file may use."""

PROBES = 256
AGREED = 0.98
"""Part of the probes on which both must agree: a value on the border of two fixed-point steps may fall either way."""

TOLERANCE = 1e-5

OUTPUTS = {"identity": "prediction", "logistic": "probability", "softmax": "probabilities", "nearest": "cluster"}


def onnx_bytes(model: Model) -> bytes:
    """Return a model as an ONNX file. The same model gives the same bytes under the same version of onnx."""
    import onnx
    from onnx import TensorProto, helper

    graph = _Graph()
    z = graph.node("Concat", [graph.encoded(feature) for feature in model.features if feature.width], axis=1)
    result = graph.linked(model, z)
    kind = TensorProto.INT64 if model.link == "nearest" else TensorProto.DOUBLE
    name, shape = OUTPUTS[model.link], [None] if model.link == "nearest" else [None, max(1, len(model.weights))]
    graph.nodes.append(helper.make_node("Cast", [result], [name], to=kind))
    made = helper.make_model(
        helper.make_graph(graph.nodes, "model", graph.inputs, [helper.make_tensor_value_info(name, kind, shape)], graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)],
        producer_name="sandbox",
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString(deterministic=True))


def checked_onnx(model: Model) -> bytes:
    """Return the ONNX file of a model, after onnxruntime predicted with it what the model means (`policies.scoring`).

    Both are asked for the bounds, the centre, missing values and random points within the bounds of every feature.

    Raises:
        Tampered: code `onnx-disagrees`.
    """
    data = onnx_bytes(model)
    require_agreement(model, data)
    return data


def require_agreement(model: Model, data: bytes) -> None:
    """Raise Tampered unless an ONNX file predicts what a model means."""
    import numpy as np

    rows = _probes(model)
    given = {f.column: [_missing(f) if row[f.column] is None else row[f.column] for row in rows] for f in model.features}
    found = np.asarray(score_onnx(data, given), np.float64).reshape(len(rows), -1)
    close = np.isclose(found, np.array([predicted(model, row) for row in rows]), rtol=TOLERANCE, atol=TOLERANCE).all(axis=1)
    if close.mean() < AGREED:
        raise Tampered("the ONNX file predicts something else than the model", code="onnx-disagrees")


def _probes(model: Model) -> list[dict[str, Value]]:
    chance = random.Random(0)
    rows: list[dict[str, Value]] = []
    for number in range(PROBES):
        row: dict[str, Value] = {}
        for feature in model.features:
            if feature.encoding == "categories":
                row[feature.column] = chance.choice((*feature.categories, None))
                continue
            fixed = [feature.lower, feature.upper, feature.centre, None]
            units = fixed[number] if number < len(fixed) else chance.randint(feature.lower, feature.upper)
            row[feature.column] = None if units is None else units / 10.0**feature.decimals
        rows.append(row)
    return rows


def _missing(feature: Encoded) -> float | int | str:
    """How a file is told that a value is missing."""
    if feature.encoding != "categories":
        return math.nan
    known = [category for category in feature.categories if isinstance(category, int)]
    return min(known) - 1 if known else "".join(map(str, feature.categories)) + "?"


def require_modest(data: bytes) -> None:
    """Hold a file to size, operators and inline data before anything runs it.

    Raises:
        Malformed: code `onnx`.
    """
    import onnx

    if len(data) > MAX_BYTES:
        raise Malformed(f"an ONNX file of {len(data)} bytes is larger than {MAX_BYTES}", code="onnx")
    try:
        model = onnx.ModelProto.FromString(data)
    except Exception as error:  # protobuf's own class is not part of its interface
        raise Malformed("is not an ONNX file", code="onnx") from error
    nodes = list(model.graph.node)
    if len(nodes) > MAX_NODES or model.functions or model.graph.sparse_initializer:
        raise Malformed("has too many nodes, functions or sparse constants", code="onnx")
    strange = sorted({node.op_type for node in nodes} - OPERATORS)
    if strange or any(node.domain not in ("", "ai.onnx.ml") for node in nodes):
        raise Malformed(f"uses the operator {', '.join(strange)[:80] or 'of a domain'} that is not accepted", code="onnx")
    inner = any(attribute.HasField("g") or attribute.graphs for node in nodes for attribute in node.attribute)
    if inner or any(tensor.external_data or tensor.data_location for tensor in model.graph.initializer):
        raise Malformed("has inner graphs, or data outside of the file", code="onnx")


def score_onnx(data: bytes, columns: Mapping[str, Sequence[Any]]) -> Any:
    """Return what an ONNX file computes for columns of raw values, as an array whose first axis are rows.

    Raises:
        Malformed: code `onnx`: not an acceptable file, or columns that it does not take.
    """
    import numpy as np
    import onnxruntime

    require_modest(data)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        types = {"tensor(double)": np.float64, "tensor(int64)": np.int64, "tensor(string)": object}
        given = {item.name: np.array(columns[item.name], types[item.type]).reshape(-1, 1) for item in session.get_inputs()}
        return session.run(None, given)[0]
    except Exception as error:  # the library raises classes of its own for every kind of failure
        raise Malformed("the model cannot be run on these columns", code="onnx") from error


class _Graph:
    """An ONNX graph under construction."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.inputs: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, values: Any, kind: Any = None) -> str:
        """Add a constant; float64 if nothing else is said."""
        import numpy as np
        from onnx import numpy_helper

        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(values, kind or np.float64), name))
        return name

    def node(self, operator: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        from onnx import helper

        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def encoded(self, feature: Encoded) -> str:
        """Add a feature's input; returns its coordinates in units of UNIT, (rows, width)."""
        from onnx import TensorProto, helper

        if feature.encoding == "categories":
            text = isinstance(feature.categories[0], str)
            kind = TensorProto.STRING if text else TensorProto.INT64
            self.inputs.append(helper.make_tensor_value_info(feature.column, kind, [None, 1]))
            known = self.constant([list(feature.categories[1:])], object if text else "int64")
            chosen = self.node("Cast", [self.node("Equal", [feature.column, known])], to=TensorProto.DOUBLE)
            return self.node("Mul", [chosen, self.constant(float(UNIT))])
        self.inputs.append(helper.make_tensor_value_info(feature.column, TensorProto.DOUBLE, [None, 1]))
        scale = 10.0**feature.decimals
        cut = self.node("Clip", [feature.column, self.constant(feature.lower / scale), self.constant(feature.upper / scale)])
        if feature.encoding == "log":
            cut = self.node("Log", [self.node("Add", [cut, self.constant(1.0)])])
        moved = self.node("Sub", [cut, self.constant(feature.offset)])
        whole = self.node("Round", [self.node("Mul", [moved, self.constant(UNIT / feature.reach)])])
        missing = self.node("IsNaN", [feature.column])
        return self.node("Where", [missing, self.constant(0.0), whole])

    def linked(self, model: Model, z: str) -> str:
        """Add what comes after the encoding; returns the result."""
        if model.link == "nearest":
            return self.node("ArgMax", [self.nearness(model, z)], axis=1, keepdims=0)
        outputs = self.forest(model.trees, z) if model.trees else self.linear(model, z)
        if model.link == "softmax":
            return self.node("Softmax", [outputs], axis=1)
        if model.link == "logistic":
            return self.node("Sigmoid", [outputs])
        label = model.label
        assert label is not None
        value = self.node("Add", [self.node("Mul", [outputs, self.constant(label.reach)]), self.constant(label.offset)])
        return self.node("Sub", [self.node("Exp", [value]), self.constant(1.0)]) if label.encoding == "log" else value

    def linear(self, model: Model, z: str) -> str:
        """Weights times (1, x)."""
        scale = float(1 << WEIGHT_BITS)
        weights = [[row[at] / scale / UNIT for row in model.weights] for at in range(1, model.width)]
        product = self.node("MatMul", [z, self.constant(weights)])
        return self.node("Add", [product, self.constant([[row[0] / scale for row in model.weights]])])

    def nearness(self, model: Model, z: str) -> str:
        """2 x c - |c|^2 for each centre: largest where the distance is smallest."""
        scale = float(1 << WEIGHT_BITS)
        centres = [[value / scale for value in row] for row in model.weights]
        product = self.node("MatMul", [z, self.constant([[2 * row[at] / UNIT for row in centres] for at in range(model.width - 1)])])
        return self.node("Sub", [product, self.constant([[sum(value * value for value in row) for row in centres]])])

    def forest(self, trees: Sequence[Tree], z: str) -> str:
        """The sum of all trees."""
        from onnx import TensorProto

        rows: list[tuple[int, int, int, float, str, int, int]] = []
        leaves: list[tuple[int, int, float]] = []
        for number, tree in enumerate(trees):
            inner = len(tree.coordinates)
            for node in range(inner + len(tree.leaves)):
                if node < inner:
                    found = (
                        number,
                        node,
                        tree.coordinates[node] - 1,
                        float(tree.thresholds[node]),
                        "BRANCH_GT",
                        2 * node + 2,
                        2 * node + 1,
                    )
                else:
                    found = (number, node, 0, 0.0, "LEAF", 0, 0)
                    leaves.append((number, node, tree.leaves[node - inner] / (1 << WEIGHT_BITS)))
                rows.append(found)
        columns = list(zip(*rows, strict=True))
        names = ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids")
        attributes: dict[str, Any] = {f"nodes_{name}": list(column) for name, column in zip(names, columns, strict=True)}
        narrow = self.node("Cast", [z], to=TensorProto.FLOAT)
        total = self.node(
            "TreeEnsembleRegressor",
            [narrow],
            domain="ai.onnx.ml",
            n_targets=1,
            target_treeids=[leaf[0] for leaf in leaves],
            target_nodeids=[leaf[1] for leaf in leaves],
            target_ids=[0] * len(leaves),
            target_weights=[leaf[2] for leaf in leaves],
            **attributes,
        )
        return self.node("Cast", [total], to=TensorProto.DOUBLE)
