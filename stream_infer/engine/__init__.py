"""Models in child processes: the only home of torch besides training."""
