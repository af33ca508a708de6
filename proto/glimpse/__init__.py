"""Glimpse on the wire: the stubs that protoc makes from the contract, by version."""
