"""Stubs of `glimpse.v1`: `classifier_pb2` has the messages, `classifier_pb2_grpc` the service."""
