"""The pre-stem: what makes any image fit the input that a network's stem was designed for.

`recipe` is the plain value both halves are made from; `host` resizes, crops and pads uint8 pixels with
Pillow; `graph` scales them on the device, inside the network's graph.
"""
