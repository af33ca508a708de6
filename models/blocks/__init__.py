"""Blocks: shortcut + transform, squeeze-and-excitation, convolutions and heads, shared by all architectures."""
