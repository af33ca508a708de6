"""`python -m glimpse.models golden`: the answers that a server must give before it serves a bundle."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from glimpse.models import bundle as bundles
from glimpse.models import published, quiet, sources
from glimpse.models.bundle import Bundle
from glimpse.models.commands.help import Help, examples


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of the program."""
    golden = commands.add_parser(
        "golden",
        help="record the answers that a server must give before it serves a bundle",
        description="Compute what a bundle's model answers to a few pictures, with Keras on TensorFlow in float32, and "
        "record it in the bundle. A server computes the same pictures when it starts, with its own runtime and "
        "precision, and does not serve the bundle if the answers differ. Training records them by itself; a bundle "
        "that you have made in another way has none before.",
        epilog=examples(
            "golden runs/mine/bundle",
            "golden runs/mine/bundle --picture cat.jpg --picture dog.jpg --source 'my photos'",
        ),
        formatter_class=Help,
    )
    golden.add_argument("bundle", metavar="BUNDLE", help="the bundle's folder, or with --published an architecture")
    golden.add_argument(
        "--published",
        action="store_true",
        help="record the answers of an architecture's published weights to the shipped photographs, in a clone",
    )
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
    bundle = sources.resolve(_published(options.bundle)) if options.published else bundles.read(Path(options.bundle))
    quiet.load_keras()
    import keras
    import tensorflow as tf

    from glimpse.models import golden
    from glimpse.models.serving import load_bundle, serving_model

    network = serving_model(load_bundle(bundle), bundle.recipe, bundle.temperature, bundle.head)
    by = f"Keras {keras.__version__} on TensorFlow {tf.__version__} in float32"

    def answer(pixels: Any) -> Any:
        return network(pixels, training=False)

    if options.published:
        print(f"Recorded in {golden.record_published(bundle, answer, by=by)}.")
        _show_answers(bundle)
        return
    chosen = [golden.SampleImage(path.name, path.read_bytes(), options.source) for path in options.picture or ()]
    _show_answers(
        golden.record(bundle, answer, chosen or golden.pictures(bundle.folder, bundle.golden or golden.FOLDER), by=by)
    )


def _published(architecture: str) -> sources.ModelSource:
    return sources.ModelSource(weights=published.DEFAULT_TAG, architecture=architecture)


def _show_answers(bundle: Bundle) -> None:
    from glimpse.models import golden

    for each in golden.read(bundle):
        first = int(each.probabilities.argmax())
        print(f"{each.picture.name}: {bundle.labels[first].label} {each.probabilities[first]:.4f}")
