"""Inverse kinematics: every method on the same queries, and a hunt for a single unsafe answer."""
