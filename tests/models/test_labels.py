"""Class labels: how files of them are read and written, and the names by which a class is found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


def test_more_than_a_file_of_labels_may_have_is_refused() -> None:
    check_labels([ClassLabel("a" * 989, "n1", ("synonym",))])
    with pytest.raises(BundleError, match=r"at most 1,000 characters. Received: 'a+\.\.\.a+'"):
        check_labels([ClassLabel("a" * 990, "n1", ("a synonym",))])
    with pytest.raises(BundleError, match=r"at most 100,000 labels\. Received: 100,001"):
        check_labels([ClassLabel("a")] * 100_001)


def found(names: Iterable[str], labels: Sequence[ClassLabel]) -> dict[str, int]:
    return indices(names, labels, data="photos", model="net")


@pytest.mark.parametrize(
    "name",
    [
        *("great white shark", "great_white_shark", "n01484850", "white shark", "white_shark", "man-eater"),
        *("Great White Shark", "N01484850", "MAN-EATER"),
    ],
)
def test_a_class_is_found_by_each_of_its_names(name: str) -> None:
    assert found([name], KNOWN) == {name: 1}


def test_accents_may_be_characters_of_their_own() -> None:
    labels = [ClassLabel("cafe\u0301"), ClassLabel("caf\u00e9s", synonyms=("Cafe\u0301ha\u0308user",))]
    assert found(["caf\u00e9", "Cafe\u0301s", "caf\u00e9h\u00e4user"], labels) == {
        "caf\u00e9": 0,
        "Cafe\u0301s": 1,
        "caf\u00e9h\u00e4user": 1,
    }


def test_a_label_comes_before_another_class_s_synonym() -> None:
    labels = [ClassLabel("hen", "n1", ("cock",)), ClassLabel("cock", "n2"), ClassLabel("Cock", "n3")]
    assert found(["hen", "cock", "Cock", "n1"], labels) == {"hen": 0, "cock": 1, "Cock": 2, "n1": 0}


@pytest.mark.parametrize("name", ["panda", "panther", "crane", "Crane", "maillot"])
def test_a_name_of_several_classes_is_refused_with_all_of_them(name: str) -> None:
    """To count them as the first class would give a wrong accuracy without a word."""
    labels = published.labels("imagenet1000")
    with pytest.raises(ValueError, match=rf"several classes of net share: {name} \(n\d+ .*, n\d+ ") as told:
        found(["tabby", name], labels)
    assert "Name each by its class id, or leave it out." in str(told.value)


def test_a_name_of_no_class_is_refused_with_an_example() -> None:
    with pytest.raises(ValueError, match=r"photos has classes that net does not know: emu, yak\. .*'cat'"):
        found(["yak", "emu", "cat"], KNOWN)


def test_every_imagenet_class_is_found_by_the_names_that_keras_gives_it() -> None:
    labels = published.labels("imagenet1000")
    assert found([label.class_id for label in labels], labels) == {
        label.class_id: index for index, label in enumerate(labels)
    }
    assert found([labels[281].class_id], labels) == {labels[281].class_id: 281}
    # "crane" and "maillot" are two classes each.
    names = {label.label.replace(" ", "_"): index for index, label in enumerate(labels)}
    del names["crane"], names["maillot"]
    assert found(names, labels) == names
    assert labels[2].synonyms == ("white shark", "man-eater", "man-eating shark", "Carcharodon carcharias")
    assert found(["tabby_cat"], labels) == {"tabby_cat": 281}
