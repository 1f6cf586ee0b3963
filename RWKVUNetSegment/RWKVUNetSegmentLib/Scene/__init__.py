"""Nodes of the scene and arrays: reading, writing, masking, views."""
