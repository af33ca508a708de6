"""From the bytes of a file to the picture that training, evaluation and serving see: one function for all of them.

`decode` is that function. `formats` knows a kind of file by its first bytes; a module for each format reads the header
and leaves out whatever the picture does not need, before Pillow sees it.
"""
