"""What the driver tells: logs with redaction, metrics, health, progress."""
