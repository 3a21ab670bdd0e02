"""A fixed batch made free, and checked: several samples at once against the original, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.errors import ConversionError
from surgery.graph.batch import NoBatchError, batched_inputs, fixed_batch, relabeled, with_free_batch
from surgery.graph.evaluate import EvaluationError, Evaluator
from surgery.report import Edit

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from surgery.graph.load import LoadedModel

    Arrays = Mapping[str, NDArray[Any]]

BATCHES = (1, 2, 4)
"""Batches at which every sample is compared."""

ATOL = RTOL = 1e-4


def free_batch(
    source: LoadedModel, complete: Callable[[onnx.ModelProto], onnx.ModelProto], seed: int = 0
) -> tuple[LoadedModel, Edit]:
    """The model with a free batch.

    Tried in turn: the declared size alone made free (graphs that take their sizes from the input), then constant
    sizes made to follow the batch. Either has to give for each sample what the original gives.

    Args:
        source: The model, with a fixed batch.
        complete: Gives plugin nodes their bodies, so that ONNX Runtime runs the model.
        seed: Seed of the samples.

    Returns:
        The model, and the entry for the report.

    Raises:
        ConversionError: a batch makes no sense for this model, or it is not known how; with the reason and node.
    """
    try:
        check = _Check(source, complete, seed)
        first = relabeled(source.proto)
        reason = check.differs(first)
        if reason is not None:
            first = with_free_batch(source.proto, check.shapes())
            reason = check.differs(first)
    except NoBatchError as error:
        reason = str(error)
    if reason is not None:
        raise ConversionError(
            f"the batch cannot be made dynamic: {reason}",
            code="no-batch",
            where=source.name,
            cause="samples do not stay apart, or the model is made for one",
            fix="run without batch: dynamic, or cut the model in front of that node",
        )
    edit = Edit(
        "dynamic-batch", "rewrite", (), (), "passed", check.largest,
        (f"batch {', '.join(map(str, BATCHES))}: each sample as the original computes it alone",),
    )  # fmt: skip
    return replace(source, proto=first), edit


class _Check:
    """The original on single samples, to compare with."""

    def __init__(
        self, source: LoadedModel, complete: Callable[[onnx.ModelProto], onnx.ModelProto], seed: int
    ) -> None:
        from surgery.verify.cases import make_cases
        from surgery.verify.search import Search

        self.source, self.complete = source, complete
        self.size = fixed_batch(source.proto)
        self.batched = [v.name for v in batched_inputs(source.proto, self.size)]
        runnable = complete(source.proto)
        self.largest = 0.0
        with self.placed(runnable) as original:
            search = Search(runnable, original)
            count = max(BATCHES)
            cases = make_cases(runnable, runnable, [], per_point=count, seed=seed, search=search)
            shapes = {n: v.shape for n, v in cases[0].feeds.items()}
            # Sizes may change from case to case; samples of one batch have one size.
            self.samples = [
                dict(c.feeds) for c in cases if {n: v.shape for n, v in c.feeds.items()} == shapes
            ]
            while len(self.samples) < count:
                self.samples.append(self.shuffled(self.samples[0], seed + len(self.samples)))
            for sample in self.samples:
                sample.update({n: v for n, v in self.samples[0].items() if n not in self.batched})
                for name in self.batched:
                    sample[name] = np.repeat(sample[name][:1], self.size, axis=0)
            try:
                session = Evaluator(original)
                self.wanted = [session.run(s) for s in self.samples]
            except EvaluationError as error:
                raise NoBatchError(f"the original does not run on what was drawn for it ({error})") from error

    def shuffled(self, sample: Arrays, seed: int) -> dict[str, NDArray[Any]]:
        """A sample with the same values in another order."""
        rng = np.random.default_rng(seed)
        return {n: rng.permutation(v.reshape(-1)).reshape(v.shape) for n, v in sample.items()}

    def placed(self, model: onnx.ModelProto) -> Any:
        from surgery.stages.trt_model import on_disk

        return on_disk(model, self.source)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all tensors of the main graph, by running the original."""
        import onnx

        model = onnx.ModelProto()
        model.CopyFrom(self.complete(self.source.proto))
        known = {v.name for v in model.graph.output}
        found = {n: v.shape for n, v in self.samples[0].items()}
        found.update({t.name: tuple(t.dims) for t in model.graph.initializer})
        for node in model.graph.node:
            for name in node.output:
                if name and name not in known:
                    model.graph.output.append(onnx.ValueInfoProto(name=name))
        try:
            with self.placed(model) as whole:
                values = Evaluator(whole).run(self.samples[0])
        except EvaluationError as error:
            raise NoBatchError(f"shapes inside the model could not be measured ({error})") from error
        found.update({n: v.shape for n, v in values.items() if isinstance(v, np.ndarray)})
        return found

    def differs(self, model: onnx.ModelProto) -> str | None:
        """Why the model does not compute each sample as the original does; None if it does."""
        self.largest = 0.0
        try:
            with self.placed(self.complete(model)) as placed:
                session = Evaluator(placed)
                for count in BATCHES:
                    feeds = dict(self.samples[0])
                    for name in self.batched:
                        feeds[name] = np.concatenate([s[name][:1] for s in self.samples[:count]])
                    reason = self.compare(session.run(feeds), count)
                    if reason is not None:
                        return f"with a batch of {count}, {reason}"
        except EvaluationError as error:
            return f"it does not run ({error})"
        return None

    def compare(self, got: Arrays, count: int) -> str | None:
        for name, value in got.items():
            for i, wanted in enumerate(self.wanted[:count]):
                rows = list(_sample(value, wanted[name], i, count, self.size))
                if not rows:
                    return f"output {name!r} has the shape {list(value.shape)}"
                best = min(rows, key=lambda pair: _distance(*pair))
                distance = _distance(*best)
                if not distance <= 1.0:
                    return f"output {name!r} is not what the original computes for sample {i + 1}"
                if best[0].dtype.kind == "f" and best[0].size:
                    apart = np.abs(np.nan_to_num(best[0]).astype(np.float64) - np.nan_to_num(best[1]))
                    self.largest = max(self.largest, float(np.max(apart)))
        return None


def _sample(
    value: NDArray[Any], wanted: NDArray[Any], i: int, count: int, size: int
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """The part of an output that belongs to a sample, beside the original's, for every axis that may be the batch."""
    if value.shape == wanted.shape and (count == size or value.ndim == 0):
        yield value, wanted
    for axis in range(value.ndim):
        others = [d for k, d in enumerate(value.shape) if k != axis]
        if wanted.ndim != value.ndim or others != [d for k, d in enumerate(wanted.shape) if k != axis]:
            continue
        if wanted.shape[axis] % size or value.shape[axis] * size != wanted.shape[axis] * count:
            continue
        each = wanted.shape[axis] // size
        yield np.take(value, range(i * each, (i + 1) * each), axis), np.take(wanted, range(each), axis)


def _distance(one: NDArray[Any], two: NDArray[Any]) -> float:
    """Largest difference over what is allowed; 0 to 1 is equal."""
    if one.dtype.kind != "f":
        return 0.0 if np.array_equal(one, two) else np.inf
    if not np.array_equal(np.isnan(one), np.isnan(two)):
        return np.inf
    a, b = np.nan_to_num(one).astype(np.float64), np.nan_to_num(two).astype(np.float64)
    return float(np.max(np.abs(a - b) / (ATOL + RTOL * np.abs(b)), initial=0.0))
