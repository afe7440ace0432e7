"""Measurements: speed, memory, accuracy and robustness of the layers, beside their peers."""
