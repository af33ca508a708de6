"""Training: any architecture of the library on any folder or zip of ``class/image`` files.

`python -m glimpse.models.train --help` is the way in; its output is a bundle that the server loads.
"""
