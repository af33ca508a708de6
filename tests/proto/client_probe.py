"""What a client-only environment can do, as JSON: `python client_probe.py [TARGET PHOTO]`.

Not a test itself: test_client_environments.py runs it with the Pythons of the environments under test.
"""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import google.protobuf

from glimpse import client
from glimpse.v1 import classifier_pb2 as pb

request = pb.ClassifyRequest(
    images=[pb.Image(encoded=b"\xff\xd8"), pb.Image(raw=pb.RawPixels(height=1, width=1, data=b"rgb"))],
    options=pb.ClassifyOptions(top_k=3),
)
seen: dict[str, object] = {
    "client": client.__file__,
    "protobuf": google.protobuf.__version__,
    "frameworks": [name for name in ("tensorflow", "keras", "torch", "jax", "numpy", "PIL") if find_spec(name)],
    "round_trip": pb.ClassifyRequest.FromString(request.SerializeToString()) == request,
}
try:
    from glimpse import Classifier
except ImportError as error:
    seen["classifier"] = str(error)
else:
    seen["classifier"] = Classifier.__module__
if len(sys.argv) > 1:
    target, photo = sys.argv[1:]
    with client.Client(target) as caller:
        result = caller.classify(Path(photo), top_k=3)
    seen["predictions"] = [(prediction.label, prediction.probability) for prediction in result.predictions]
print(json.dumps(seen))  # noqa: T201 - the output is its purpose
