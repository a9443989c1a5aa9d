"""Kinds of image: what a file is (`identify`, over one module per kind), and our own slot image (`slot_image`)."""
