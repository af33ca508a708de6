"""Training any architecture of the library on a folder or a zip file of images; the result is a bundle.

See `python -m glimpse.models.train --help`.
"""
