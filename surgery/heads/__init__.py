"""Detection heads: reading a detector's post-processing off its graph, and putting another form in its place.

Nothing here matches node by node. A head is identified by what it computes: the operands of its
NonMaxSuppression nodes are made visible and compared with the tensors before them, and the rest of the
post-processing (sorting, clipping, pruning, padding, class offsets) is read from its answers to probes.
What was read is then proven: the old and the new form must agree on further inputs.
"""
