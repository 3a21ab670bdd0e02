"""Plugins: definitions and their registry, bodies in standard operators, the two forms of a model."""
