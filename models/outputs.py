"""Names of a model's outputs: what can be asked of a network for each image.

Every network has the first two below. A new one is one more layer of that name in `models.serving.serving_outputs`;
runtimes, batcher and pipeline carry whatever a model has, by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

PROBABILITIES: Final = "probabilities"  # softmax(logits / temperature), [classes]
LOGITS: Final = "logits"  # what the network gives before temperature and softmax, [classes]
# The features that the last layer makes the logits of, [D], see `models.features`; most networks have it.
EMBEDDING: Final = "embedding"
# That an embedding may have: there is room for one beside each image in flight. What is found of itself and has more is
# a flattened map, and nobody's embedding.
MOST_FEATURES: Final = 32_768

# Maps of the most probable classes, see `models.map_rows`; networks of `models.class_maps` have them. A request asks
# for an explanation and does not name them; where none does, they cost nothing.
CLASS_MAPS: Final = "class_maps"
FEATURE_MAP: Final = "feature_map"  # what runtimes of Keras make them of, [H, W, C]

# Means and mean squares of the channels of an inner layer, [2 C], see `models.novelty.feature_distance`. Only networks
# whose score of novelty needs them have them.
FEATURE_STATISTICS: Final = "feature_statistics"

HIDDEN: Final = frozenset({CLASS_MAPS, FEATURE_STATISTICS})  # which no caller can name
INNER: Final = frozenset({FEATURE_MAP, FEATURE_STATISTICS})  # which runtimes of Keras leave out unless they are needed

DEFAULT_OUTPUTS: Final = frozenset({PROBABILITIES})  # what is computed unless something else is asked for

# float32 arrays by the names of the outputs: of a batch, with the images first, or of a single image.
Outputs = Mapping[str, NDArray[np.float32]]
