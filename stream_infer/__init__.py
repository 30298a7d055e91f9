"""Streaming inference on Kafka: classify, translate and answer text events, each exactly once."""
