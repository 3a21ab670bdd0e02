"""Plugins: the schema of a definition, the registry, bodies in standard operators, and the two model forms."""
