"""Running models on devices."""
