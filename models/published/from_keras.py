"""What Keras Applications publishes: legacy HDF5 files, most with an MD5 in Keras' own source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from glimpse.models.published import recipes
from glimpse.models.published.checkpoint import Checkpoint, Checksum

_URL = "https://storage.googleapis.com/tensorflow/keras-applications/"
_SOURCE = "https://keras.io/api/applications/"
_OLD_SOURCE = (
    "https://github.com/keras-team/keras-applications/blob/e0a6492/README.md"  # for what keras.io no longer lists
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Family:
    """What the networks of one module of `keras.applications` have in common."""

    mode: Literal["caffe", "tf", "torch"]  # of its `preprocess_input`
    licence: str  # as Keras' documentation states it, after those whose weights were ported
    folder: str = ""  # below _URL; empty: named after the network
    size: int = 224  # of the input, pixels


_VGG = _Family(mode="caffe", licence="CC-BY-4.0")  # Oxford's Visual Geometry Group
_RESNET = _Family(mode="caffe", licence="MIT", folder="resnet")  # Kaiming He
# Google's, ported from TensorFlow-Slim.
_RESNET_V2 = _Family(mode="tf", licence="Apache-2.0", folder="resnet")
_DENSENET = _Family(mode="torch", licence="BSD-3-Clause", folder="densenet")  # its authors
# Facebook. `keras.applications` has lost its constructor; its source still has the file's hash.
_RESNEXT = _Family(mode="torch", licence="BSD-3-Clause", folder="resnet")
_INCEPTION = _Family(mode="tf", licence="Apache-2.0", size=299)  # Google
_XCEPTION = _Family(mode="tf", licence="MIT", size=299)  # trained by its author
_MOBILENET = _Family(mode="tf", licence="Apache-2.0")  # Google


def _row(
    architecture: str,
    family: _Family,
    upstream: str,
    md5: str | None,
    *,
    accuracy: tuple[float, float],
    file: str = "",
    tag: str = "imagenet",
    source: str = _SOURCE,
    options: Mapping[str, Any] | None = None,
) -> Checkpoint:
    file = file or f"{architecture}_weights_tf_dim_ordering_tf_kernels.h5"
    return Checkpoint(
        architecture=architecture,
        variant="keras",
        tag=tag,
        publisher="keras",
        upstream=upstream,
        url=f"{_URL}{family.folder or architecture}/{file}",
        file=file,
        checksum=Checksum("md5", md5) if md5 else None,
        recipe=recipes.keras(family.size, family.mode),
        top1=accuracy[0],
        top5=accuracy[1],
        source=source,
        licence=family.licence,
        options=options or {},
    )


def _resnet_v2(layers: int, md5: str, accuracy: tuple[float, float]) -> Checkpoint:
    """A ResNet with pre-activation, in whose file's name the version is written together with the number."""
    file = f"resnet{layers}v2_weights_tf_dim_ordering_tf_kernels.h5"
    return _row(f"resnet{layers}_v2", _RESNET_V2, f"ResNet{layers}V2", md5, accuracy=accuracy, file=file)


def _narrow(alpha: float, file: str, accuracy: tuple[float, float]) -> Checkpoint:
    """MobileNet with a fraction of its channels."""
    return _row(
        "mobilenet",
        _MOBILENET,
        "MobileNet",
        None,
        accuracy=accuracy,
        file=file,
        tag=f"imagenet_alpha{alpha}",
        source=_OLD_SOURCE,
        options={"alpha": alpha},
    )


# Keras' source has no hashes of the MobileNets.
ROWS = (
    _row("vgg16", _VGG, "VGG16", "64373286793e3c8b2b4e3219cbf3544b", accuracy=(71.3, 90.1)),
    _row("vgg19", _VGG, "VGG19", "cbe5617147190e668d6c5d5026f83318", accuracy=(71.3, 90.0)),
    _row("resnet50", _RESNET, "ResNet50", "2cb95161c43110f7111970584f804107", accuracy=(74.9, 92.1)),
    _row("resnet101", _RESNET, "ResNet101", "f1aeb4b969a6efcfb50fad2f0c20cfc5", accuracy=(76.4, 92.8)),
    _row("resnet152", _RESNET, "ResNet152", "100835be76be38e30d865e96f2aaae62", accuracy=(76.6, 93.1)),
    _resnet_v2(50, "3ef43a0b657b3be2300d5770ece849e0", (76.0, 93.0)),
    _resnet_v2(101, "6343647c601c52e1368623803854d971", (77.2, 93.8)),
    _resnet_v2(152, "a49b44d1979771252814e80f8ec446f9", (78.0, 94.2)),
    _row(
        "resnext50",
        _RESNEXT,
        "ResNeXt50",
        "67a5b30d522ed92f75a1f16eef299d1a",
        accuracy=(77.74, 93.81),
        source=_OLD_SOURCE,
    ),
    _row("densenet121", _DENSENET, "DenseNet121", "9d60b8095a5708f2dcce2bca79d332c7", accuracy=(75.0, 92.3)),
    _row("densenet169", _DENSENET, "DenseNet169", "d699b8f76981ab1b30698df4c175e90b", accuracy=(76.2, 93.2)),
    _row("densenet201", _DENSENET, "DenseNet201", "1ceb130c1ea1b78c3bf6114dbdfd8807", accuracy=(77.3, 93.6)),
    _row("inception_v3", _INCEPTION, "InceptionV3", "9a0d58056eeedaa3f26cb7ebd46da564", accuracy=(77.9, 93.7)),
    _row(
        "inception_resnet_v2",
        _INCEPTION,
        "InceptionResNetV2",
        "e693bd0210a403b3192acc6073ad2e96",
        accuracy=(80.3, 95.3),
    ),
    _row("xception", _XCEPTION, "Xception", "0a58e3b7378bc2990ea3b43d5981f1f6", accuracy=(79.0, 94.5)),
    _row("mobilenet", _MOBILENET, "MobileNet", None, accuracy=(70.4, 89.5), file="mobilenet_1_0_224_tf.h5"),
    _narrow(0.75, "mobilenet_7_5_224_tf.h5", (68.41, 88.24)),
    _narrow(0.5, "mobilenet_5_0_224_tf.h5", (64.29, 85.62)),
    _narrow(0.25, "mobilenet_2_5_224_tf.h5", (51.58, 75.79)),
    _row(
        "mobilenet_v2",
        _MOBILENET,
        "MobileNetV2",
        None,
        accuracy=(71.3, 90.1),
        file="mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5",
    ),
)
