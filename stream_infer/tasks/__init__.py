"""The tasks: each is a recipe that turns one request's body into work and the outputs into a result."""
