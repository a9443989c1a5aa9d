"""Deltas: a patch that turns one image into another.

`format` is the bytes, `make` the server's side, `apply` the device's: one forward pass in bounded memory.
"""
