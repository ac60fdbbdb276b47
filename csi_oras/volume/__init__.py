"""What happens to a volume: its attributes, its record, publish, unpublish, and what a restart finds."""
