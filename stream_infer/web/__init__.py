"""The worker's HTTP endpoints."""
