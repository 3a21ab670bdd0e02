"""Nodes that are not valid as they stand, and whose meaning leaves no doubt, written as ONNX wants them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from surgery.graph.skeleton import skeleton
from surgery.graph.typed import infer_shapes
from surgery.graph.walk import all_nodes

if TYPE_CHECKING:
    import onnx

POOLS = frozenset({"MaxPool", "AveragePool", "LpPool"})
"""Operators on images with a batch and channels, which PyTorch's also take without a batch."""

KEEPERS = frozenset(
    {
        "Relu", "Cast", "Equal", "Greater", "Less", "Where", "Or", "And", "Not", "Sigmoid", "Clip", "Identity", "Mul",
        "Add", "Sub", "Div", "Softmax", "LeakyRelu",
    }
)  # fmt: skip
"""Operators that a rank is followed through to where it comes from."""

BATCHED = frozenset(
    {
        "Conv", "ConvTranspose", "BatchNormalization", "MaxPool", "AveragePool", "Resize", "Upsample", "LRN",
        "InstanceNormalization", "GroupNormalization", "GlobalAveragePool", "QLinearConv", "ConvInteger",
    }
)  # fmt: skip
"""Operators whose results have a batch and channels."""

FUSED = frozenset({"Conv", "ConvTranspose"})
"""Operators that PyTorch's optimizer puts a batch normalization behind them into."""

MOST_ROUNDS = 64
"""Rounds of inference; each finds the nodes whose operands the last one has made known."""


def mend(model: onnx.ModelProto) -> tuple[str, ...]:
    """Write what PyTorch takes and ONNX does not as ONNX wants it, in place.

    PyTorch pools (C, H, W) as it does (N, C, H, W), and counts axes from the back in ``permute``; its exporters write
    such nodes as they are. In ONNX the batch has to be there, and axes of a Transpose are not negative; neither ONNX
    Runtime nor TensorRT takes these nodes. Its optimizer puts batch normalizations into the weights before them in
    float32, in a model of bfloat16 too, where the weights have to be of the type of the data.

    Args:
        model: Changed in place where there is such a node.

    Returns:
        What was done, in words.
    """
    turned = _count_from_the_front(model.graph.node)
    more = f" and {len(turned) - 1} more" if len(turned) > 1 else ""
    told = (f"{turned[0]!r}{more} counts axes from the back, which is not valid ONNX",) if turned else ()
    return (*told, *_mend_weights(model), *_mend_pools(model))


def _count_from_the_front(nodes: Iterable[onnx.NodeProto]) -> list[str]:
    """Transposes with negative axes, written with the same axes counted from the front; their names."""
    found = []
    for node in all_nodes(nodes):
        for attribute in node.attribute:
            if node.op_type == "Transpose" and node.domain in ("", "ai.onnx") and attribute.name == "perm":
                rank = len(attribute.ints)
                axes = [a + rank if a < 0 else a for a in attribute.ints]
                if axes != list(attribute.ints) and sorted(axes) == list(range(rank)):
                    attribute.ints[:] = axes
                    found.append(node.name or node.output[0])
    return found


def _mend_weights(model: onnx.ModelProto) -> tuple[str, ...]:
    """Weights of another float type than the data that one node reads with them, cast to the type of the data."""
    import onnx

    kinds = onnx.TensorProto
    floats = {kinds.FLOAT, kinds.FLOAT16, kinds.BFLOAT16, kinds.DOUBLE}
    weights = {t.name: t.data_type for t in model.graph.initializer if t.data_type in floats}
    declared = {
        v.name: v.type.tensor_type.elem_type
        for v in (*model.graph.input, *model.graph.value_info, *model.graph.output)
        if v.name not in weights and v.type.tensor_type.elem_type in floats
    }
    if len({*weights.values(), *declared.values()}) < 2:
        return ()
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    nodes: list[onnx.NodeProto] = []
    made: dict[tuple[str, int], str] = {}
    done: list[str] = []
    for node in model.graph.node:
        for place, kind in _unlike(node, version, weights, declared):
            name = node.input[place]
            if (name, kind) not in made:
                made[name, kind] = f"{name}/as {kinds.DataType.Name(kind).lower()}"
                nodes.append(onnx.helper.make_node("Cast", [name], [made[name, kind]], to=kind))
            node.input[place] = made[name, kind]
            done.append(node.name or node.output[0])
        nodes.append(node)
    if not done:
        return ()
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    others = len(dict.fromkeys(done)) - 1
    more = f" and {others} more" if others else ""
    return (
        f"{done[0]!r}{more} reads weights of another float type than its data, which is not valid ONNX: cast",
    )


def _unlike(
    node: onnx.NodeProto, version: int, weights: dict[str, int], declared: dict[str, int]
) -> list[tuple[int, int]]:
    """Places of weights that have to be, and are not, of the type of other operands; and that type."""
    import onnx

    own = [i for i, n in enumerate(node.input) if n in weights]
    # Others are no trace of that: which type is meant is the user's to say.
    if (
        not own
        or len(own) == len(node.input)
        or node.op_type not in FUSED
        or node.domain not in ("", "ai.onnx")
    ):
        return []
    try:
        schema = onnx.defs.get_schema(node.op_type, version, "")
    except onnx.defs.SchemaError:
        return []
    formals = [schema.inputs[min(i, len(schema.inputs) - 1)] for i in range(len(node.input))]
    found = []
    for i in own:
        data = {
            declared.get(n, 0)
            for n, f in zip(node.input, formals, strict=True)
            if n and n not in weights and f.type_str == formals[i].type_str and f.is_homogeneous
        }
        if len(data) == 1 and 0 not in data and weights[node.input[i]] not in data:
            found.append((i, data.pop()))
    return found


def _mend_pools(model: onnx.ModelProto) -> tuple[str, ...]:
    """Pooling of images without a batch, written with one."""
    if not _suspects(model.graph):
        return ()
    done: list[str] = []
    for _ in range(MOST_ROUNDS):
        found = _without_batch(model)
        if not found:
            break
        for node in found:
            done.append(node.name or node.output[0])
            _with_batch(model, node, len(done))
    if not done:
        return ()
    more = f" and {len(done) - 1} more" if len(done) > 1 else ""
    return (
        f"{done[0]!r}{more} pools an image without a batch, which is not valid ONNX: it is read as PyTorch means it",
    )


def _suspects(graph: onnx.GraphProto) -> bool:
    """Whether some pooling reads what is not surely an image with a batch; cheap."""
    pools = [n for n in graph.node if n.op_type in POOLS and n.domain in ("", "ai.onnx")]
    if not pools:
        return False
    made = {name: n for n in graph.node for name in n.output if name}
    images = {v.name for v in graph.input if len(v.type.tensor_type.shape.dim) >= 4}
    for pool in pools:
        name = pool.input[0]
        for _ in range(MOST_ROUNDS):
            node = made.get(name)
            if node is None or node.op_type not in KEEPERS:
                break
            name = next((i for i in node.input if i in made and made[i].op_type not in POOLS), node.input[0])
        node = made.get(name)
        if (node is None and name not in images) or (node is not None and node.op_type not in BATCHED):
            return True
    return False


def _without_batch(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes that pool along all dims of their operand but one."""
    bare = skeleton(model)
    del bare.graph.value_info[:]
    try:
        inferred = infer_shapes(bare, data_prop=True).graph
    except Exception:  # a help; onnx raises many undocumented types
        return []
    ranks = {
        v.name: len(v.type.tensor_type.shape.dim)
        for v in (*inferred.input, *inferred.value_info)
        if v.type.tensor_type.HasField("shape")
    }
    found = []
    for node in model.graph.node:
        if (
            node.op_type not in POOLS
            or node.domain not in ("", "ai.onnx")
            or sum(map(bool, node.output)) != 1
        ):
            continue
        kernel = next((len(a.ints) for a in node.attribute if a.name == "kernel_shape"), 0)
        if kernel and ranks.get(node.input[0]) == kernel + 1:
            found.append(node)
    return found


def _with_batch(model: onnx.ModelProto, node: onnx.NodeProto, number: int) -> None:
    """Put a batch of one in front of a node, and take it off behind it."""
    import onnx

    graph = model.graph
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)
    prefix = f"surgery/mend/{number}"
    axes: list[str] = []
    attributes: dict[str, Any] = {"axes": [0]}
    if opset >= 13:
        axes, attributes = [f"{prefix}/axes"], {}
        graph.initializer.append(onnx.helper.make_tensor(axes[0], onnx.TensorProto.INT64, [1], [0]))
    inside, outside = f"{prefix}/batch", f"{prefix}/pooled"
    before = onnx.helper.make_node(
        "Unsqueeze", [node.input[0], *axes], [inside], f"{prefix}/unsqueeze", None, "", **attributes
    )
    after = onnx.helper.make_node(
        "Squeeze", [outside, *axes], [node.output[0]], f"{prefix}/squeeze", None, "", **attributes
    )
    place = next(i for i, n in enumerate(graph.node) if n is node or n.output[0] == node.output[0])
    node.input[0], node.output[0] = inside, outside
    graph.node.insert(place, before)
    graph.node.insert(place + 2, after)
