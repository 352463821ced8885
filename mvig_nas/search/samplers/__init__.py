"""Who proposes architectures."""
