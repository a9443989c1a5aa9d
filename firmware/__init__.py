"""What both ends must agree on, byte for byte.

Imports none of our other packages. Pure apart from `catalogue` and `delta`, which touch files they are given.
"""
