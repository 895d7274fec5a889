"""What a precision changes: `python -m tools.gpucheck.precision MODEL DEVICE DTYPE WEIGHTS` writes one line of JSON.

Logits of the same ids in float32 dense and in the precision asked for, on the same device. With random weights the
perplexity means nothing, the error of a logit and how often both name the same token still do.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

from eet_demo.engine.engine import Engine
from eet_demo.results.quality import Windows, rows_of, score, summary

WINDOW = 128
WINDOWS = 4


def probe(model: str, device: str, dtype: str, weights: str) -> dict[str, Any]:
    """Errors of the logits over their standard deviation, agreement of the most likely token, and divergence."""
    limits: dict[str, Any] = {"device": device, "max_batch": 1, "max_context": WINDOW}
    with (
        Engine.from_pretrained(model, dtype="float32", **limits) as reference,
        Engine.from_pretrained(model, dtype=dtype, weights=weights, **limits) as tested,
    ):
        ids = np.random.default_rng(0).integers(0, reference.spec.vocab_size, (WINDOWS, WINDOW))
        windows = Windows(tuple(tuple(map(int, row)) for row in ids), 1)
        scores, worst, squares, spread, count = [], 0.0, 0.0, 0.0, 0
        for window in windows.texts:
            pairs = zip(rows_of(reference, window), rows_of(tested, window), strict=True)
            for (position, one), (_, other) in pairs:
                error = other.astype(np.float64) - one
                worst = max(worst, float(np.abs(error).max()))
                squares += float(np.square(error).sum())
                spread += float(np.square(one - one.mean()).sum())
                count += error.size
                if position + 1 < len(window):
                    scores.append(score(one, other, window[position + 1]))
    found = summary(scores)
    deviation = (spread / count) ** 0.5
    return {
        "logit_error_max": worst / deviation,
        "logit_error_rms": (squares / count) ** 0.5 / deviation,
        "top1_agreement": found["top1_agreement"],
        "kl_mean": found["kl_mean"],
        "kl_p99": found["kl_p99"],
    }


if __name__ == "__main__":
    print(json.dumps(probe(*sys.argv[1:5])))
