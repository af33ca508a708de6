"""The networks of the benchmark, as bundles that the service can load.

Their weights are random, from a fixed seed: what a network costs does not depend on what it knows. Only the embedded
one and the default are trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from glimpse.models import bundle
from glimpse.models.bundle import BundleError, ClassLabel
from glimpse.models.published import recipes
from glimpse.server.runtime import selection
from tools.bench.worker import ROOT

FOLDER = ROOT / ".cache" / "bench" / "networks"
_CLASSES = 1000
_SEED = 1


@dataclass(frozen=True, slots=True)
class Network:
    """One network: what the service is told to load."""

    name: str
    architecture: str = ""  # of one with random weights
    variant: str = ""
    photos: bool = True  # fed with photos; else with pixels of its own size
    tag: str = ""  # of trained weights, in the place of an architecture

    def environment(self) -> dict[str, str]:
        """`GLIMPSE_*` variables with which the service loads it; makes the bundle first if it is not there yet."""
        if self.tag:
            return {"GLIMPSE_WEIGHTS": self.tag}
        folder = FOLDER / self.name
        try:
            bundle.read(folder).check_digest()
        except BundleError:
            _make(self, folder)
        # Random weights may give every picture the same answer, which the golden gate takes for a broken model.
        return {"GLIMPSE_WEIGHTS": str(folder), "GLIMPSE_GOLDEN": "off"}


NETWORKS = {
    network.name: network
    for network in (
        Network("embedded", photos=False, tag="cifar10"),
        Network("default", tag="imagenet"),
        Network("mobilenet", "mobilenet", "keras"),
        Network("resnet50", "resnet50", "torchvision"),
    )
}


def _make(network: Network, folder: Path) -> None:
    """Write the bundle of a network with random weights, behind torchvision's recipe at 224 x 224."""
    selection.choose("auto")  # Keras runs on what is installed
    import keras

    from glimpse.models import build, weights

    keras.utils.set_random_seed(_SEED)
    folder.mkdir(parents=True, exist_ok=True)
    weights.save(build(network.architecture, variant=network.variant, classes=_CLASSES), folder / bundle.WEIGHTS)
    bundle.write(
        folder,
        name=network.name,
        version="1",
        architecture=network.architecture,
        variant=network.variant,
        input_shape=(224, 224, 3),
        labels=[ClassLabel(f"class {i}") for i in range(_CLASSES)],
        recipe=recipes.torch(224, 256),
        temperature=1.0,
        metrics={},
    )
