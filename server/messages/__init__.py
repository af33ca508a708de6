"""Protobuf messages that several transports share: to plain values, and back."""
