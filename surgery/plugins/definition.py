"""`PluginDefinition`: one plugin, and everything that follows from its folder."""

from __future__ import annotations

import difflib
import itertools
import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from surgery.errors import ConfigError, ConversionError
from surgery.plugins.schema import ANY_DIMS, Available, Input, PluginFile, Sample, version_key

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from surgery.graph.body import Body
    from surgery.plugins.attach import TargetVersion
    from surgery.plugins.fitting import Fitted
    from surgery.plugins.from_numbers import FromNumbers
    from surgery.plugins.successor import Successor

PLUGIN_DOMAIN = "trt.plugins"
"""Domain of plugin nodes in the portable model, whatever TensorRT namespace they belong to."""

RESERVED = ("plugin_version", "plugin_namespace", "tensorrt_plugin_shape_input_indices")
"""Attributes that TensorRT's parser reads from any plugin node."""

Dims = tuple["int | str | None", ...]

SHOWN = 80
"""Characters up to which a wrong result of a user's function is shown."""


@dataclass(frozen=True, slots=True)
class TensorType:
    """Numpy dtype name and shape (numbers, symbols, None for unknown; None if even the rank is unknown)."""

    dtype: str
    shape: Dims | None


@dataclass(frozen=True, slots=True)
class ConfiguredNode:
    """A node as its body sees it: checked attributes with defaults, and the types of what it is given.

    Attributes:
        definition: What the plugin is.
        attributes: Every attribute of the definition; None where it is optional and not set.
        inputs: Types, one per input of the definition that the node has; None for an empty one.
        outputs: Number of outputs the node has.
        opset: Default-domain opset of the model.
        function_name: Name the function has to have.
        name: The node's name, for messages.
    """

    definition: PluginDefinition
    attributes: Mapping[str, Any]
    inputs: tuple[TensorType | None, ...]
    outputs: int
    opset: int
    function_name: str
    name: str = ""

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the function's inputs."""
        return tuple(i.name for i in self.definition.declared_inputs(len(self.inputs)))

    def static(self, index: int, axis: int) -> int:
        """A dimension of an input that the body needs as a number.

        Raises:
            ConversionError: it is not known.
        """
        value = self.inputs[index]
        dim = None if value is None or value.shape is None else value.shape[axis]
        if not isinstance(dim, int):
            raise self.refuse(
                f"dimension {axis} of {self.input_names[index]!r} is {dim!r}; the body needs a number",
                fix="fix that dimension (--shape, or by folding); only the batch may stay open",
            )
        return dim

    def batch(self, index: int = 0) -> int | None:
        """Dimension 0 of an input if it is a number."""
        value = self.inputs[index]
        dim = None if value is None or not value.shape else value.shape[0]
        return dim if isinstance(dim, int) else None

    def refuse(self, message: str, *, fix: str | None = None) -> ConversionError:
        """An error that names this plugin and node, to be raised by the body."""
        which = f" {self.name!r}" if self.name else ""
        return ConversionError(
            f"{self.definition.name}{which}: {message}", code="plugin-body", node=self.name or None, fix=fix
        )

    def function(self, body: Body, outputs: Sequence[str], *, doc: str = "") -> onnx.FunctionProto:
        """The function whose results are these values of `body`, in the order of the definition's outputs."""
        file = self.definition.file
        if file.outputs[-1].repeated:
            names = [f"{file.outputs[-1].name}_{i}" for i in range(self.outputs)]
        else:
            names = [o.name for o in file.outputs[: self.outputs]]
        for value, fixed in zip(outputs, names, strict=False):
            body.alias(value, fixed)
        function = body.function(PLUGIN_DOMAIN, self.function_name, self.input_names, names, doc=doc)
        # The body has the attributes baked in; declaring them is what lets a runtime accept the node.
        function.attribute.extend([*file.attributes, *RESERVED])
        return function


class PluginDefinition:
    """One plugin: its attributes, types, availability and body.

    Args:
        file: The content of plugin.yaml.
        folder: Where it was found.
        body: Function `body(node: ConfiguredNode) -> onnx.FunctionProto` of body.py.
        check: Function `check(attributes, input_types) -> list[str]` of body.py, if it has one: problems
            beyond types and ranges.
        output_types: Function `output_types(node) -> list[TensorType]` of body.py, if it has one: where
            the declared shapes do not say it.
        successor: Function `successor(node, target) -> list[Successor | str]` of body.py, if it has one: other
            nodes that compute the same, best first, or why there are none.
        repair: Function `repair(attributes) -> (changes, note)` of body.py, if it has one: attributes that models in
            the wild write otherwise, with the value they mean, and what to say about it.
        fit: Function `fit(body, names, attributes, types) -> Fitted | None` of body.py, if it has one: inputs that
            models in the wild give otherwise, brought by standard nodes to what the plugin takes.
        from_numbers: Function `from_numbers(arrays, shapes) -> list[FromNumbers]` of body.py, if it has one, for a
            plugin whose body is numbers alone: which constants of a graph look like its outputs.
        samples: Configurations the tests run.
    """

    def __init__(
        self,
        file: PluginFile,
        folder: Path,
        body: Callable[[ConfiguredNode], onnx.FunctionProto],
        *,
        check: Callable[..., list[str]] | None = None,
        output_types: Callable[[ConfiguredNode], list[TensorType]] | None = None,
        successor: Callable[[ConfiguredNode, TargetVersion], Sequence[Successor | str]] | None = None,
        repair: Callable[[Mapping[str, Any]], tuple[dict[str, Any], str]] | None = None,
        fit: Callable[..., Fitted | None] | None = None,
        from_numbers: Callable[..., Sequence[FromNumbers]] | None = None,
        samples: tuple[Sample, ...] = (),
    ) -> None:
        self.file = file
        self.folder = folder
        self.samples = samples
        self._body = body
        self._check = check
        self._output_types = output_types
        self._successor = successor
        self._repair = repair
        self._fit = fit
        self._from_numbers = from_numbers
        if file.outputs[-1].repeated and output_types is None:
            raise ConfigError(
                "an output is repeated, but body.py does not define output_types(node)",
                code="bad-definition",
                where=str(folder / "plugin.yaml"),
            )

    def __repr__(self) -> str:
        return f"<plugin {self.name} version {self.version} from {self.folder}>"

    @property
    def name(self) -> str:
        """Operator type of the node."""
        return self.file.name

    @property
    def show_command(self) -> str:
        """The command that prints the definition."""
        from surgery.user_code import is_shipped

        given = "" if is_shipped(self.folder) else f" --plugin-path {shlex.quote(str(self.folder.parent))}"
        return f"surgery show plugins {self.name}{given}"

    @property
    def version(self) -> str:
        """Value of the node's attribute plugin_version."""
        return self.file.version

    @property
    def namespace(self) -> str:
        """Value of the node's attribute plugin_namespace."""
        return self.file.namespace

    @property
    def works_out_types(self) -> bool:
        """Whether its body.py says what types the outputs have, and not plugin.yaml alone."""
        return self._output_types is not None

    @property
    def has_successors(self) -> bool:
        """Whether its body.py names other nodes that compute the same."""
        return self._successor is not None

    @property
    def fits(self) -> bool:
        """Whether its body.py may put the inputs of nodes right."""
        return self._fit is not None

    @property
    def reads_numbers(self) -> bool:
        """Whether its body.py finds its outputs among constants."""
        return self._from_numbers is not None

    def versions(self) -> list[PluginDefinition]:
        """This definition and the same one under each of its `also_versions`."""
        others = []
        for version in self.file.also_versions:
            rest = {self.file.version, *self.file.also_versions} - {version}
            also = tuple(sorted(rest, key=version_key))
            file = self.file.model_copy(update={"version": version, "also_versions": also})
            others.append(
                PluginDefinition(
                    file,
                    self.folder,
                    self._body,
                    check=self._check,
                    output_types=self._output_types,
                    successor=self._successor,
                    repair=self._repair,
                    fit=self._fit,
                    from_numbers=self._from_numbers,
                    samples=self.samples,
                )
            )
        return [self, *others]

    def declared_inputs(self, count: int) -> tuple[Input, ...]:
        """What is declared of the first `count` inputs of a node, repeated ones numbered."""
        inputs = self.file.inputs
        if inputs and inputs[-1].repeated:
            fixed = len(inputs) - 1
            numbered = (inputs[-1].numbered(i) for i in range(count - fixed))
            return (*inputs[:fixed], *numbered)[:count]
        return inputs[:count]

    # -- availability -------------------------------------------------------------------------------

    def available(self, flavour: str, version: str) -> bool:
        """Whether that TensorRT ("tensorrt" or "tensorrt-rtx") ships this version of the plugin."""
        return self.availability(flavour, version) is not None

    def availability(self, flavour: str, version: str) -> Available | None:
        """The entry that covers a TensorRT version, with interface and deprecation."""
        entries = self.file.availability.tensorrt if flavour == "tensorrt" else ()
        if flavour == "tensorrt-rtx":
            entries = self.file.availability.tensorrt_rtx
        return next((e for e in entries if e.plugin_version == self.version and e.covers(version)), None)

    def interface(self, flavour: str, version: str) -> str | None:
        """The TensorRT plugin interface there, None where it is not available."""
        entry = self.availability(flavour, version)
        return entry.interface if entry else None

    def deprecated(self, flavour: str, version: str) -> bool:
        """Whether it is available but deprecated there."""
        entry = self.availability(flavour, version)
        if entry is None or entry.deprecated is None:
            return False
        return version_key(version) >= version_key(entry.deprecated)

    def removed(self, flavour: str, version: str) -> str | None:
        """The TensorRT version that this version of the plugin was removed in, if that is not a later one."""
        if flavour != "tensorrt":
            return None
        own = (e for e in self.file.availability.tensorrt if e.plugin_version == self.version)
        gone = [e.removed for e in own if e.removed and version_key(e.removed) <= version_key(version)]
        return gone[-1] if gone else None

    # -- checking -----------------------------------------------------------------------------------

    def check(
        self, attributes: Mapping[str, Any], input_types: Sequence[TensorType | None] = ()
    ) -> list[str]:
        """Problems with a configuration, empty if there are none.

        Args:
            attributes: Values by name, reserved ones allowed.
            input_types: Types of the inputs; an empty sequence checks the attributes alone.
        """
        problems = self._attribute_problems(attributes)
        if input_types or not self.file.inputs:
            problems += self._type_problems(input_types)
        if not problems and self._check is not None:
            found = self._called(self._check, self._filled(attributes), tuple(input_types))
            problems += self._expected(self._check, found, _texts(found), "a list of problems, each a str")
        return problems

    def _attribute_problems(self, attributes: Mapping[str, Any]) -> list[str]:
        known = self.file.attributes
        problems = []
        for name, value in attributes.items():
            if name in RESERVED:
                continue
            if name not in known:
                near = difflib.get_close_matches(name, list(known), n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                problems.append(f"unknown attribute {name!r}{hint}")
            elif problem := known[name].problem(value):
                problems.append(f"attribute {name!r} {problem}")
        missing = [n for n, a in known.items() if a.required and n not in attributes]
        problems += [f"required attribute {n!r} ({known[n].type}) is missing" for n in missing]
        return problems

    def _type_problems(self, types: Sequence[TensorType | None]) -> list[str]:
        inputs = self.file.inputs
        required = sum(not i.optional for i in inputs)
        open_end = bool(inputs) and inputs[-1].repeated
        if len(types) < required or not (open_end or len(types) <= len(inputs)):
            most = " or more" if open_end else f" to {len(inputs)}" if len(inputs) > required else ""
            return [f"{len(types)} inputs given; it takes {required}{most}"]
        inputs = self.declared_inputs(len(types))
        problems = []
        for declared, given in zip(inputs, types, strict=False):
            if given is None:
                if not declared.optional:
                    problems.append(f"input {declared.name!r} is required")
            elif given.dtype not in declared.dtypes:
                expected = " or ".join(declared.dtypes)
                problems.append(f"input {declared.name!r} is {given.dtype}; expected {expected}")
        if not problems and self._bind(types) is None:
            problems.append(_shape_text(inputs, types) + self._near_shapes(inputs, types))
        return problems

    def _near_shapes(self, inputs: Sequence[Input], types: Sequence[TensorType | None]) -> str:
        """What would make the shapes fit: two axes of one input swapped, or a dim of 1 more or less."""
        for at, (declared, given) in enumerate(zip(inputs, types, strict=False)):
            if given is None or given.shape is None:
                continue
            for text, shape in _neighbours(given.shape):
                tried = [*types[:at], TensorType(given.dtype, shape), *types[at + 1 :]]
                if self._bind(tried) is not None:
                    return f"; they would if {declared.name} had {text}"
        return ""

    def _bind(self, types: Sequence[TensorType | None]) -> dict[str, int | str | None] | None:
        """Values of the shapes' symbols, or None if no choice of declared shapes fits."""
        present = [
            (i.shapes, t.shape)
            for i, t in zip(self.declared_inputs(len(types)), types, strict=False)
            if t is not None and t.shape is not None
        ]
        for choice in itertools.product(*(shapes for shapes, _ in present)):
            bound: dict[str, int | str | None] = {}
            if all(_fits(d, g, bound) for d, (_, g) in zip(choice, present, strict=True)):
                return bound
        return None

    def _filled(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        return {n: attributes.get(n, a.default) for n, a in self.file.attributes.items()}

    # -- what body.py may say beside the body ---------------------------------------------------------

    def successors(self, node: ConfiguredNode, target: TargetVersion) -> Sequence[Successor | str]:
        """Other nodes that compute the same on a target, best first, or why there are none."""
        if self._successor is None:
            return ()
        from surgery.plugins.successor import Successor

        found = self._called(self._successor, node, target, node=node.name)
        good = isinstance(found, (list, tuple)) and all(isinstance(s, (Successor, str)) for s in found)
        return cast(
            "Sequence[Successor | str]",
            self._expected(self._successor, found, good, "a list of Successor or str"),
        )

    def repaired(self, attributes: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
        """Attributes that models write otherwise, with the value that they mean, and what to say about it."""
        if self._repair is None:
            return {}, ""
        found = self._called(self._repair, attributes)
        good = isinstance(found, tuple) and [type(v) for v in found] == [dict, str]
        wanted = "a dict of the attributes that change, and a text"
        return cast("tuple[dict[str, Any], str]", self._expected(self._repair, found, good, wanted))

    def fitted(
        self,
        body: Body,
        names: Sequence[str],
        attributes: Mapping[str, Any],
        types: Sequence[TensorType | None],
    ) -> Fitted | None:
        """What a node is to be given in the place of its inputs; None where they are as the plugin takes them."""
        if self._fit is None:
            return None
        from surgery.plugins.fitting import Fitted

        found = self._called(self._fit, body, names, attributes, types)
        good = found is None or isinstance(found, Fitted)
        self._expected(self._fit, found, good, "a Fitted, or None")
        made = {*names, "", *(o for n in body.nodes for o in n.output)}
        unknown = [n for n, _ in found.inputs if n not in made] if found is not None else []
        wanted = f"names of values that there are; there is no {', '.join(map(repr, unknown))}"
        return cast("Fitted | None", self._expected(self._fit, found, not unknown, wanted))

    def in_numbers(
        self, arrays: Sequence[NDArray[Any]], shapes: Sequence[tuple[int, ...]]
    ) -> Sequence[FromNumbers]:
        """Which constants of a graph look like this plugin's outputs; none where its body is not numbers alone.

        Args:
            arrays: The graph's constants of floats.
            shapes: Shapes of the graph's inputs that are fixed, largest first.
        """
        if self._from_numbers is None:
            return ()
        from surgery.plugins.from_numbers import FromNumbers

        found = self._called(self._from_numbers, arrays, shapes)
        good = isinstance(found, (list, tuple)) and all(isinstance(f, FromNumbers) for f in found)
        return cast(
            "Sequence[FromNumbers]", self._expected(self._from_numbers, found, good, "a list of FromNumbers")
        )

    def _called(self, function: Callable[..., Any], *arguments: Any, node: str = "") -> Any:
        """Call a function of the folder, which may be the user's."""
        from surgery.user_code import call_theirs

        at = f" for node {node!r}" if node else ""
        what = f"{getattr(function, '__name__', 'a function')} of plugin {self.name}{at}"
        return call_theirs(function, *arguments, place=self.folder, what=what)

    def _expected(self, function: Callable[..., Any], value: Any, good: bool, wanted: str) -> Any:
        """The value that a function of the folder gave, if it is what it has to be."""
        if good:
            return value
        from surgery.user_code import wrong_result

        name = getattr(function, "__name__", "a function")
        shown = "None" if value is None else f"{type(value).__name__} {value!r}"
        shown = shown if len(shown) <= SHOWN else type(value).__name__
        raise wrong_result(
            function, self.folder, f"{name} of plugin {self.name} gives {shown}; it has to give {wanted}"
        )

    def _checked_body(self, function: Any, node: ConfiguredNode) -> Any:
        """The body, if it is a function that a node can have."""
        import onnx

        good = isinstance(function, onnx.FunctionProto)
        self._expected(self._body, function, good, "an onnx.FunctionProto: return node.function(b, [...])")
        made = {*function.input, *(o for n in function.node for o in n.output)}
        lacking = [o for o in function.output if o not in made]
        wrong = f"nothing computes {', '.join(map(repr, lacking))}" if lacking else ""
        if not wrong and (len(function.input) < len(node.inputs) or len(function.output) < node.outputs):
            wrong = f"the node has {len(node.inputs)} inputs and {node.outputs} outputs"
        wrong = wrong or self._not_onnx(function)
        if wrong:
            from surgery.user_code import wrong_result

            raise wrong_result(
                self._body, self.folder, f"body of plugin {self.name} gives a wrong function: {wrong}"
            )
        return function

    def _not_onnx(self, function: onnx.FunctionProto) -> str:
        """What ONNX has against the nodes of a body of the user's; "" for nothing. Tests see to the shipped ones."""
        from surgery.user_code import is_shipped

        if is_shipped(self.folder):
            return ""
        import onnx.checker

        context = onnx.checker.C.CheckerContext()
        context.ir_version = onnx.IR_VERSION
        context.opset_imports = {o.domain: o.version for o in function.opset_import}
        try:
            onnx.checker.check_function(function, context)
        except onnx.checker.ValidationError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            return "; ".join(line.removeprefix("==> Context: ") for line in lines)
        return ""

    # -- nodes --------------------------------------------------------------------------------------

    def make_node(
        self, name: str, inputs: Sequence[str], outputs: Sequence[str], attributes: Mapping[str, Any]
    ) -> onnx.NodeProto:
        """A node for the portable model.

        Raises:
            ConversionError: an attribute is wrong or missing.
        """
        import onnx.helper

        problems = self.check(attributes)
        if problems:
            raise ConversionError(f"{self.name}: {'; '.join(problems)}", code="plugin-attributes", node=name)
        node = onnx.helper.make_node(self.name, list(inputs), list(outputs), name=name, domain=PLUGIN_DOMAIN)
        for key, attribute in self.file.attributes.items():
            value = attributes.get(key)
            if isinstance(value, (list, tuple)) and not value and not attribute.required:
                if not attribute.default:
                    continue  # graphsurgeon writes no empty list; left out it means the same
                raise ConversionError(
                    f"{self.name}: {key} is empty, which no node can say: left out it is {attribute.default}",
                    code="plugin-attributes",
                    node=name,
                )
            if value is not None:
                # The declared type decides: TensorRT reads a float field only from a FLOAT attribute.
                floats = {"float": float, "floats": lambda v: [float(x) for x in v], "tensor": _tensor}
                plain = {"ints": list, "int": int, "bool": int, "string": str}
                convert = cast("Callable[[Any], Any]", {**floats, **plain}[attribute.type])
                node.attribute.append(onnx.helper.make_attribute(key, convert(value)))
        node.attribute.append(onnx.helper.make_attribute("plugin_version", self.version))
        node.attribute.append(onnx.helper.make_attribute("plugin_namespace", self.namespace))
        return node

    def configure(
        self,
        node: onnx.NodeProto,
        input_types: Sequence[TensorType | None],
        *,
        opset: int = 17,
        function_name: str | None = None,
    ) -> ConfiguredNode:
        """A checked node.

        Raises:
            ConversionError: its attributes or input types are not what the definition allows.
        """
        attributes = node_attributes(node)
        problems = self.check(attributes, input_types)
        if problems:
            raise ConversionError(
                f"{self.name} {(node.name or node.output[0])!r}: {'; '.join(problems)}",
                code="plugin-configuration",
                node=node.name or node.output[0],
                cause="the node contradicts itself: the plugin would refuse it, wherever it runs",
                fix=f"correct the node, or export the model anew: {self.show_command} says what the "
                "plugin takes",
            )
        return ConfiguredNode(
            self,
            self._filled(attributes),
            tuple(input_types),
            len(node.output),
            opset,
            function_name or self.name,
            node.name,
        )

    def body(
        self,
        node: onnx.NodeProto,
        input_shapes: Sequence[Dims | None],
        input_dtypes: Sequence[str],
        opset: int,
        function_name: str | None = None,
    ) -> onnx.FunctionProto:
        """The computation of this node in standard operators, with the node's inputs and outputs.

        Args:
            node: The plugin node.
            input_shapes: Shape of each input; batch dims may be symbols or None.
            input_dtypes: Numpy dtype name of each input; "" for an input left empty.
            opset: Default-domain opset of the model.
            function_name: Name of the function; the plugin's if None.

        Raises:
            ConversionError: the configuration is wrong, or one that the body does not cover.
        """
        pairs = zip(input_dtypes, input_shapes, strict=True)
        types = [TensorType(d, tuple(s) if s is not None else None) if d else None for d, s in pairs]
        configured = self.configure(node, types, opset=opset, function_name=function_name)
        function = self._called(self._body, configured, node=configured.name)
        return cast("onnx.FunctionProto", self._checked_body(function, configured))

    def output_types(
        self, node: onnx.NodeProto, input_types: Sequence[TensorType | None]
    ) -> list[TensorType]:
        """Types of the node's outputs.

        Raises:
            ConversionError: the configuration is wrong.
        """
        configured = self.configure(node, input_types)
        if self._output_types is not None:
            made = self._called(self._output_types, configured, node=configured.name)
            good = isinstance(made, (list, tuple)) and all(isinstance(t, TensorType) for t in made)
            return list(self._expected(self._output_types, made, good, "a list with a TensorType per output"))
        bound = self._bind(input_types) or {}
        names = [i.name for i in self.declared_inputs(len(input_types))]
        result = []
        for output in self.file.outputs[: len(node.output)]:
            dtype = output.dtype
            if dtype.startswith("@"):
                source = input_types[names.index(dtype[1:])]
                dtype = source.dtype if source else self.file.inputs[names.index(dtype[1:])].dtypes[0]
            result.append(TensorType(dtype, self._output_shape(output.shape, configured, bound)))
        return result

    def _output_shape(
        self, declared: Sequence[int | str], node: ConfiguredNode, bound: Mapping[str, int | str | None]
    ) -> Dims | None:
        dims: list[int | str | None] = []
        for dim in declared:
            if isinstance(dim, str) and dim.startswith(ANY_DIMS):
                count = bound.get(dim)
                if not isinstance(count, int):
                    return None
                dims += [bound.get(f"{dim}{i}") for i in range(count)]
            elif isinstance(dim, str) and dim.startswith("@"):
                dims.append(node.attributes[dim[1:]])
            else:
                dims.append(bound.get(dim) if isinstance(dim, str) else dim)
        return tuple(dims)


def node_attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes of a node as plain Python values (text decoded, integers, floats, lists, arrays).

    Floats come back as the shortest decimal that gives the stored float32, so that 0.1 stays 0.1.
    """
    import numpy as np
    import onnx.helper
    import onnx.numpy_helper

    def plain(value: Any) -> Any:
        if isinstance(value, bytes):
            return value.decode("utf-8", errors="replace")
        if isinstance(value, float) and math.isfinite(value):
            return float(str(np.float32(value)))
        if isinstance(value, (list, tuple)) or hasattr(value, "_values"):
            return [plain(v) for v in value]
        if isinstance(value, onnx.TensorProto):
            return onnx.numpy_helper.to_array(value)
        return value

    return {a.name: plain(onnx.helper.get_attribute_value(a)) for a in node.attribute}


def _texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value)


def _tensor(value: Any) -> Any:
    """Weights as TensorRT's plugins read them: float32 and float16 stay, anything else becomes float32."""
    import numpy as np
    import onnx.numpy_helper

    array = np.asarray(value)
    return onnx.numpy_helper.from_array(array if array.dtype == np.float16 else array.astype(np.float32))


def _fits(declared: Sequence[int | str], given: Dims, bound: dict[str, int | str | None]) -> bool:
    open_at = [i for i, d in enumerate(declared) if isinstance(d, str) and d.startswith(ANY_DIMS)]
    for at in open_at[:1]:
        several, count = str(declared[at]), len(given) - len(declared) + 1
        if count < 0 or bound.setdefault(several, count) != count:
            return False
        declared = [*declared[:at], *(f"{several}{i}" for i in range(count)), *declared[at + 1 :]]
    if len(declared) != len(given):
        return False
    for want, have in zip(declared, given, strict=True):
        if isinstance(want, int):
            if isinstance(have, int) and have != want:
                return False
        else:
            known = bound.get(want)
            if isinstance(known, int) and isinstance(have, int) and known != have:
                return False
            if known is None or isinstance(have, int):
                bound[want] = have
    return True


def _neighbours(shape: Dims) -> Iterator[tuple[str, Dims]]:
    """Shapes that are easily mistaken for this one, and how they come from it."""
    for i, j in itertools.combinations(range(len(shape)), 2):
        swapped = list(shape)
        swapped[i], swapped[j] = shape[j], shape[i]
        yield f"axes {i} and {j} swapped", tuple(swapped)
    for i in reversed(range(len(shape) + 1)):
        yield f"one more dim of 1 at {i}", (*shape[:i], 1, *shape[i:])
    for i, dim in enumerate(shape):
        if dim == 1:
            yield f"no dim of 1 at {i}", (*shape[:i], *shape[i + 1 :])


def _shape_text(inputs: Sequence[Input], types: Sequence[TensorType | None]) -> str:
    given, wanted = [], []
    for declared, have in zip(inputs, types, strict=False):
        if have is not None:
            dims = "?" if have.shape is None else ", ".join("?" if d is None else str(d) for d in have.shape)
            given.append(f"{declared.name} [{dims}]")
            shapes = (f"[{', '.join(map(str, s))}]" for s in declared.shapes)
            wanted.append(f"{declared.name} {' or '.join(shapes)}")
    return f"shapes {', '.join(given)} do not fit {', '.join(wanted)}"
