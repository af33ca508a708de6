"""`python -m glimpse.models golden`: the answers that a server must give before it serves a bundle."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of the program."""
    golden = commands.add_parser("golden", help="record the answers that a server must give before it serves a bundle")
    golden.add_argument("bundle", type=Path, help="the bundle's folder")
    golden.add_argument(
        "--picture",
        action="append",
        type=Path,
        metavar="FILE",
        help="to be answered, small; may be given again (default: the bundle's own, or those of the shipped bundle)",
    )
    golden.add_argument("--source", default="", metavar="TEXT", help="where the pictures come from, for people")
    golden.set_defaults(run=_golden)


def _golden(options: argparse.Namespace) -> None:
    # The reference that other runtimes and precisions are compared with.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras
    import tensorflow as tf

    from glimpse.models import bundle as bundles
    from glimpse.models import golden
    from glimpse.models.serving import load_bundle, serving_model

    bundle = bundles.read(options.bundle)
    network = serving_model(load_bundle(bundle), bundle.recipe, bundle.temperature)
    chosen = [golden.SampleImage(path.name, path.read_bytes(), options.source) for path in options.picture or ()]
    recorded = golden.record(
        bundle,
        lambda pixels: network(pixels, training=False),
        chosen or golden.pictures(bundle.folder),
        by=f"Keras {keras.__version__} on TensorFlow {tf.__version__} in float32",
    )
    for each in golden.read(recorded):
        first = int(each.probabilities.argmax())
        print(f"{each.picture.name}: {bundle.labels[first].label} {each.probabilities[first]:.4f}")
