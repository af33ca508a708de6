"""A bundle's network on its way to a runtime, in whichever form the runtime takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from glimpse.models.bundle import Bundle
from glimpse.models.spec import NetworkSummary
from glimpse.server import cleanup
from glimpse.server.runtime import converted_cache
from glimpse.server.runtime.converted_cache import Converted

if TYPE_CHECKING:
    import keras

    from glimpse.models.builder import Assembly


class Network:
    """Built by Keras, or converted beforehand: whatever a runtime asks for, once."""

    def __init__(self, bundle: Bundle, *, conversion_seconds: float = converted_cache.SECONDS) -> None:
        """Nothing is loaded yet; a conversion may take `conversion_seconds`."""
        self.bundle = bundle
        self._conversion_seconds = conversion_seconds
        self._converted: Converted | None = None
        self._assembly: Assembly | None = None

    def close(self) -> None:
        """Remove what was converted and could not be cached; a runtime that has it goes on."""
        if self._converted is not None and not self._converted.cached:
            cleanup.current().remove(self._converted.folder)

    def load(self, *, converted: bool) -> None:
        """Have it in the form that a runtime reads: `converted`, or as Keras built it. See these for what is raised."""
        _ = self.converted if converted else self.assembly

    @property
    def converted(self) -> Converted:
        """As files for OpenVINO; see `server.runtime.converted_cache.get_or_convert` for what it raises."""
        if self._converted is None:
            self._converted = converted_cache.get_or_convert(self.bundle, seconds=self._conversion_seconds)
        return self._converted

    def serving_model(self) -> keras.Model:
        """As a Keras model in this process, uint8 ``[N, H, W, C]`` -> its named outputs, float32.

        Raises:
            BundleError: the weights file is missing or not the one that the bundle was made with.
            WeightsError: the weights do not fit the architecture.
        """
        from glimpse.models.serving import serving_outputs

        return serving_outputs(self.assembly, self.bundle.recipe, self.bundle.temperature)

    @property
    def assembly(self) -> Assembly:
        """As Keras built it in this process, with its weights; see `serving_model` for what it raises."""
        if self._assembly is None:
            # Imported here, so that a runtime that needs no Keras does not wait for it.
            from glimpse.models.serving import load_bundle

            self._assembly = load_bundle(self.bundle)
        return self._assembly

    @property
    def summary(self) -> NetworkSummary:
        """What it is, from the form that there is by now."""
        return self.converted.network if self._assembly is None else self._assembly.summary
