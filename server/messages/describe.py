"""From a loaded model to its description on the wire: the same data that built it, nothing written twice."""

from __future__ import annotations

import json

from glimpse.models.heads import BINARY
from glimpse.server.answers.explanations import methods
from glimpse.server.decoding.decode import FORMATS
from glimpse.server.domain import ModelIdentity
from glimpse.server.loaded_model import LoadedModel
from glimpse.server.settings import Settings
from glimpse.v1 import classifier_pb2 as pb


def identity(model: ModelIdentity) -> pb.ModelIdentity:
    """Name, version and weights digest."""
    return pb.ModelIdentity(name=model.name, version=model.version, weights_digest=model.weights_digest)


def describe(model: LoadedModel, limits: pb.Limits) -> pb.DescribeModelResponse:
    """Everything that `DescribeModel` tells of `model`."""
    bundle, recipe, network = model.bundle, model.bundle.recipe, model.network
    height, width, channels = bundle.input_shape
    novelty = bundle.novelty
    return pb.DescribeModelResponse(
        model=identity(model.identity),
        architecture=bundle.architecture,
        variant=bundle.variant,
        paper=network.paper,
        input=pb.InputShape(height=height, width=width, channels=channels),
        classes=[
            pb.ClassLabel(index=i, label=label.label, class_id=label.class_id, synonyms=label.synonyms)
            for i, label in enumerate(bundle.labels)
        ],
        parameters=network.parameters,
        trainable_parameters=network.trainable_parameters,
        stages=[
            pb.Stage(
                name=stage.name,
                block=stage.block,
                repeats=stage.repeats,
                output_shape=stage.output_shape,
                parameters=stage.parameters,
                multiply_adds=stage.multiply_adds,
            )
            for stage in network.stages
        ],
        pre_stem=pb.PreStem(**recipe.to_dict(), digest=recipe.digest),
        temperature=bundle.temperature,
        runtime=runtime(model),
        limits=limits if model.geometries is None else _with_geometries(limits, model.geometries),
        output=network.output,
        options={name: json.dumps(value) for name, value in bundle.options.items()},
        novelty=None
        if novelty is None
        else pb.NoveltyThreshold(
            score=novelty.score, threshold=novelty.threshold, known_share=novelty.known_share, images=novelty.images
        ),
        outputs=[pb.OutputDescription(name=name, size=size) for name, size in model.output_sizes().items()],
        head=head(model),
        explanations=methods(model),
        groups=[pb.ClassGroup(name=group.name, classes=group.classes) for group in bundle.groups],
    )


def head(model: LoadedModel) -> pb.Head:
    """What the scores mean; that one score is of two classes is seen where the network is read."""
    found = model.bundle.head
    kind = BINARY if model.network.output == "binary" else found.kind
    return pb.Head(kind=kind, thresholds=found.thresholds, temperatures=found.temperatures, offsets=found.offsets)


def limits(settings: Settings) -> pb.Limits:
    """The limits that `DescribeModel` tells."""
    return pb.Limits(
        max_images_per_request=settings.max_images_per_request,
        max_image_bytes=settings.max_image_bytes,
        max_image_pixels=settings.max_image_pixels,
        max_message_bytes=settings.max_message_bytes,
        max_images_in_flight=settings.max_images_in_flight,
        formats=FORMATS,
        max_jpeg_pixels=settings.max_jpeg_pixels,
        jpeg_reducing_gap=settings.jpeg_reducing_gap,
        geometries=sorted(settings.allow_geometries),
        max_bytes_in_flight=settings.max_bytes_in_flight,
    )


def _with_geometries(limits: pb.Limits, geometries: frozenset[str]) -> pb.Limits:
    own = pb.Limits()
    own.CopyFrom(limits)
    own.geometries[:] = sorted(geometries)
    return own


def runtime(model: LoadedModel) -> pb.Runtime:
    """How a model runs."""
    told = pb.Runtime(name=model.runtime, device=model.device, precision=model.precision, batch_sizes=model.batch_sizes)
    if (found := model.agreement) is not None:
        told.agreement.precision = found.precision
        told.agreement.top1 = found.share
        told.agreement.pictures = found.pictures
        told.agreement.unclear = found.unclear
        told.agreement.labelled, told.agreement.lost = found.labelled, found.lost
        if found.speed:
            told.agreement.speed, told.agreement.faster_than = found.speed, found.faster_than
    return told
