"""What Spark's Python processes run: photos in, rows out. A module of its own, so that each process keeps its model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import pandas as pd
from pyspark.sql.functions import pandas_udf

from glimpse import Classifier, ImageResult

SCHEMA = """
    label string, probability float, labels array<string>, probabilities array<float>, error string, message string
"""


@functools.cache
def classifier(model: str) -> Classifier:
    """The model of this process: Spark uses the process again for the next task."""
    return Classifier.load(model)


def classify_with(model: str, top_k: int) -> Callable[..., object]:
    """A function of a column with the bytes of photos, for Spark's `select`."""

    @pandas_udf(SCHEMA)  # type: ignore[call-overload]
    def classify(batches: Iterator[pd.Series]) -> Iterator[pd.DataFrame]:
        for photos in batches:
            yield pd.DataFrame([row(result) for result in classifier(model).classify_all(photos, top_k=top_k)])

    return classify


def row(result: ImageResult) -> dict[str, object]:
    """The result of one photo. One that cannot be classified gets a row with an error, and fails nothing."""
    first = result.predictions[0] if result.predictions else None
    return {
        "label": first and first.label,
        "probability": first and first.probability,
        "labels": [each.label for each in result.predictions],
        "probabilities": [each.probability for each in result.predictions],
        "error": result.error and result.error.reason,
        "message": result.error and result.error.message,
    }
