"""Training of networks with auxiliary classifiers: their losses count, with a weight, beside that of the main one.

Szegedy et al., "Going Deeper with Convolutions", arXiv:1409.4842, section 5: "their loss gets added to the total loss
of the network with a discount weight", which is 0.3.
"""

from __future__ import annotations

from typing import Any

import keras


class WithAuxiliary(keras.Model):
    """A training graph with a list of logits, of which the first are the network's answer.

    In training, the loss is that of the first plus `auxiliary_weight` times that of each of the others. Metrics, and
    the loss of images that are not trained on, are of the first alone, so that they can be compared with those of any
    network.
    """

    auxiliary_weight = 0.0

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,  # noqa: FBT001, FBT002 - Keras' signature
    ) -> Any:
        """The loss of a batch: class numbers ``[N]`` and a list of logits ``[N, classes]`` -> a number."""
        main, *others = y_pred
        loss = super().compute_loss(x, y, main, sample_weight, training)
        if training:
            for other in others:
                loss += self.auxiliary_weight * self.loss(y, other)
        return loss

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """The metrics of the first logits."""
        metrics: dict[str, Any] = super().compute_metrics(x, y, y_pred[0], sample_weight)
        return metrics


def training_graph(model: keras.Model, weight: float) -> keras.Model:
    """The same graph, with the same variables, trained with the losses of its auxiliary classifiers if it has any.

    Args:
        model: pixels -> logits, or a list of them, those of the auxiliary classifiers after the network's.
        weight: by which the auxiliary losses are multiplied.
    """
    if not isinstance(model.output, list):
        return model
    made = WithAuxiliary(model.input, model.output, name=model.name)
    made.auxiliary_weight = weight
    return made


def relative_loss(model: keras.Model) -> float:
    """How many times the loss of one classifier the loss in training is, if all classifiers are equally good."""
    if not isinstance(model, WithAuxiliary):
        return 1.0
    return 1.0 + float(model.auxiliary_weight) * (len(model.outputs) - 1)
