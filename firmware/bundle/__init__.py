"""The offline bundle: catalogue metadata, artifacts and orders in one file; and how reports come back without a network."""
