"""The decoding libraries as plain data: what is installed for each, in an environment of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_PILLOW = "pillow==13.0.0"
_NUMPY = "numpy==2.4.6"


@dataclass(frozen=True, slots=True)
class Library:
    """A library and the packages of its environment; `ways.py` has how it is used."""

    name: str
    packages: tuple[str, ...]  # pinned: another release is another benchmark
    needs: str = ""  # what pip does not bring
    build: Mapping[str, str] = field(default_factory=dict)  # environment variables for a library that is built here


LIBRARIES = (
    Library("pillow", (_PILLOW, _NUMPY)),
    # In Pillow's place, and built here: it has no wheels, and without the flag it uses SSE4 alone.
    Library(
        "pillow-simd",
        ("pillow-simd==12.1.1.post0", _NUMPY),
        needs="a C compiler and the headers of libjpeg and zlib",
        build={"CC": "cc -mavx2"},
    ),
    Library("simplejpeg", ("simplejpeg==1.9.0", _PILLOW, _NUMPY)),
    # The last release for libjpeg-turbo 2, which is what Debian has.
    Library("turbojpeg", ("PyTurboJPEG==1.8.3", _PILLOW, _NUMPY), "Debian's libturbojpeg0"),
    Library("opencv", ("opencv-python-headless==5.0.0.93", _PILLOW, _NUMPY)),
    Library("imagecodecs", ("imagecodecs==2026.3.6", _PILLOW, _NUMPY)),
    Library("pyvips", ("pyvips==3.2.0", "pyvips-binary==8.18.7", _PILLOW, _NUMPY)),
    Library("cykooz-resizer", ("cykooz-resizer==4.0.1", _PILLOW, _NUMPY)),
    Library("torch", ("torch==2.13.0", "simplejpeg==1.9.0", _PILLOW, _NUMPY)),
    Library("torchvision", ("torch==2.13.0", "torchvision==0.28.0", _PILLOW, _NUMPY), "PyTorch's build with CUDA"),
    Library("nvimgcodec", ("nvidia-nvimgcodec-cu12==0.9.0.20", _PILLOW, _NUMPY)),
)
