"""gRPC: from a connection to plain values, and back. `servicer.py` is the way in for `Classify`."""
