"""The rewriting engine: what a rule is, what it sees, and how it is applied and proven."""
