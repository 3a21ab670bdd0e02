"""Operators of ONNX Runtime's domain com.microsoft, which its optimizer leaves behind in saved models."""

PARTS = (
    "common",
    "products",
    "activations",
    "normalizations",
    "attention",
    "embeddings",
    "quantized",
    "quantized_products",
    "quantized_recurrent",
    "quantize",
    "packed_weights",
    "others",
)
"""Its modules, in the order in which rules are read."""
