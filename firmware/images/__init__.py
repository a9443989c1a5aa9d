"""Kinds of image: what a file is (`identify`), and our own slot image (`slot_image`)."""
