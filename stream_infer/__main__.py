"""`python -m stream_infer` is the same as `stream-infer`."""

from stream_infer.cli import app

app()
