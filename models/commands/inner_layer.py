"""Which inner layer of a network a score of novelty looks at, by the options of the command."""

from __future__ import annotations

import argparse

from glimpse.models import quiet
from glimpse.models.bundle import Bundle
from glimpse.models.novelty import novelty


def chosen(options: argparse.Namespace, bundle: Bundle) -> str:
    """The inner layer that the score looks at; empty: it looks at none.

    Raises:
        ValueError: the options contradict one another, or the network has no such layer.
    """
    if options.score not in {novelty.FEATURE_DISTANCE, novelty.LOGISTIC}:
        if options.layer or options.trained_on:
            raise ValueError(
                f"--layer and --trained-on are for --score {novelty.FEATURE_DISTANCE} and {novelty.LOGISTIC} alone."
            )
        return ""
    if options.score == novelty.LOGISTIC:
        if not options.foreign:
            raise ValueError(
                f"--score {novelty.LOGISTIC} is fitted on images that show none of the classes: name a folder of them "
                "with --foreign."
            )
        if not (options.layer or options.trained_on):
            return ""
    if bundle.graph:
        raise ValueError(
            f"{bundle.weights_path} is a graph of another framework, whose inner layers are not looked at: choose "
            f"another score than {novelty.FEATURE_DISTANCE}, or leave --layer and --trained-on away."
        )
    if options.layer:
        return str(options.layer)
    if not bundle.architecture:
        raise ValueError(f"{options.name} has a network of its own: name one of its layers with --layer.")
    quiet.load_keras()  # only now, because it takes seconds
    from glimpse.models import features
    from glimpse.models.builder import assemble
    from glimpse.models.catalogue import find

    row = find(bundle.architecture, bundle.variant, bundle.options).served()
    model = assemble(row, classes=len(bundle.labels), input_shape=bundle.input_shape).model
    if not (found := features.inner_layer(model)):
        raise ValueError(f"{options.name} has maps of one size only: name one of its layers with --layer.")
    return found
