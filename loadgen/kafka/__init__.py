"""A real Apache Kafka on loopback, for tests and benches: fetched from Maven Central the first time."""
