"""Auxiliary classifiers are trained with their weighted losses, and are not in what is served."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file

from glimpse.models import bundle, evaluate
from glimpse.models.catalogue import find
from glimpse.models.train import __main__ as command
from glimpse.models.train import defaults
from glimpse.models.train.auxiliary import relative_loss, training_graph
from glimpse.models.train.fit import SmoothedCrossEntropy


def graph(*heads: str) -> keras.Model:
    """A network of one dense layer a classifier."""
    x = keras.Input((4,))
    outputs = [keras.layers.Dense(3, name=name)(x) for name in heads]
    return keras.Model(x, outputs if len(outputs) > 1 else outputs[0])


def test_the_losses_of_auxiliary_classifiers_count_with_their_weight() -> None:
    keras.utils.set_random_seed(1)
    model = training_graph(graph("main", "first", "second"), 0.3)
    model.compile(keras.optimizers.SGD(0.0), SmoothedCrossEntropy(3), metrics=["accuracy"])
    x, y = np.random.default_rng(1).normal(size=(8, 4)).astype(np.float32), np.arange(8) % 3
    logits = [keras.ops.convert_to_numpy(each) for each in model(x)]
    main, first, second = (float(SmoothedCrossEntropy(3)(y, each)) for each in logits)
    trained = model.fit(x, y, batch_size=8, verbose=0).history
    assert trained["loss"][0] == pytest.approx(main + 0.3 * first + 0.3 * second, rel=1e-5)
    assert trained.keys() == {"loss", "accuracy"}
    assert trained["accuracy"][0] == pytest.approx((logits[0].argmax(axis=1) == y).mean())
    # What is not trained on is judged by the main classifier alone.
    assert model.evaluate(x, y, verbose=0)[0] == pytest.approx(main, rel=1e-5)
    assert relative_loss(model) == pytest.approx(1.6)


def test_the_gradient_reaches_the_auxiliary_classifiers() -> None:
    model = training_graph(graph("main", "side"), 0.3)
    model.compile(keras.optimizers.SGD(1.0), SmoothedCrossEntropy(3))
    before = [np.asarray(weight) for weight in model.get_weights()]
    model.fit(np.ones((6, 4), np.float32), np.arange(6) % 2, verbose=0)
    assert all((old != new).any() for old, new in zip(before, model.get_weights(), strict=True))


def test_a_network_with_one_classifier_stays_what_it_is() -> None:
    model = graph("main")
    assert training_graph(model, 0.3) is model
    assert relative_loss(model) == 1.0


def test_the_weights_are_the_papers_and_the_publishers() -> None:
    assert defaults.auxiliary_weight(find("googlenet", "paper")) == 0.3
    assert defaults.auxiliary_weight(find("inception_v3")) == 0.4


@pytest.mark.slow
def test_a_network_trained_with_auxiliary_classifiers_is_served_without_them(
    patches: Path, test_patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    words = ["--data", str(patches), "--test", str(test_patches), "--out", str(out), "--architecture", "googlenet"]
    words += ["--size", "32x32", "--hold-out", "6", "--epochs", "1", "--option", "auxiliary=true"]
    words += ["--option", "se_ratio=8"]
    assert command.main(words) == 0
    made = bundle.read(out / "bundle")
    assert made.options == {"se_ratio": 8}
    assert not [name for name in load_file(made.weights_path) if name.startswith("auxiliary")]
    card = (made.folder / "MODEL_CARD.md").read_text()
    assert "**Auxiliary classifiers**: in training, their losses counted 0.3 times; the bundle is without them." in card
    assert "--option auxiliary=true" in card
    capsys.readouterr()
    assert evaluate.main(["--bundle", str(made.folder), "--data", str(test_patches), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metrics"] == pytest.approx(found["claimed"], abs=1e-5)
    assert command.main(words) == 0  # resumed: nothing is left to be trained
