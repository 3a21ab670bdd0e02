"""A fixed batch made free, and checked: several samples at once against the original, one after the other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.errors import ConversionError
from surgery.graph.batch import Freed, with_free_batch
from surgery.graph.batch_inputs import NoAxisError, NoBatchError, batched_inputs, fixed_batch, relabeled
from surgery.graph.batch_loop import reads, with_what_they_read
from surgery.graph.evaluate import EvaluationError, Evaluator
from surgery.graph.functions import PLUGIN_DOMAIN, inline_functions
from surgery.report import Edit

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from surgery.graph.load import LoadedModel

    Arrays = Mapping[str, NDArray[Any]]

BATCHES = (1, 2, 4)
"""Batches at which every sample is compared."""

ATOL = RTOL = 1e-4

HOW = {
    "size": "the declared size alone was fixed",
    "constants": "sizes that were constants follow the batch",
    "loop": "what is written for one sample runs sample by sample, in a loop at the end",
    "lists": "boxes of all samples make one list; each row says which sample it is from",
}
"""How a batch was made free."""

MOST_COLUMNS = 16
"""Columns of rows among which one may say which sample the row is from."""


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
    if any(f.domain != PLUGIN_DOMAIN for f in source.proto.functions):
        source = replace(source, proto=inline_functions(source.proto))
    try:
        check = _Check(source, complete, seed)
        first, reason, how = _proposed(source, check)
    except NoAxisError as error:
        raise ConversionError(
            f"the batch cannot be made dynamic: {error}",
            code="no-batch",
            where=source.name,
            fix="run without batch: dynamic, or export the model with an axis for samples in front",
        ) from error
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
        (f"batch {', '.join(map(str, BATCHES))}: each sample as the original computes it alone", how),
    )  # fmt: skip
    return replace(source, proto=first), edit


def _proposed(source: LoadedModel, check: _Check) -> tuple[onnx.ModelProto, str | None, str]:
    """The first model that holds, None, and how it came about; or the last one, and why the likeliest does not."""
    first = relabeled(source.proto)
    if check.differs(first) is None:
        return first, None, HOW["size"]
    boxes = any(n.op_type == "NonMaxSuppression" for n in source.proto.graph.node)
    reasons: list[str] = []
    how = ""
    for lists in (False, True) if boxes else (False,):
        try:
            freed = with_free_batch(source.proto, check.shapes(), lists=lists)
            first, reason = freed.model, check.ragged(freed) or check.differs(freed.model)
            how = HOW["loop" if freed.apart else "lists" if lists else "constants"]
        except NoBatchError as error:
            reason = str(error)
        if reason is None:
            return first, None, how
        reasons.append(reason)
    return first, reasons[0], how


class _Check:
    """The original on single samples, to compare with."""

    def __init__(
        self, source: LoadedModel, complete: Callable[[onnx.ModelProto], onnx.ModelProto], seed: int
    ) -> None:
        from surgery.verify.cases import make_cases
        from surgery.verify.search import Search

        self.source, self.complete, self.seed = source, complete, seed
        self.values: dict[str, NDArray[Any]] = {}
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
        self.values = {n: v for n, v in values.items() if isinstance(v, np.ndarray)} | dict(self.samples[0])
        found.update({n: v.shape for n, v in self.values.items()})
        return found

    def ragged(self, freed: Freed) -> str | None:
        """Which output of the loop over the samples is as long as the values say; None if none is.

        The nodes of the loop run on values of other sizes and signs than the samples have.
        """
        import onnx

        if not freed.apart:
            return None
        model = self.complete(self.source.proto)
        shapes = self.shapes()
        # Numbers are drawn; what is decided by numbers follows from them.
        given = {c.name for c in freed.crossings if self.values[c.name].dtype.kind == "f"}
        part = with_what_they_read(model, freed.apart, given)
        read = {n for node in part.graph.node for n in reads(node)}
        given.update(n for n in self.samples[0] if n in read)
        infos = {v.name: v for v in model.graph.output}
        names = [n for node in freed.apart for n in node.output if n in infos]
        part.graph.output.extend(infos[n] for n in names)
        for value in part.graph.output:
            value.type.tensor_type.ClearField("shape")
        seen: dict[str, set[tuple[int, ...]]] = {n: {shapes[n]} for n in names}
        rng = np.random.default_rng(self.seed)
        feeds = {n: self.values[n] for n in sorted(given)}
        for name, fed in feeds.items():
            kind = onnx.helper.np_dtype_to_tensor_dtype(fed.dtype)
            part.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, fed.shape))
        with self.placed(part) as placed:
            session = Evaluator(placed)
            for scale, shift in ((0.0, 0.0), (1.0, 0.0), (0.3, 0.5), (10.0, 0.0)):
                drawn = {
                    n: rng.normal(shift, scale, v.shape).astype(v.dtype) if v.dtype.kind == "f" else v
                    for n, v in feeds.items()
                }
                with contextlib.suppress(EvaluationError):  # values that no model gives
                    for name, made in session.run(drawn).items():
                        seen[name].add(made.shape)
        ragged = [n for n, found in seen.items() if len(found) > 1]
        if not ragged:
            return None
        return f"how long the output {ragged[0]!r} is depends on the sample ({freed.reason})"

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
                    values = session.run(feeds)
                    reason = self.compare(values, count)
                    if reason is not None and self.listed(values, count):
                        reason = None
                    if reason is not None:
                        return f"with a batch of {count}, {reason}"
        except EvaluationError as error:
            return f"it does not run ({error})"
        return None

    def listed(self, got: Arrays, count: int) -> bool:
        """Whether outputs are lists of what all samples have, with a number in each row that says which sample."""
        for name, column in self.tags(got):
            value = got[name] if column is None else got[name][:, column]
            if set(np.unique(value).tolist()) <= set(range(count)) and self.by_tag(
                got, name, column, value, count
            ):
                return True
        return False

    def tags(self, got: Arrays) -> Iterator[tuple[str, int | None]]:
        """Outputs, or columns of them, that are 0 in every row of single samples."""
        for name, value in got.items():
            alone = [w[name] for w in self.wanted]
            if value.ndim == 1 and all(w.ndim == 1 and not w.any() for w in alone):
                yield name, None
            elif value.ndim == 2 and value.shape[1] <= MOST_COLUMNS:
                for column in range(value.shape[1]):
                    if all(w.shape[1:] == value.shape[1:] and not w[:, column].any() for w in alone):
                        yield name, column

    def by_tag(self, got: Arrays, tag: str, column: int | None, which: NDArray[Any], count: int) -> bool:
        """Whether the rows of each sample are those of the original."""
        wanted = [dict(w) for w in self.wanted[:count]]
        rows = [len(w[tag]) for w in wanted]
        if sum(rows) != len(which) or not any(rows):
            return False
        for i, each in enumerate(wanted):
            each[tag] = np.array(each[tag])
            each[tag][slice(None) if column is None else (slice(None), column)] = i
        for name, value in got.items():
            if value.ndim == 0 or len(value) != len(which):
                return False
            for i, each in enumerate(wanted):
                mine = value[which == i]
                if mine.shape != each[name].shape or not _distance(mine, each[name]) <= 1.0:
                    return False
        return True

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
