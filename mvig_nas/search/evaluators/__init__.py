"""Who computes scores."""
