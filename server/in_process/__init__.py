"""Classifying in the caller's own process: the service's pipeline without a server, for notebooks and batch jobs."""

from glimpse.server.in_process.classifier import Classifier

__all__ = ["Classifier"]
