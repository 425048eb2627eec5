"""scikit-learn without privacy, and diffprivlib at the same person-level guarantee, on the rows and splits of a Parquet file."""

from __future__ import annotations

import json
import sys
import time
import warnings
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import r2_score, roc_auc_score

warnings.filterwarnings("ignore")


def quality(table: Any) -> dict[str, list[float]]:
    """AUC and R2 per split. Columns: x0..., s0... (whether held out in that split), admitted, spend; metadata: epsilon, rows, norm."""
    from diffprivlib.models import LinearRegression as PrivateLinear
    from diffprivlib.models import LogisticRegression as PrivateLogistic

    said = {key.decode(): float(value) for key, value in table.schema.metadata.items() if key != b"ARROW:schema"}
    # Pure epsilon for a row; a person has up to so many rows (group privacy).
    epsilon = said["epsilon"] / said["rows"]
    names = table.column_names
    x = np.column_stack([table[name].to_numpy() for name in names if name.startswith("x")])
    admitted, spend = table["admitted"].to_numpy(), table["spend"].to_numpy()
    found: dict[str, list[float]] = {"auc": [], "r2": [], "auc_diffprivlib": [], "r2_diffprivlib": []}
    for name in (name for name in names if name.startswith("s") and name != "spend"):
        held = table[name].to_numpy(zero_copy_only=False)
        train, test = x[~held], x[held]
        plain = LogisticRegression(max_iter=1000).fit(train, admitted[~held])
        found["auc"].append(float(roc_auc_score(admitted[held], plain.predict_proba(test)[:, 1])))
        found["r2"].append(float(r2_score(spend[held], LinearRegression().fit(train, spend[~held]).predict(test))))
        private = PrivateLogistic(epsilon=epsilon, data_norm=said["norm"], max_iter=1000).fit(train, admitted[~held])
        found["auc_diffprivlib"].append(float(roc_auc_score(admitted[held], private.predict_proba(test)[:, 1])))
        bounds: Any = (-np.ones(x.shape[1]), np.ones(x.shape[1]))
        line = PrivateLinear(epsilon=epsilon, bounds_X=bounds, bounds_y=(-1.0, 1.0)).fit(train, spend[~held])
        found["r2_diffprivlib"].append(float(r2_score(spend[held], line.predict(test))))
    return found


def speed(table: Any) -> dict[str, float]:
    """Seconds of scikit-learn's fit, least of three. Columns: x0..., y."""
    x = np.column_stack([table[name].to_numpy() for name in table.column_names if name.startswith("x")])
    y, seconds = table["y"].to_numpy(), []
    for _ in range(3):
        begun = time.process_time()
        LogisticRegression(max_iter=100).fit(x, y)
        seconds.append(time.process_time() - begun)
    return {"seconds": min(seconds)}


if __name__ == "__main__":
    read = pq.read_table(sys.argv[1])
    print(json.dumps(quality(read) if "admitted" in read.column_names else speed(read)))
