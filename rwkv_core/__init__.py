"""Segmentation of CT and MR volumes with RWKV-UNet: network, weights, whole volumes. Knows neither Slicer nor Qt."""
