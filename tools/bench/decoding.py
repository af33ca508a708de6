"""`python -m tools.bench.decoding`: what decoding costs, and what decoding at a reduced scale changes in the answer.

Speed: images a second of CPU time on one core, from the bytes of a file to the network's input, as a multiple of plain
Pillow (open, convert, resize, crop) on the same file in the same minute.

Agreement: of crops of photos, kept at their own resolution, the share whose first answer is that of the whole decode.
Only those that a gap does reduce are counted: the others agree whatever the gap. Beside it stands the noise floor: what
a shift by one pixel, and one more JPEG of quality 95, change.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from glimpse.models.comparison import names
from glimpse.models.decoding.limits import ImageLimits
from glimpse.models.prestem.recipe import Recipe
from glimpse.server.decoding.prepare import prepare
from glimpse.server.domain import EncodedImage, RawImage
from tools.bench import machine
from tools.bench.worker import ROOT

GAPS = (0.0, 1.0, 1.5, 2.0, 3.0)
RECIPE = Recipe(height=224, width=224, crop_share=0.875)
HALF, CAFFE = (127.5, 127.5, 127.5), (104.0, 117.0, 123.0)
# Architecture, options, file, recipe: weights of three publishers, in three formats.
NETWORKS: tuple[tuple[str, dict[str, float], str, Recipe], ...] = (
    (
        "mobilenet",
        {"alpha": 0.25},
        "mobilenet_v1_0.25_224_imagenet.tflite",
        Recipe(height=224, width=224, crop_share=0.875, mean=HALF, std=HALF),
    ),
    (
        "squeezenet1_0",
        {},
        "squeezenet1_0_imagenet_caffe.safetensors",
        Recipe(height=227, width=227, crop_share=0.875, channels="BGR", mean=CAFFE, smaller="resize"),
    ),
    (
        "squeezenet1_1",
        {},
        "squeezenet1_1_imagenet_fp16.onnx",
        Recipe(height=224, width=224, channels="BGR", mean=CAFFE, smaller="resize"),
    ),
)


# The models that come with Glimpse, with their own recipes.
SHIPPED = ("imagenet", "cifar10")


class Kind(NamedTuple):
    """Files that are measured together."""

    name: str
    form: str
    size: tuple[int, int]
    files: int
    options: dict[str, Any]


# EXIF data that say: turn it by 90 degrees.
_SIDEWAYS = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
KINDS = (
    Kind("JPEG 0.2 MP", "JPEG", (500, 375), 12, {"quality": 90}),
    Kind("JPEG 2 MP", "JPEG", (1600, 1200), 6, {"quality": 90}),
    Kind("JPEG 12 MP", "JPEG", (4000, 3000), 2, {"quality": 90}),
    Kind("JPEG 12 MP, progressive", "JPEG", (4000, 3000), 2, {"quality": 90, "progressive": True}),
    Kind("JPEG 12 MP, held upright", "JPEG", (4000, 3000), 2, {"quality": 90, "exif": _SIDEWAYS}),
    Kind("PNG 0.2 MP", "PNG", (500, 375), 12, {}),
    Kind("PNG 2 MP", "PNG", (1600, 1200), 4, {}),
    Kind("WebP 0.2 MP", "WEBP", (500, 375), 12, {"quality": 85}),
    Kind("WebP 2 MP", "WEBP", (1600, 1200), 4, {"quality": 85}),
)
_SEED = 20240501
_LARGEST = 64 << 20  # bytes and pixels: no limit is met here
_BATCH = 25
Pixels = NDArray[np.uint8]


def main() -> int:
    """Measure; the tables go to standard output, progress to standard error."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench.decoding", description=__doc__)
    parser.add_argument("--photos", type=Path, help="folder with large photos; default: the samples of scikit-image")
    parser.add_argument("--weights", type=Path, default=ROOT.parent / "shared" / "weights", help="folder with weights")
    parser.add_argument("--crops", type=int, default=300, help="for the agreement; 0: not measured")
    parser.add_argument("--rounds", type=int, default=7, help="for the speed; 0: not measured")
    parser.add_argument("--json", type=Path, help="write the figures here")
    chosen = parser.parse_args()
    photos = _photos(chosen.photos)
    result: dict[str, Any] = {"machine": machine.description(), "photos": len(photos)}
    result["speed"] = [_speed(photos, chosen.rounds, kind) for kind in KINDS if chosen.rounds]
    if chosen.crops and chosen.weights.is_dir():
        result["agreement"] = agreement(photos, chosen.weights, chosen.crops)
    elif chosen.crops:
        _tell(f"only the models that come with Glimpse: there are no weights in {chosen.weights}")
        result["agreement"] = agreement(photos, None, chosen.crops)
    if chosen.json:
        chosen.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(markdown(result))
    return 0


def _photos(folder: Path | None) -> list[Image.Image]:
    if folder is None:
        samples = (data.astronaut(), data.chelsea(), data.coffee(), data.rocket(), data.stereo_motorcycle()[0])
        return [Image.fromarray(sample).convert("RGB") for sample in samples]
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".webp", ".png"})
    photos = [Image.open(path).convert("RGB") for path in paths]
    return [photo for photo in photos if min(photo.size) >= 3 * RECIPE.height]


# --- speed


def _speed(photos: Sequence[Image.Image], rounds: int, kind: Kind) -> dict[str, Any]:
    _tell(f"speed of {kind.name}")
    count = kind.files
    files = [_file(photos[i % len(photos)], kind.form, kind.size, kind.options) for i in range(count)]
    ways: dict[str, Callable[[bytes], Pixels]] = {"plain": _plain}
    ways |= {str(gap): partial(_prepared, recipe=RECIPE, gap=gap) for gap in GAPS}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, decode in ways.items():
            begun = time.process_time()
            for file in files:
                decode(file)
            seconds[way].append((time.process_time() - begun) / count)
    shares = {way: [plain / ours for plain, ours in zip(seconds["plain"], seconds[way], strict=True)] for way in ways}
    row = {
        "kind": kind.name,
        "bytes": statistics.mean(map(len, files)),
        "plain_images_per_second": 1 / statistics.median(seconds["plain"]),
        "gaps": {way: statistics.median(shares[way]) for way in ways if way != "plain"},
        "spread": {way: (min(shares[way]), max(shares[way])) for way in ways if way != "plain"},
    }
    _tell(json.dumps(row))
    return row


def _plain(file: bytes) -> Pixels:
    """What everybody writes: 256 for the short side, 224 x 224 of its centre."""
    picture = Image.open(io.BytesIO(file)).convert("RGB")
    share = 256 / min(picture.size)
    picture = picture.resize((round(picture.width * share), round(picture.height * share)), Image.Resampling.BILINEAR)
    left, top = (picture.width - 224) // 2, (picture.height - 224) // 2
    return np.asarray(picture.crop((left, top, left + 224, top + 224)))


def _prepared(file: bytes, recipe: Recipe, gap: float) -> Pixels:
    limits = ImageLimits(_LARGEST, _LARGEST, _LARGEST, reducing_gap=gap)
    return prepare(EncodedImage(file), recipe, limits).pixels


def _file(photo: Image.Image, form: str, size: tuple[int, int], options: Any) -> bytes:
    share = min(photo.width / size[0], photo.height / size[1])
    box = (0, 0, size[0] * share, size[1] * share)
    return _saved(photo.resize(size, Image.Resampling.BICUBIC, box), form, **options)


def _saved(picture: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


# --- agreement


def agreement(photos: Sequence[Image.Image], weights: Path | None, count: int) -> list[dict[str, Any]]:
    """For each network and gap: the share of crops with the same first answer, and how far probabilities move."""
    found = []
    crops = list(_crops(photos, count))
    for name, recipe, make in _networks(weights):
        _tell(f"agreement of {name}")
        classify = make()
        inputs = [_prepared(crop, recipe, 0.0) for crop in crops]
        whole = classify(inputs)
        # `partial` and not a generator's body: what is looked up late would be the last gap, for all of them.
        variants: dict[str, Callable[[bytes], Pixels]] = {
            **{str(gap): partial(_prepared, recipe=recipe, gap=gap) for gap in GAPS if gap},
            "one pixel less": partial(_shifted, recipe=recipe),
            "JPEG 95 again": partial(_saved_again, recipe=recipe),
        }
        for variant, prepared in variants.items():
            pixels = [prepared(crop) for crop in crops]
            # Not one pixel of an input is the same by chance: equal inputs were not reduced.
            touched = [not np.array_equal(ours, theirs) for ours, theirs in zip(pixels, inputs, strict=True)]
            if not any(touched):
                continue
            other = classify(pixels)[touched]
            moved, same = np.abs(other - whole[touched]), other.argmax(1) == whole[touched].argmax(1)
            found.append(
                {
                    "network": name,
                    "variant": variant,
                    "crops": sum(touched),
                    "same": int(same.sum()),
                    "mean_moved": float(moved.max(1).mean()),
                    "most_moved": float(moved.max()),
                }
            )
            _tell(json.dumps(found[-1]))
    return found


def _crops(photos: Sequence[Image.Image], count: int) -> Iterator[bytes]:
    """JPEG files of quality 92: crops at the photo's own resolution, of half its shorter side or more."""
    generator = np.random.default_rng(_SEED)
    for i in range(count):
        photo = photos[i % len(photos)]
        shape = generator.uniform(0.75, 1.0)
        side = int(min(photo.size) * generator.uniform(0.5, 1.0))
        size = (int(side / shape), side) if i % 3 else (side, int(side / shape))
        size = min(size[0], photo.width), min(size[1], photo.height)
        left, top = (int(generator.integers(0, most - used + 1)) for most, used in zip(photo.size, size, strict=True))
        yield _saved(photo.crop((left, top, left + size[0], top + size[1])), "JPEG", quality=92)


def _shifted(file: bytes, recipe: Recipe) -> Pixels:
    """The picture without its first row and column."""
    with Image.open(io.BytesIO(file)) as opened:
        picture = opened.crop((1, 1, *opened.size))
    raw = RawImage(picture.height, picture.width, picture.tobytes())
    return prepare(raw, recipe, ImageLimits(_LARGEST, _LARGEST)).pixels


def _saved_again(file: bytes, recipe: Recipe) -> Pixels:
    """The picture as one more JPEG."""
    with Image.open(io.BytesIO(file)) as opened:
        return _prepared(_saved(opened, "JPEG", quality=95), recipe, 0.0)


Classify = Callable[[Sequence[Pixels]], NDArray[np.float32]]


def _networks(weights: Path | None) -> Iterator[tuple[str, Recipe, Callable[[], Classify]]]:
    """Name and recipe of each network, and what loads it."""
    for tag in SHIPPED:
        yield tag, names.resolve(tag).recipe, partial(_shipped, tag)
    if weights is not None:
        for name, options, file, recipe in NETWORKS:
            yield name, recipe, partial(_network, name, options, weights / file, recipe)


def _shipped(tag: str) -> Classify:
    """From pixels to probabilities, by the service's own runtime."""
    from glimpse.models.outputs import PROBABILITIES
    from glimpse.server.runtime import conversion
    from glimpse.server.runtime.openvino_graphs import compiled

    compute = compiled(conversion.get_or_convert(names.resolve(tag)).graph)

    def classify(pixels: Sequence[Pixels]) -> NDArray[np.float32]:
        batches = [np.stack(pixels[at : at + _BATCH]) for at in range(0, len(pixels), _BATCH)]
        return np.concatenate([compute(batch)[PROBABILITIES] for batch in batches])

    return classify


def _network(name: str, options: dict[str, float], file: Path, recipe: Recipe) -> Classify:
    """From pixels to probabilities, ``[N, 1000]``."""
    from glimpse.models import weights
    from glimpse.models.builder import assemble
    from glimpse.models.catalogue import find
    from glimpse.models.serving import serving_model

    row = find(name, None, options)
    assembly = assemble(row, classes=1000, input_shape=(recipe.height, recipe.width, 3))
    weights.load(assembly.model, file, row.layouts())
    model = serving_model(assembly, recipe, 1.0)
    return lambda pixels: np.asarray(model.predict(np.stack(pixels), batch_size=_BATCH, verbose=0))


# --- report


def markdown(result: dict[str, Any]) -> str:
    """Both tables."""
    gaps = [str(gap) for gap in GAPS]
    lines = [
        "| file | plain Pillow, images/s | " + " | ".join(f"gap {gap}" for gap in gaps) + " |",
        "|---" * (2 + len(gaps)) + "|",
    ]
    for row in result["speed"]:
        shares = " | ".join(f"{row['gaps'][gap]:.2f}x" for gap in gaps)
        lines.append(f"| {row['kind']} | {row['plain_images_per_second']:.1f} | {shares} |")
    if result.get("agreement"):
        heads = ("network", "against the whole decode", "crops", "same first answer", "probability, mean", "at most")
        lines += ["", "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in result.get("agreement", ()):
        moved = f"{row['mean_moved']:.4f} | {row['most_moved']:.3f}"
        same = row["same"] / row["crops"]
        lines.append(f"| {row['network']} | {row['variant']} | {row['crops']} | {same:.1%} | {moved} |")
    return "\n".join(lines)


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
