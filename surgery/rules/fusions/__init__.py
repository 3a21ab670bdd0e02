"""Rules for several nodes at once.

What the target refuses in one node can vanish with its neighbours: sequences and optionals that are taken apart
where they were put together, positions of which only the number is used. Rules that only change the form are
optional: they apply where a pipeline names them.
"""

PARTS = (
    "sequences",
    "values",
    "forms",
)
"""Its modules, in the order in which rules are read."""
