"""The ONNX conformance suite of operator cases, through raw TensorRT and through surgery."""
