"""Batching: one bounded queue with a lane per client, fired when the device is free. No gRPC, no framework."""
