"""How a graph of another framework is found, and which labels and which recipe belong to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from glimpse.models import golden
from glimpse.models.bundle import BundleError
from tests.models.graph_makers import CLASSES, NAMES, SIZE, details, found, labels, onnx_model, saved


def test_a_folder_with_one_graph_is_served_as_that_graph(tmp_path: Path) -> None:
    path = saved(onnx_model(), tmp_path / "models", name="birds v2.onnx")
    bundle = found(tmp_path / "models")
    assert (bundle.name, bundle.graph, bundle.weights_path) == ("birds-v2", "onnx", path)
    assert found(path) == bundle
    assert bundle.version == bundle.weights_digest.removeprefix("sha256:")[:8]


def test_a_folder_with_several_graphs_names_them(tmp_path: Path) -> None:
    saved(onnx_model(), tmp_path, name="a.onnx")
    saved(onnx_model(), tmp_path, name="b.onnx")
    with pytest.raises(BundleError, match=r"several graphs.*a\.onnx, b\.onnx\. Give the path of one"):
        found(tmp_path)


def test_a_graph_whose_architecture_is_named_gives_its_weights_to_it(tmp_path: Path) -> None:
    path = saved(onnx_model(), tmp_path)
    bundle = found(path, architecture="squeezenet1_1")
    assert (bundle.architecture, bundle.graph) == ("squeezenet1_1", "")


@pytest.mark.parametrize(
    ("settings", "named"), [({"options": {"alpha": 0.5}}, "GLIMPSE_OPTIONS"), ({"variant": "timm"}, "GLIMPSE_VARIANT")]
)
def test_settings_of_the_library_are_refused_for_a_graph(settings: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=f"{named} is for architectures of the library"):
        found(saved(onnx_model(), tmp_path), **settings)


def test_a_folder_that_a_link_leads_out_of_is_refused(tmp_path: Path) -> None:
    path = saved(onnx_model(), tmp_path / "elsewhere")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.onnx").symlink_to(path)
    with pytest.raises(BundleError, match="leads out of its folder"):
        found(tmp_path / "mine")


def test_golden_answers_beside_a_graph_belong_to_it(tmp_path: Path) -> None:
    path = saved(onnx_model(), tmp_path)
    assert found(path).golden == ""
    (tmp_path / golden.FOLDER).mkdir()
    (tmp_path / golden.FOLDER / golden.ANSWERS).write_text("{}")
    assert found(path).golden == golden.FOLDER
    with pytest.raises(BundleError, match="has no valid golden answers"):
        golden.read(found(path))


# Labels and recipe.


def test_settings_come_before_files_and_files_before_metadata(tmp_path: Path) -> None:
    said = {"labels": json.dumps(NAMES), "recipe": json.dumps({"mean": [1.0] * 3})}
    path = saved(onnx_model(metadata=said), tmp_path, labels=None, recipe=None)
    assert labels(path) == NAMES
    assert (found(path).recipe.mean, found(path).recipe.shape) == ((1.0, 1.0, 1.0), (SIZE, SIZE, 3))
    details(tmp_path)
    assert labels(path)[0] == "class 0"
    assert found(path).recipe.mean == (127.5,) * 3
    (tmp_path / "mine.txt").write_text("one\ntwo\nthree\nfour\n")
    (tmp_path / "mine.json").write_text(json.dumps({"height": SIZE, "width": SIZE}))
    bundle = found(path, labels=tmp_path / "mine.txt", recipe=tmp_path / "mine.json")
    assert (bundle.labels[0].label, bundle.recipe.mean) == ("one", (0.0,) * 3)


def test_the_image_metadata_of_onnx_give_a_recipe(tmp_path: Path) -> None:
    said = {"Image.BitmapPixelFormat": "Bgr8", "Image.NominalPixelRange": "Normalized_1_1"}
    recipe = found(saved(onnx_model(metadata=said), tmp_path, recipe=None)).recipe
    assert (recipe.channels, recipe.mean, recipe.std) == ("BGR", (127.5,) * 3, (127.5,) * 3)
    assert recipe.shape == (SIZE, SIZE, 3)


def test_a_graph_without_a_recipe_is_told_what_one_looks_like(tmp_path: Path) -> None:
    with pytest.raises(BundleError) as error:
        found(saved(onnx_model(), tmp_path, recipe=None))
    example = str(error.value).partition("for example ")[2].partition("}")[0] + "}"
    assert (json.loads(example)["height"], json.loads(example)["width"]) == (SIZE, SIZE)
    (tmp_path / "recipe.json").write_text(example)  # and it works
    assert found(tmp_path).recipe.height == SIZE
    with pytest.raises(BundleError, match="takes images of any size; give the one that it was trained with"):
        found(saved(onnx_model(size=None), tmp_path / "any", recipe=None))


def test_a_graph_without_labels_is_told_how_many_it_needs(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=f"needs its labels.*one line for each of its {CLASSES} classes"):
        found(saved(onnx_model(), tmp_path, labels=None))
