"""Encryption of what a release is made of: files in chunks that are decrypted as they arrive, and the keys to them."""
