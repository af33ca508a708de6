"""The int8 network that all serve, the service too: OpenVINO's files of a network, quantised by NNCF with the photos.

It runs in the environment that exports: `python -m tools.bench.peers.quantise NETWORK PHOTOS FOLDER`. The answers to
check by are what OpenVINO computes from that network: this is about speed, and random weights have no accuracy.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from tools.bench.peers.servers.work import Network, Options, decode, quantised

_RECIPE = 'height = 224\nwidth = 224\ngeometry = "crop"\ncrop_share = 0.875\nfilter = "bilinear"\nsmaller = "resize"\n'


def main(network: str, photos: Path, folder: Path) -> None:
    """Write the quantised network as a folder that the service loads, and what each photo's answer is."""
    import nncf
    import openvino

    base = folder / network
    made = quantised(base)
    files = sorted(photos.glob("*.jpg"))
    pixels = [decode(file.read_bytes())[np.newaxis] for file in files]
    # Weights of 7 bits: with 8, sums overflow on processors without instructions for int8.
    fix = nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE)
    graph = nncf.quantize(
        openvino.Core().read_model(base.with_suffix(".xml")),
        nncf.Dataset(pixels),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(pixels),
        advanced_parameters=fix,
    )
    made.parent.mkdir(exist_ok=True)
    openvino.save_model(graph, made, compress_to_fp16=False)
    options = Options(
        network=str(base),
        runtime="openvino",
        precision="int8",
        port=0,
        max_batch=1,
        wait_ms=0,
        workers=1,
        threads=2,
    )
    scores = Network(options).probabilities(np.concatenate(pixels))
    (made.parent / "labels.txt").write_text("".join(f"class {number}\n" for number in range(scores.shape[1])))
    (made.parent / "recipe.toml").write_text(_RECIPE)
    best = scores.argmax(axis=1)
    answers = {file.name: [int(c), float(p[c])] for file, c, p in zip(files, best, scores, strict=True)}
    # Last: whoever finds it finds all the rest, too.
    (folder / f"{network}.int8.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
