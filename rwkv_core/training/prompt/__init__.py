"""Training of the promptable network: generated samples, a simulated user, the maps that the network sees."""
