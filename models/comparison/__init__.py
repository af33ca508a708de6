"""Several models on the same images: how accurate each is, and how fast here.

Each model is measured in a process of its own (`glimpse.server.measuring`), which loads it as a server does.
"""
