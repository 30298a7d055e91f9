"""Measuring a stream against examples with known results: read them, run them, score what came back."""
