"""The short-lived process beside the resident one: it holds what needs keys, the catalogue, HTTPS or a slot's bytes."""
