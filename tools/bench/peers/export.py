"""The networks that all serve: the library's own, as ONNX, OpenVINO's files and a bundle, with answers to check by.

It runs in an environment of its own, because tf2onnx does not go with what the service needs:
`python -m tools.bench.peers.export NETWORK PHOTOS FOLDER`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glimpse.models import bundle as bundles
from glimpse.models import weights
from glimpse.models.builder import assemble
from glimpse.models.catalogue import find
from glimpse.models.published import recipes
from glimpse.models.serving import serving_model
from tools.bench.peers.servers.work import Network, Options, decode

ARCHITECTURES = ("mobilenet", "resnet50", "efficientnet_lite0")
_CLASSES = 1000
_SEED = 1
_PEAK = 6.0  # spread of the logits: one class takes a good part of the probability, so that a wrong answer shows
_SAME = 1e-4  # largest difference of a probability between the frameworks


def main(network: str, photos: Path, folder: Path) -> None:
    """Write `network` to `folder`, and what each photo's answer is; all frameworks must give the same."""
    import keras
    import openvino
    import tensorflow as tf
    import tf2onnx

    files = sorted(photos.glob("*.jpg"))
    pixels = np.stack([decode(file.read_bytes()) for file in files])
    keras.utils.set_random_seed(_SEED)
    row = find(network)
    recipe = recipes.torch(224, 256)
    assembly = assemble(row, classes=_CLASSES)
    _settle(assembly.model, ((pixels[:32] - np.array(recipe.mean)) / np.array(recipe.std)).astype(np.float32))
    model = serving_model(assembly, recipe, temperature=1)
    expected = model.predict(pixels, batch_size=32, verbose=0)

    folder.mkdir(parents=True, exist_ok=True)
    base = folder / network
    signature = [tf.TensorSpec((None, 224, 224, 3), tf.uint8, name="pixels")]
    tf2onnx.convert.from_function(
        tf.function(lambda images: model(images, training=False), input_signature=signature),
        input_signature=signature,
        opset=18,
        output_path=str(base.with_suffix(".onnx")),
    )
    openvino.save_model(
        openvino.convert_model(base.with_suffix(".onnx")), base.with_suffix(".xml"), compress_to_fp16=False
    )
    for runtime in ("onnxruntime", "openvino"):
        _compare(runtime, base, pixels, expected)
    best = expected.argmax(axis=1)
    answers = {file.name: [int(c), float(p[c])] for file, c, p in zip(files, best, expected, strict=True)}
    bundle = base.with_suffix(".bundle")
    bundle.mkdir(exist_ok=True)
    weights.save(assembly.model, bundle / bundles.WEIGHTS)
    bundles.write(
        bundle,
        name=network,
        version="1",
        architecture=row.name,
        variant=row.variant,
        input_shape=(224, 224, 3),
        labels=[bundles.ClassLabel(f"class {number}") for number in range(_CLASSES)],
        recipe=recipe,
        temperature=1,
        metrics={},
    )
    # Last: whoever finds it finds all the rest, too.
    (folder / f"{network}.json").write_text(json.dumps(answers))


def _settle(model: Any, images: NDArray[np.float32]) -> None:
    """Give a random network the statistics of real activations, and logits of which some stand out."""
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0  # the moving statistics become this batch's
    model(images, training=True)
    logits = keras.ops.convert_to_numpy(model(images, training=False))
    kernel, *_ = [layer for layer in model.layers if layer.weights][-1].weights
    kernel.assign(keras.ops.convert_to_numpy(kernel) * (_PEAK / logits.std()))


def _compare(runtime: str, base: Path, pixels: NDArray[np.uint8], expected: NDArray[np.float32]) -> None:
    network = Network(
        Options(
            network=str(base),
            runtime=runtime,
            precision="f32",
            port=0,
            max_batch=1,
            wait_ms=0,
            workers=1,
            threads=2,
        )
    )
    difference = float(np.abs(network.probabilities(pixels) - expected).max())
    print(f"{base.name}: {runtime} differs from TensorFlow by at most {difference:.1e}")
    if difference > _SAME:
        raise SystemExit(f"That is more than {_SAME}: the peers would not serve the same network.")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
