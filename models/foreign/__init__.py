"""Graphs of other frameworks, which are served as they are: what their files say of themselves.

An ONNX file, a TFLite file, a TensorFlow SavedModel and an OpenVINO IR hold a whole network. `formats` has a row for
each; its reader, in a file of its own, finds what is needed before anything is computed: inputs and outputs, custom
operators, files beside the graph, and what the file says of labels and preprocessing. What else lies beside it is read
by `configs`, and `source` puts all of it together. Nothing here computes: OpenVINO reads the whole graph, in the
process that converts it (`server.runtime.graph_conversion`).

A file may come from anybody. The readers are our own and follow it in place: each offset and length is checked, what
they visit is counted, and they copy nothing but names and short texts, so they run in the server itself.
"""

from __future__ import annotations

from glimpse.models.foreign.facts import GraphError
from glimpse.models.foreign.source import Details, GraphFile, details, find

__all__ = ["Details", "GraphError", "GraphFile", "details", "find"]
