"""Preview, verified slices, correcting, spreading."""
