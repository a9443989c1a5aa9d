"""The signed list of releases: TUF metadata. `publish` makes it, `client` reads it, `trust` decides what is believed."""
