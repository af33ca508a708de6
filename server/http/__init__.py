"""HTTP/JSON: the same service as over gRPC, behind the same access control, limits, metrics, traces and log lines.

uvicorn's protocol reads and writes HTTP/1.1 (`connection.py`), Starlette chooses what answers a path (`routes.py`), and
each answer is surrounded as a call of gRPC is (`endpoint.py`). What is served: TensorFlow Serving's and KServe's
`/v1/models/...:predict`, the Open Inference Protocol's `/v2/...`, `POST /classify`, and a page for a browser.
"""
