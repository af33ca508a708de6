"""The pre-stem: what makes any image fit the input that a network's stem was designed for.

`recipe` is the plain value both halves are made from; `host` resizes, crops and pads uint8 pixels with Pillow, once
`colour` has made them upright RGB, and with `resampling` where nothing is averaged; where the network sees one channel
it makes them grey first. `graph` scales them on the device, inside the network's graph. `picture` is what stands
between a decoder and `host`.
"""
