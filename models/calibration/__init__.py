"""Calibrating any weights on labelled images: the temperature, the threshold of novelty, the reference of drift.

The logits come from a process of `glimpse.server.measuring`, which loads the model as a server does, so that published
weights, files, graphs of other frameworks and bundles are all calibrated in the same way.
"""
