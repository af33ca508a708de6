"""What the files of graphs of other frameworks say of themselves; damaged files give plain errors."""

from __future__ import annotations

import contextlib
import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from glimpse.models import foreign
from glimpse.models.bundle import BundleError
from glimpse.models.foreign import GraphError, formats
from glimpse.models.foreign.facts import Quantisation, TensorFacts
from glimpse.models.foreign.protobuf import Counter, Message
from tests.models.graph_makers import CLASSES, NAMES, RECIPE, SIZE, details, found, labels, onnx_model, saved
from tests.models.tflite_maker import tflite


def test_onnx_tells_its_inputs_without_its_weights(tmp_path: Path) -> None:
    model = onnx_model(batch=1)
    model.graph.input.append(helper.make_tensor_value_info("kernel", TensorProto.FLOAT, [6, 3, 3, 3]))
    path = saved(model, tmp_path)
    facts = formats.read(formats.BY_NAME["onnx"], path)
    assert facts.inputs == (TensorFacts(name="image", shape=(1, 3, SIZE, SIZE), dtype="float32"),)
    assert facts.outputs == (TensorFacts(name="answer", shape=(1, CLASSES), dtype="float32"),)
    assert facts.producer == "tests"


def external(folder: Path, location: str) -> Path:
    """A graph whose kernel is kept in another file."""
    model = onnx_model()
    (kernel,) = (each for each in model.graph.initializer if each.name == "kernel")
    data = kernel.raw_data
    kernel.ClearField("raw_data")
    kernel.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": str(len(data))}.items():
        kernel.external_data.add(key=key, value=value)
    path = saved(model, folder)
    (folder / "model.onnx.data").write_bytes(data)
    return path


def test_external_data_of_onnx_count_for_the_digest(tmp_path: Path) -> None:
    path = external(tmp_path, "model.onnx.data")
    before = found(path)
    assert before.weights_bytes == path.stat().st_size + (tmp_path / "model.onnx.data").stat().st_size
    (tmp_path / "model.onnx.data").write_bytes(bytes(6 * 3 * 9 * 4))
    assert found(path).weights_digest != before.weights_digest
    with pytest.raises(BundleError, match="is not the file"):
        before.verified()


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "model.onnx.data/../../x", "other.bin", ""])
def test_external_data_of_onnx_stay_in_its_folder(location: str, tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="kept in another file, which is not opened"):
        found(external(tmp_path, location))


def long_field(number: int, value: bytes) -> bytes:
    """A field of bytes, with a number and a length of any size."""

    def varint(rest: int) -> bytes:
        return (b"" if rest < 128 else bytes([rest & 127 | 128])) + (bytes([rest]) if rest < 128 else varint(rest >> 7))

    return varint(number << 3 | 2) + varint(len(value)) + value


def disguised(how: str) -> bytes:
    """A graph whose kernel is kept in `evil.bin`, in a place or a way that readers of Protocol Buffers differ on."""
    model = onnx_model()
    (kernel,) = (each for each in model.graph.initializer if each.name == "kernel")
    kernel.ClearField("raw_data")
    kernel.data_location = TensorProto.EXTERNAL
    bare = kernel.SerializeToString()
    model.graph.initializer.remove(kernel)
    key, value = field(1, b"location"), field(2, b"evil.bin")
    entry, number = key + value, 13
    match how:
        case "two values":
            entry = key + field(2, b"model.onnx.data") + value
        case "two keys":
            entry = field(1, b"checksum") + key + value
        case "a large number":
            number += 1 << 29
    tensor = bare + long_field(number, entry)
    graph = model.graph.SerializeToString()
    if how == "two graphs":
        model.ClearField("graph")
        return bytes(model.SerializeToString() + long_field(7, long_field(5, tensor)) + long_field(7, graph))
    if how == "a sparse attribute":
        sparse = long_field(5, long_field(1, b"sparse_value") + long_field(22, long_field(1, tensor)))
        return bytes(model.SerializeToString() + long_field(25, field(1, b"f") + long_field(7, sparse)))
    if how == "a function's default":
        default = long_field(11, field(1, b"value") + long_field(5, tensor))
        return bytes(model.SerializeToString() + long_field(25, field(1, b"f") + default))
    model.ClearField("graph")
    return bytes(model.SerializeToString() + long_field(7, graph + long_field(5, tensor)))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("in the open", "kept in another file, which is not opened"),
        ("two values", "a key or a value twice"),
        ("two keys", "a key or a value twice"),
        ("a large number", "a field with the number 536870925"),
        ("two graphs", "has two graphs"),
        ("a sparse attribute", "has a sparse tensor"),
        ("a function's default", "kept in another file, which is not opened"),
    ],
)
def test_external_data_of_onnx_are_found_in_every_disguise(how: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(disguised(how))
    details(tmp_path)
    (tmp_path / "model.onnx.data").write_bytes(bytes(6 * 3 * 9 * 4))
    (tmp_path / "evil.bin").write_bytes(bytes(6 * 3 * 9 * 4))
    with pytest.raises(GraphError, match=message):
        found(path)


def test_external_data_behind_a_link_or_missing_are_refused(tmp_path: Path) -> None:
    path = external(tmp_path / "mine", "model.onnx.data")
    (tmp_path / "mine" / "model.onnx.data").rename(tmp_path / "elsewhere")
    with pytest.raises(GraphError, match="which is not in its folder"):
        found(path)
    (tmp_path / "mine" / "model.onnx.data").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(GraphError, match="cp -rL"):
        found(path)


def ir(*, layers: str = "", head: str = "") -> str:
    """An IR of one input and one output."""
    port = "<port id='0' precision='FP32'>{}</port>"
    image = port.format(f"<dim>-1</dim><dim>3</dim><dim>{SIZE}</dim><dim>{SIZE}</dim>")
    scores = port.format(f"<dim>-1</dim><dim>{CLASSES}</dim>")
    return f"""<?xml version='1.0'?>{head}<net name='x' version='11'><layers>
    <layer id='0' name='image' type='Parameter' version='opset1'><data element_type='f32'/>
    <output>{image}</output></layer>
    {layers}<layer id='9' name='out' type='Result' version='opset1'><input>{scores}</input></layer></layers></net>"""


def test_an_ir_tells_its_input_and_output(tmp_path: Path) -> None:
    (tmp_path / "m.xml").write_text(ir())
    with pytest.raises(GraphError, match=r"needs its weights, m\.bin"):
        formats.read(formats.BY_NAME["openvino"], tmp_path / "m.xml")
    (tmp_path / "m.bin").write_bytes(b"")
    facts = formats.read(formats.BY_NAME["openvino"], tmp_path / "m.xml")
    assert facts.inputs == (TensorFacts(name="image", shape=(None, 3, SIZE, SIZE), dtype="float32"),)
    assert facts.outputs == (TensorFacts(name="out", shape=(None, CLASSES), dtype="float32"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ir(head="<!DOCTYPE net [<!ENTITY a 'aaaa'>]>"), "declares a document type"),
        (ir().replace("</net>", ""), "is no XML"),
        (ir().replace("?>", " encoding='martian'?>"), "is no XML"),
        ("<annotation/>", "begins with the element 'annotation'"),
        (ir(layers="<a>" * 100 + "</a>" * 100), "levels"),
        (
            ir(layers="<layer id='1' name='s' type='Sharpen' version='extension'/>"),
            r"custom operators.*extension\.Sharpen",
        ),
    ],
)
def test_an_ir_that_is_none_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "m.xml").write_text(text)
    (tmp_path / "m.bin").write_bytes(b"")
    details(tmp_path)
    with pytest.raises(GraphError, match=message):
        found(tmp_path / "m.xml")


def field(number: int, value: bytes | int) -> bytes:
    """A field of a message: a number below 128, or bytes."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    size = len(value)
    return bytes([number << 3 | 2, *([size] if size < 128 else [size & 127 | 128, size >> 7])]) + value


def saved_model(signature: str = "serving_default", inputs: int = 1) -> bytes:
    """A SavedModel's file with a signature and no graph."""

    def tensor(sides: list[int]) -> bytes:
        shape = b"".join(field(2, field(1, side) if side else b"") for side in sides)
        return field(2, 1) + field(3, shape)

    def entry(name: str, value: bytes) -> bytes:
        return field(1, name.encode()) + field(2, value)

    takes = b"".join(field(1, entry(f"image{n}", tensor([0, SIZE, SIZE, 3]))) for n in range(inputs))
    given = takes + field(2, entry("scores", tensor([0, CLASSES])))
    meta = field(1, field(5, b"2.21.0")) + field(5, entry(signature, given))
    return field(1, 1) + field(2, meta)


def test_a_saved_model_tells_its_signature(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "saved_model.pb").write_bytes(saved_model())
    details(tmp_path)
    facts = formats.read(formats.BY_NAME["savedmodel"], tmp_path / "mine" / "saved_model.pb")
    assert facts.inputs == (TensorFacts(name="image0", shape=(None, SIZE, SIZE, 3), dtype="float32"),)
    assert facts.outputs == (TensorFacts(name="scores", shape=(None, CLASSES), dtype="float32"),)
    assert facts.producer == "TensorFlow 2.21.0"
    # Labels and recipe may lie in the folder that is named, or in that of the model.
    assert found(tmp_path).name == "mine"
    details(tmp_path / "mine")
    assert found(tmp_path / "mine").graph == "savedmodel"


def test_the_variables_of_a_saved_model_count_for_its_digest(tmp_path: Path) -> None:
    (tmp_path / "variables").mkdir()
    (tmp_path / "saved_model.pb").write_bytes(saved_model())
    details(tmp_path)
    before = found(tmp_path)
    (tmp_path / "variables" / "variables.index").write_bytes(b"1")
    assert found(tmp_path).weights_digest != before.weights_digest
    (tmp_path / "variables" / "variables.data-00000-of-00001").symlink_to("/etc/hostname")
    with pytest.raises(GraphError, match="a link which leads out of it"):
        found(tmp_path)


def test_a_saved_model_without_the_signature_names_those_it_has(tmp_path: Path) -> None:
    details(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(saved_model("train"))
    with pytest.raises(GraphError, match=r"signature serving_default.*Received: train"):
        found(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(saved_model(inputs=2))
    with pytest.raises(GraphError, match=r"must have one input.*'image0'.*'image1'"):
        found(tmp_path)


def test_a_tflite_file_tells_its_quantisation_labels_and_scaling(tmp_path: Path) -> None:
    files = {"names.txt": "\n".join(NAMES), "labels.txt": "not these"}
    (tmp_path / "m.tflite").write_bytes(tflite(files=files, described=True))
    facts = formats.read(formats.BY_NAME["tflite"], tmp_path / "m.tflite")
    quantised = Quantisation(scale=1 / 128, zero_point=128)
    assert facts.inputs == (TensorFacts(name="image", shape=(1, SIZE, SIZE, 3), dtype="uint8", quantisation=quantised),)
    assert facts.producer == "made by hand"
    bundle = found(tmp_path / "m.tflite")
    assert [each.label for each in bundle.labels] == NAMES
    recipe = bundle.recipe
    assert (recipe.mean, recipe.std, recipe.geometry) == ((100.0,) * 3, (50.0,) * 3, "squash")


def test_an_associated_file_called_labels_needs_no_metadata(tmp_path: Path) -> None:
    details(tmp_path, labels=None)
    (tmp_path / "m.tflite").write_bytes(tflite(files={"labels.txt": "\n".join(NAMES)}))
    assert labels(tmp_path / "m.tflite") == NAMES


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_associated_files_of_other_compressions_are_refused(method: int, tmp_path: Path) -> None:
    details(tmp_path, labels=None)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", method) as whole:
        whole.writestr("labels.txt", "a\nb\n" * 100)
    (tmp_path / "m.tflite").write_bytes(tflite() + archive.getvalue())
    with pytest.raises(GraphError, match="in another way than stored or deflated"):
        found(tmp_path / "m.tflite")


@pytest.mark.parametrize("large", [False, True], ids=["plain", "ZIP64"])
def test_a_large_directory_of_associated_files_is_not_read(large: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """A record of ZIP64 in front of the last one has sizes of its own, which Python's zipfile takes."""
    details(tmp_path, labels=None)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as whole:
        for number in range(20):
            whole.writestr(f"{number:02}" + "x" * 60_000, "")
    parts = archive.getvalue()
    if large:
        start, end = len(parts) - 22, parts[-22:]
        size, offset = struct.unpack("<II", end[12:20])
        record = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 20, 20, size, offset)
        locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, start, 1)
        parts = parts[:-22] + record + locator + end[:12] + bytes(8) + end[20:]
        assert len(zipfile.ZipFile(io.BytesIO(parts)).infolist()) == 20
    (tmp_path / "m.tflite").write_bytes(tflite() + parts)
    with pytest.raises(GraphError, match="has a directory of more than 1,048,576 bytes"):
        found(tmp_path / "m.tflite")


def test_a_custom_operator_of_tflite_is_named(tmp_path: Path) -> None:
    details(tmp_path)
    (tmp_path / "m.tflite").write_bytes(tflite(custom="Sharpen"))
    with pytest.raises(GraphError, match=r"custom operators.*: Sharpen\."):
        found(tmp_path / "m.tflite")


# Damaged files.

SEEDS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "onnx": ("m.onnx", lambda: onnx_model(metadata={"names": "['a', 'b']"}).SerializeToString()),
    "tflite": ("m.tflite", lambda: tflite(custom="X", files={"labels.txt": "a\nb\n"}, described=True)),
    "savedmodel": ("saved_model.pb", saved_model),
    "openvino": ("m.xml", lambda: ir().encode()),
}


@pytest.mark.parametrize("name", SEEDS)
@given(data=st.data())
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_graph_is_read_or_refused(name: str, data: st.DataObject, tmp_path: Path) -> None:
    file, make = SEEDS[name]
    whole = bytearray(make())
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(whole) - 1))
        whole[place : place + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=6))
        if not whole:
            whole = bytearray(b"\0")
    (tmp_path / "m.bin").write_bytes(b"")
    (tmp_path / file).write_bytes(bytes(whole[: data.draw(st.integers(0, len(whole)))]) or b"")
    with contextlib.suppress(GraphError):
        formats.read(formats.BY_NAME[name], tmp_path / file)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    counter = Counter(50)
    try:
        for _, value in Message(memoryview(data), counter):
            if not isinstance(value, int):
                list(Message(value, counter))
    except ValueError:
        pass


def test_a_file_of_too_many_fields_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counter.__init__, "__defaults__", (1000,))
    details(tmp_path)
    (tmp_path / "m.onnx").write_bytes(b"\x08\x08" + long_field(7, field(1, b"") * 2000))
    with pytest.raises(GraphError, match="is damaged: as ONNX it has more than"):
        found(tmp_path / "m.onnx")


def test_a_file_that_is_cut_short_is_damaged_and_an_empty_one_no_graph(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"")
    assert foreign.find(tmp_path / "m.onnx") is None
    (tmp_path / "m.onnx").write_bytes(struct.pack("<Q", 8) + b"{}      ")  # safetensors begin like this
    assert foreign.find(tmp_path / "m.onnx") is None
    onnx.save(onnx_model(), tmp_path / "whole.onnx")
    cut = (tmp_path / "whole.onnx").read_bytes()[:100]
    (tmp_path / "m.onnx").write_bytes(cut)
    details(tmp_path, recipe=RECIPE)
    with pytest.raises(BundleError, match=r"m\.onnx is damaged: as ONNX it .* Copy it again"):
        found(tmp_path / "m.onnx")
