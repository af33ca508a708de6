"""What a server serves that nobody has told anything: EfficientNet-Lite0 on ImageNet."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from glimpse.client import Client
from glimpse.models import published
from tests.conftest import SHARED, RunningServer

CLI = Path(__file__).parents[2] / "client" / "cli.py"
CATS = {281, 282, 285}  # tabby, tiger cat, Egyptian cat
_BATCH = 50


def test_without_settings_a_server_names_a_cat_and_a_coffee(default_server: RunningServer, tmp_path: Path) -> None:
    for name in ("chelsea", "coffee"):
        Image.fromarray(getattr(data, name)()).save(tmp_path / f"{name}.jpg", quality=95)
    with Client(default_server.target) as client:
        cat = client.classify(tmp_path / "chelsea.jpg").predictions
        coffee = client.classify(tmp_path / "coffee.jpg")
    assert coffee.model is not None
    assert coffee.model.name == "efficientnet_lite0_imagenet"
    assert (coffee.predictions[0].label, coffee.predictions[0].class_id) == ("espresso", "n07920052")
    assert cat[0].index in CATS
    assert sum(each.probability for each in cat if each.index in CATS) > 0.9


def test_its_description_tells_each_class_with_its_id_and_synonyms(default_server: RunningServer) -> None:
    with Client(default_server.target) as client:
        description = client.describe()
    assert (description.architecture, description.variant) == ("efficientnet_lite0", "tensorflow")
    assert len(description.classes) == 1000
    shark = description.classes[2]
    assert (shark.label, shark.class_id) == ("great white shark", "n01484850")
    assert "man-eater" in shark.synonyms


@pytest.mark.parametrize("name", ["astronaut", "chelsea"])
def test_a_copy_in_jpeg_of_quality_75_has_nearly_the_same_embedding(
    default_server: RunningServer, tmp_path: Path, name: str
) -> None:
    """Of photos of half a megapixel and less; those of cameras are more alike still."""
    photo = getattr(data, name)()
    Image.fromarray(photo).save(tmp_path / "copy.jpg", quality=75)
    with Client(default_server.target) as client:
        original, copy = (
            np.asarray(client.classify(image, outputs=["embedding"]).embedding)
            for image in (photo, tmp_path / "copy.jpg")
        )
    assert original @ copy / np.linalg.norm(original) / np.linalg.norm(copy) > 0.98


@pytest.fixture(scope="module")
def validation(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, int]:
    """650 images of ImageNet's validation set by their paths, each with the index of its class."""
    source = SHARED / "data" / "imagenet-val"
    if not source.exists():
        pytest.skip("ImageNet's validation images are not at hand: ../shared/data/imagenet-val is missing")
    folder = tmp_path_factory.mktemp("imagenet")
    with zipfile.ZipFile(source / "images.zip") as archive:
        archive.extractall(folder)
    lines = [line.split() for line in (source / "labels.txt").read_text().splitlines() if line.strip()]
    return {folder / name: int(index) for name, index in lines}


def through_the_command_line(target: str, images: dict[Path, int], out: Path) -> dict[Path, int]:
    """The first answer to each image, as the command line writes it."""
    folder = next(iter(images)).parent
    command = [sys.executable, str(CLI), "classify", "--json", "--top-k=1", f"--target={target}", "-o", str(out)]
    subprocess.run([*command, str(folder)], check=True, capture_output=True)
    answers = map(json.loads, out.read_text().splitlines())
    return {Path(each["path"]): each["predictions"][0]["index"] for each in answers}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_it_knows_four_of_five_of_imagenet_s_validation_images(
    default_server: RunningServer, validation: dict[Path, int], tmp_path: Path
) -> None:
    """They are an easy subset of 650: other networks score 6 to 14 points above their published accuracy on them."""
    answers = through_the_command_line(default_server.target, validation, tmp_path / "answers.jsonl")
    right = sum(answers[path] == index for path, index in validation.items())
    sys.stderr.write(f"top-1 through the command line: {right / len(validation):.4f}\n")
    assert len(answers) == len(validation) == 650
    assert right / len(validation) >= 0.8


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_its_accuracy_is_that_of_pytorch_with_the_same_weights(
    default_server: RunningServer, validation: dict[Path, int], tmp_path: Path
) -> None:
    """timm's network and torchvision's transforms on the same files: within half a point."""
    from tests.models.parity.reference import torch_publisher

    timm = torch_publisher("timm")
    import torch
    from torchvision import transforms

    bicubic = transforms.InterpolationMode.BICUBIC
    fit = transforms.Compose([transforms.Resize(256, bicubic), transforms.CenterCrop(224)])

    network = timm.create_model("tf_efficientnet_lite0").eval()
    stored = torch.load(published.fetch(published.find("efficientnet_lite0")), weights_only=True)
    # The modules of both have the same order.
    network.load_state_dict(dict(zip(network.state_dict(), stored.values(), strict=True)))
    paths, theirs = [*validation], []
    with torch.inference_mode():
        for start in range(0, len(paths), _BATCH):
            crops = [fit(Image.open(path).convert("RGB")) for path in paths[start : start + _BATCH]]
            pixels = (np.stack([np.asarray(crop, np.float32) for crop in crops]) - 127) / 128
            theirs += network(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).argmax(1).tolist()
    ours = through_the_command_line(default_server.target, validation, tmp_path / "answers.jsonl")
    expected = np.mean([found == validation[path] for path, found in zip(paths, theirs, strict=True)])
    served = np.mean([ours[path] == index for path, index in validation.items()])
    same = np.mean([ours[path] == found for path, found in zip(paths, theirs, strict=True)])
    sys.stderr.write(f"top-1: {served:.4f} served, {expected:.4f} by PyTorch; the same answer to {same:.4f}\n")
    assert abs(served - expected) <= 0.005
    assert same > 0.97
