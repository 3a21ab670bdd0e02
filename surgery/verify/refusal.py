"""What ONNX Runtime says when it refuses to run a model, without what only its authors can use."""

from __future__ import annotations

import re

MOST = 240
"""Characters of a reason."""

_NODE = re.compile(
    r"running (?P<op>\S+) node\. Name:\s?'(?P<name>[^']*)'\s*Status Message:\s*(?P<what>.*)", re.DOTALL
)
_HEAD = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_SOURCE = re.compile(r"\S*/onnxruntime/\S+?:\d+ ")
_CHECK = re.compile(r"^.*? was false\.\s*", re.DOTALL)


def in_words(text: str) -> str:
    """The node and the reason, on one line: no source files, no C++ signatures, no error numbers.

    Args:
        text: Of the exception.
    """
    node = _NODE.search(text)
    what = node["what"] if node else _HEAD.sub("", text)
    if _SOURCE.search(what):
        what = _SOURCE.sub("", what)
        shorter = _CHECK.sub("", what)
        what = shorter or what
    what = " ".join(what.split())
    if node:
        what = f"{node['op']} {node['name']!r}: {what}"
    return what if len(what) <= MOST else f"{what[: MOST - 3]}..."
