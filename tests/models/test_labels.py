"""Class labels: how files of them are read and written, and the names by which a class is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from glimpse.models import published
from glimpse.models.errors import BundleError
from glimpse.models.labels import ClassLabel, check_labels, indices, line_of, read_labels

SHARK = ClassLabel("great white shark", "n01484850", ("white shark", "man-eater"))
KNOWN = (
    ClassLabel("cat"),
    SHARK,
    ClassLabel("dog", synonyms=("hound",)),
    ClassLabel("jay", "n01580077"),
)


def test_labels_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("".join(f"{line_of(label)}\n" for label in KNOWN), encoding="utf-8")
    assert path.read_text().splitlines() == [
        "cat",
        "great white shark\tn01484850\twhite shark, man-eater",
        "dog\t\thound",
        "jay\tn01580077",
    ]
    assert read_labels(path) == KNOWN


def test_a_line_of_four_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("cat\tn1\tpuss\tmore\n")
    with pytest.raises(BundleError, match=r"line 1 .*'label<TAB>class_id<TAB>synonym, synonym'. Received: "):
        read_labels(path)


@pytest.mark.parametrize("synonym", ["a,b", " ", "a\tb", "a\nb"])
def test_a_synonym_that_could_not_be_read_back_is_refused(synonym: str) -> None:
    with pytest.raises(BundleError, match=r"synonym|one line of text"):
        check_labels([ClassLabel("cat", "", (synonym,))])


@pytest.mark.parametrize(
    "name", ["great white shark", "great_white_shark", "n01484850", "white shark", "white_shark", "man-eater"]
)
def test_a_class_is_found_by_each_of_its_names(name: str) -> None:
    assert indices(KNOWN)[name] == 1


def test_a_label_comes_before_another_class_s_synonym() -> None:
    found = indices([ClassLabel("hen", "n1", ("cock", "bird")), ClassLabel("cock", "n2", ("bird",))])
    assert found == {"hen": 0, "n1": 0, "cock": 1, "n2": 1, "bird": 0}


def test_every_imagenet_class_is_found_by_the_names_that_keras_gives_it() -> None:
    labels = published.labels("imagenet1000")
    found = indices(labels)
    for index, label in enumerate(labels):
        assert found[label.class_id] == index
        # "crane" and "maillot" are two classes each.
        assert found[label.label.replace(" ", "_")] == index or label.label in {"crane", "maillot"}
    assert labels[2].synonyms == ("white shark", "man-eater", "man-eating shark", "Carcharodon carcharias")
    assert found["tabby_cat"] == 281
