"""What happened to a record, told as OpenTelemetry spans; `exporter` alone knows the library."""
