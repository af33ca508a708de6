"""Groups of classes, and the names by which classes are allowed and denied."""

from __future__ import annotations

from pathlib import Path

import pytest

from glimpse.models import published
from glimpse.models.class_names import ClassNames, UnknownClassError
from glimpse.models.errors import BundleError
from glimpse.models.groups import ClassGroup, groups_of
from glimpse.models.labels import ClassLabel

IMAGENET = published.labels("imagenet1000")
LABELS = (
    ClassLabel("tabby", "n02123045", ("tabby cat",)),
    ClassLabel("beagle", "n02088364"),
    ClassLabel("pug", "n02110958", ("pug-dog",)),
    ClassLabel("7"),
    ClassLabel("crane"),
    ClassLabel("crane", "n03126707"),
)


def test_imagenets_groups_have_the_classes_of_their_names(tmp_path: Path) -> None:
    groups = {each.name: each.classes for each in groups_of(tmp_path, IMAGENET)}
    assert groups["dog"] == tuple(range(151, 269))
    assert [IMAGENET[each].label for each in groups["cat"]] == [
        *("tabby", "tiger cat", "Persian cat", "Siamese cat", "Egyptian cat")
    ]
    assert {IMAGENET[each].label for each in groups["bus"]} == {"minibus", "school bus", "trolleybus"}
    assert set(groups["dog"]) < set(groups["mammal"]) < set(groups["animal"])
    assert not set(groups["vehicle"]) & set(groups["animal"])


def test_another_order_of_imagenets_classes_has_the_same_groups(tmp_path: Path) -> None:
    """With a class before the others, as TensorFlow has it, or with a few of them: they are told by their ids."""
    background = groups_of(tmp_path, published.labels("imagenet1001"))
    assert next(each.classes for each in background if each.name == "dog") == tuple(range(152, 270))
    few = groups_of(tmp_path, LABELS)
    assert {(each.name, each.classes) for each in few} == {
        ("dog", (1, 2)),
        ("mammal", (0, 1, 2)),
        ("animal", (0, 1, 2)),
    }
    assert groups_of(tmp_path, LABELS[3:]) == ()


def test_a_file_beside_the_weights_names_groups_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "groups.toml").write_text('dog = ["1-2"]\npet = ["dog", "tabby cat"]\nlast = [5, "n02088364"]\n')
    assert groups_of(tmp_path, LABELS) == (
        ClassGroup("dog", (1, 2)),
        ClassGroup("pet", (0, 1, 2)),
        ClassGroup("last", (1, 5)),
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('dog = ["4-9"]', "the range 4-9 must rise within the indices 0 to 5"),
        ('dog = ["beagel"]', "no class or group 'beagel'. Did you mean beagle"),
        ("dog = [6]", "an index must be from 0 to 5. Received: 6"),
        ("dog = [true]", "a class must be an index or a text"),
        ("dog = []", "must be a list of classes"),
        ('dog = "pug"', "must be a list of classes"),
        ('"" = [1]', "a group's name must be"),
        ("dog", "groups.toml cannot be used"),
    ],
)
def test_a_file_of_groups_that_cannot_be_is_refused(text: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "groups.toml").write_text(text)
    with pytest.raises(BundleError, match=why):
        groups_of(tmp_path, LABELS)


@pytest.mark.parametrize(
    "text",
    ["".join(f'g{number} = ["0-999"]\n' for number in range(501)), "g = [" + '"0-999",\n' * 501 + "]"],
    ids=["groups", "one group"],
)
def test_all_groups_together_are_bounded(text: str, tmp_path: Path) -> None:
    """Whoever has the model described gets them all."""
    (tmp_path / "groups.toml").write_text(text)
    with pytest.raises(BundleError, match="all groups together may name at most 500,000 classes"):
        groups_of(tmp_path, IMAGENET)


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("tabby", {0}),
        ("Tabby_Cat", {0}),
        ("n02088364", {1}),
        ("dog", {1, 2}),
        ("2", {2}),
        ("7", {3}),  # a label comes before an index
        ("crane", {4, 5}),
    ],
)
def test_a_name_means_classes_by_label_id_group_or_index(name: str, classes: set[int]) -> None:
    assert ClassNames(LABELS, {"dog": (1, 2)}).find(name) == classes


def test_a_label_comes_before_a_group_and_a_group_before_a_synonym() -> None:
    assert ClassNames(LABELS, {"pug": (1, 2)}).find("pug") == {2}
    assert ClassNames(LABELS, {"pug-dog": (1, 2)}).find("pug-dog") == {1, 2}


def test_denied_classes_are_taken_from_the_allowed_ones() -> None:
    names = ClassNames(LABELS, {"dog": (1, 2)})
    assert names.choose([], ["dog"]) == (0, 3, 4, 5)
    assert names.choose(["dog", "tabby"], ["pug"]) == (0, 1)
    with pytest.raises(UnknownClassError, match="All classes that may answer are denied"):
        names.choose(["pug"], ["dog"])


@pytest.mark.parametrize(
    ("name", "suggestion"), [("tabbi", " Did you mean tabby?"), ("zzz", ""), ("", ""), ("t" * 10_000, "")]
)
def test_an_unknown_name_is_told_with_a_similar_one(name: str, suggestion: str) -> None:
    with pytest.raises(UnknownClassError) as refused:
        ClassNames(LABELS).find(name)
    assert str(refused.value).endswith(f".{suggestion}")
    assert len(str(refused.value)) < 300
