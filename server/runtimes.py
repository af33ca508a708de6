"""Runtimes and precisions, one row each: what it needs, what it takes, how it is imported. Plain data.

A new runtime is one more row in `RUNTIMES` and the class that it names; a new precision is one more row in
`PRECISIONS`. Settings take their names from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RuntimeName = Literal["tensorflow", "openvino", "jax", "torch", "simulated"]
Precision = Literal["float32", "bfloat16", "int8"]
# Batches that a runtime with streams gives a GPU at once: one is copied while another computes.
GPU_STREAMS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeRow:
    """A runtime, before anything of it is imported."""

    name: RuntimeName
    implementation: str  # ``module:class``, imported when a model is built with it
    packages: tuple[str, ...]  # that must be importable
    distributions: tuple[str, ...]  # under which it is published; the first that is installed has its version
    extra: str  # of ours, which installs them
    backend: str | None  # of Keras, which builds the network; None: it computes no network, and is chosen by name alone
    # Memory at the peak of loading, in copies of the parameters as float32: the file, Keras' variables, and what the
    # runtime makes of them.
    copies: float
    copies_converted: float | None = None  # where the network is in the cache; None: it reads no converted networks
    keeps: bool = False  # what it makes of a Keras model can be kept, see `runtime.kept_network`
    quantises: bool = False  # it computes in int8
    gpu_probe: str | None = None  # ``module:function``, which says whether it sees a GPU; None: it has no build for one

    @property
    def simulated(self) -> bool:
        """Whether it takes the time of a device without computing anything: its answers mean nothing."""
        return self.backend is None

    @property
    def reads_converted(self) -> bool:
        """Whether it reads a converted network from files; else it is given a Keras model, or nothing if simulated."""
        return self.copies_converted is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionRow:
    """The numbers that a network is computed in."""

    name: Precision
    tolerance: float  # by which a probability may differ from the recorded one
    keras_policy: str  # Keras' name of the layers' dtype policy; empty: Keras' networks are not computed in it
    openvino_hint: str  # OpenVINO's INFERENCE_PRECISION_HINT: of int8 for the layers that are not quantised


# In the order in which `auto` takes them. On a CPU OpenVINO takes 0.44 to 0.89 of TensorFlow's processor time, by
# network and batch size; the last two are for an installation without TensorFlow, and of them JAX computes faster but
# starts slower. OpenVINO has no build for CUDA; there TensorFlow is what our `gpu` installs. No order on GPUs was
# measured.
#
# Copies were measured on ResNet-50 and VGG16: loading alone 3.8 and 4.5; the conversion for OpenVINO 2.9 and 4.4, and a
# server with a converted network, which compiles it twice, 1.9 and 2.0; TensorFlow's frozen graph 11.8 on ResNet-50.
# The lowest counts, and what layers hold between them is left out: a model that would have fitted must not be refused.
# JAX and PyTorch were not measured; loading is the same for them.
RUNTIMES: dict[str, RuntimeRow] = {
    row.name: row
    for row in (
        RuntimeRow(
            name="openvino",
            implementation="glimpse.server.runtime.openvino:OpenVINORuntime",
            packages=("openvino", "tensorflow"),  # TensorFlow makes the graph that it converts
            distributions=("openvino",),
            extra="server",
            backend="tensorflow",
            copies=2.9,
            copies_converted=1.8,
            quantises=True,
        ),
        RuntimeRow(
            name="tensorflow",
            implementation="glimpse.server.runtime.tensorflow:TensorFlowRuntime",
            packages=("tensorflow",),
            distributions=("tensorflow", "tensorflow-cpu"),  # the latter is for CPUs alone
            extra="server",
            backend="tensorflow",
            copies=4.5,
            gpu_probe="glimpse.server.runtime.gpus:tensorflow_sees_gpu",
        ),
        RuntimeRow(
            name="jax",
            implementation="glimpse.server.runtime.jax:JaxRuntime",
            packages=("jax",),
            distributions=("jax",),
            extra="jax",
            backend="jax",
            copies=3.8,
            keeps=True,
            gpu_probe="glimpse.server.runtime.gpus:jax_sees_gpu",
        ),
        RuntimeRow(
            name="torch",
            implementation="glimpse.server.runtime.torch:TorchRuntime",
            packages=("torch",),
            distributions=("torch",),
            extra="torch",
            backend="torch",
            copies=3.8,
            keeps=True,
            gpu_probe="glimpse.server.runtime.gpus:torch_sees_gpu",
        ),
        RuntimeRow(
            name="simulated",
            implementation="glimpse.server.runtime.simulated:SimulatedRuntime",
            packages=(),
            distributions=(),
            extra="server",
            backend=None,
            copies=0.0,
        ),
    )
}

REFERENCE: Precision = "float32"  # which any other has to agree with
QUANTISED: Precision = "int8"  # for which another network is made of the one in float32

# Tolerances: in float32 the runtimes differ by the order in which they add up, 1e-4 at the most over the library's
# networks, 1e-7 on the shipped one. bfloat16 keeps 8 bits of each number: 0.056 at the most over 512 pieces of
# photographs on the shipped network, half of them within 0.004. int8 has 256 numbers for all values of a layer: 0.24 at
# the most over the five recorded photographs of EfficientNet-Lite0.
PRECISIONS: dict[str, PrecisionRow] = {
    row.name: row
    for row in (
        PrecisionRow(name="float32", tolerance=1e-3, keras_policy="float32", openvino_hint="f32"),
        PrecisionRow(name="bfloat16", tolerance=0.1, keras_policy="mixed_bfloat16", openvino_hint="bf16"),
        PrecisionRow(name="int8", tolerance=0.3, keras_policy="", openvino_hint="f32"),
    )
}
