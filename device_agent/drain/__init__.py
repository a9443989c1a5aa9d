"""Taking a host out of service around what disrupts it, and bringing it back: by commands, by HTTP, or from Kubernetes."""
