"""How a device computes batches: how many side by side, and whether on the cores that also gather them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Streams:
    """What a batcher has to know of a device to keep it busy."""

    number: int = 1  # batches that the device computes at once
    gpu: bool = False  # it computes beside the cores that gather batches; else on these cores

    @property
    def gather_ahead(self) -> bool:
        """Whether a full batch is gathered while those before it compute.

        A GPU leaves the cores alone, and to gather a large batch takes them as long as it needs to compute one. Where
        several streams are the cores that would gather it, that gains nothing, and whoever has the next turn would wait
        for one batch more.
        """
        return self.gpu or self.number == 1

    @property
    def several_beside_cores(self) -> bool:
        """Whether several batches compute while the cores are free to gather the next, and to hand out answers."""
        return self.gpu and self.number > 1

    @property
    def workers(self) -> int:
        """Threads of a batcher, each of which holds one batch.

        There is one more than streams: while the others compute, it hands out the answers of the batch before, and
        gathers the next one where `gather_ahead` allows. Where several batches compute beside the cores there are two
        more, so that one is gathered while another is answered.
        """
        return self.number + (2 if self.several_beside_cores else 1)
