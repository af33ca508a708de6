"""Classify a folder of photos with Ray Data, on one machine or on a cluster, and write the results as Parquet."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from glimpse import Classifier, ImageResult

SUFFIXES = ["bmp", "gif", "jpeg", "jpg", "png", "webp"]
SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("label", pa.string()),  # the most probable class; none where there is an error
        ("probability", pa.float32()),
        ("labels", pa.list_(pa.string())),  # the most probable classes, the first one first
        ("probabilities", pa.list_(pa.float32())),
        ("error", pa.string()),  # for programs, such as TRUNCATED_IMAGE
        ("message", pa.string()),  # for people
    ]
)


class Photos:
    """An actor with a model: Ray keeps it and hands it one batch of photos after the other."""

    def __init__(self, model: str, top_k: int) -> None:
        """Load the model, once for each actor."""
        self._classifier = Classifier.load(model)
        self._top_k = top_k

    def __call__(self, batch: dict[str, np.ndarray[Any, Any]]) -> pa.Table:
        """A row for each photo. One that cannot be classified gets a row with an error, and fails nothing."""
        results = self._classifier.classify_all(batch["bytes"], top_k=self._top_k)
        return pa.Table.from_pylist([row(*each) for each in zip(batch["path"], results, strict=True)], SCHEMA)


def row(path: str, result: ImageResult) -> dict[str, Any]:
    """The result of one photo."""
    first = result.predictions[0] if result.predictions else None
    return {
        "path": path,
        "label": first and first.label,
        "probability": first and first.probability,
        "labels": [each.label for each in result.predictions],
        "probabilities": [each.probability for each in result.predictions],
        "error": result.error and result.error.reason,
        "message": result.error and result.error.message,
    }


def main() -> None:
    """Read the command line and run the job."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", help="folder, or an address such as s3://bucket/photos")
    parser.add_argument("out", help="folder for the Parquet files, or an address")
    parser.add_argument("--model", default="imagenet", help="what Classifier.load takes: a bundle, a published name")
    parser.add_argument("--top-k", type=int, default=5)
    parser.add_argument("--actors", type=int, default=1, help="processes with a model: one for each machine")
    parser.add_argument("--cpus", type=float, help="cores that Ray reserves for each of them; else all of this machine")
    arguments = parser.parse_args()

    ray.init()
    # What an actor reserves is not there for reading, which takes little.
    reserved = arguments.cpus or max(1.0, ray.cluster_resources()["CPU"] / arguments.actors - 1)
    photos = ray.data.read_binary_files(arguments.photos, include_paths=True, file_extensions=SUFFIXES)
    photos.map_batches(
        Photos,
        fn_constructor_kwargs={"model": arguments.model, "top_k": arguments.top_k},
        batch_size=64,
        compute=ray.data.ActorPoolStrategy(size=arguments.actors),
        num_cpus=reserved,
    ).write_parquet(arguments.out)


if __name__ == "__main__":
    main()
