"""Training: generated brain images and the run that made the shipped model."""
