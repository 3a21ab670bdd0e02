"""The stages of a pipeline, one file each, in the order in which a pipeline runs them."""

STAGES: dict[str, str] = {
    "inspect": "surgery.stages.inspect:Inspect",
    "fold": "surgery.stages.fold:Fold",
    "rewrite": "surgery.stages.rewrite:Rewrite",
    "substitute": "surgery.stages.substitute:Substitute",
    "parse": "surgery.stages.parse:Parse",
    "build": "surgery.stages.build:Build",
    "verify": "surgery.stages.verify:Verify",
    "save": "surgery.stages.save:Save",
}
"""Stage name to ``module:Class``, in pipeline order; classes are imported when a pipeline is loaded."""
