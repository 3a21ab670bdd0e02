"""Comparing the original with the result: inputs, plain tensors, detections as sets."""
