"""Second implementations of the detection and ROI plugins, in plain numpy: name of the plugin -> function."""

from __future__ import annotations

from references_detection import dense, nms, proposals, roi

REFERENCES = {**dense.REFERENCES, **nms.REFERENCES, **proposals.REFERENCES, **roi.REFERENCES}
