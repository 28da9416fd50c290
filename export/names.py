"""Name a graph's nodes after the network's modules, and remove traces of the exporting machine."""

import ast
from collections import Counter

import onnx

WRAPPER = "model."  # the exporter traces the network as the attribute of a wrapper
_SCOPES = "pkg.torch.onnx.name_scopes"


def name_after_modules(graph: onnx.GraphProto, keep: set[str]) -> None:
    """Rename a traced graph in place: `encoder.blocks.3.expand.conv/Conv` is that module's convolution.

    A node and its output share one name: the module's path in the state dict, a slash, the operator, and a
    number from the second occurrence on. Everything else that torch writes into the graph is removed,
    including stack traces with paths of the machine.

    Args:
        graph: Graph from torch's exporter, in topological order.
        keep: Tensors that keep their names, such as outputs.
    """
    weights = {tensor.name for tensor in graph.initializer}
    renamed = {name: name.removeprefix(WRAPPER) for name in weights}
    taken: Counter[str] = Counter()
    for node in graph.node:
        module = _owner(node, weights) or _deepest_scope(node)
        name = f"{module}/{node.op_type}" if module else node.op_type
        taken[name] += 1
        node.name = name if taken[name] == 1 else f"{name}.{taken[name]}"
        for index, output in enumerate(node.output):
            if output and output not in keep:
                renamed[output] = node.name if len(node.output) == 1 else f"{node.name}:{index}"
        del node.metadata_props[:]
        node.doc_string = ""
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = renamed[tensor.name]
        tensor.doc_string = ""
    del graph.metadata_props[:], graph.value_info[:], graph.quantization_annotation[:]
    graph.doc_string = ""


def _owner(node: onnx.NodeProto, weights: set[str]) -> str:
    """Return the module whose weight a node uses; a fused convolution carries the scope of its norm."""
    owners = [name for name in node.input if name in weights and name.endswith(".weight")]
    return owners[0].removeprefix(WRAPPER).removesuffix(".weight") if owners else ""


def _deepest_scope(node: onnx.NodeProto) -> str:
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            *modules, _ = ast.literal_eval(entry.value)  # the last is the operation itself
            return modules[-1].removeprefix(WRAPPER) if modules else ""
    return ""
