"""From what TensorRT says to a node, a cause and a fix: the catalogue, classification, explaining a model."""
