"""The graph layer: load, save, view, cut, edit, fold, infer. It knows nothing of TensorRT."""
