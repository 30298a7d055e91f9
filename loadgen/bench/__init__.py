"""The bench: the service's engine and the systems that do the same job, in turn, on the same texts."""
