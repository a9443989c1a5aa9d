"""Installing from an offline bundle, and the reports' way back, at a site without a network."""
