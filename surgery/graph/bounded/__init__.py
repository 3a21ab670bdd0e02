"""Sizes that depend on data, carried at a fixed size with a count beside it."""
