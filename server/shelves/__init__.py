"""Where whole artifacts rest: the shelves that implement `server.ports.Shelf`. Only `s3_client` knows the library for S3."""
