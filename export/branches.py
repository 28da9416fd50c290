"""Branches of `If`: a file runs the module that follows priors only if there is one."""

from collections.abc import Iterable, Iterator

import onnx
from onnx import TensorProto, helper


def branches(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Return a node's branches; an empty list for all operators but `If`."""
    return [entry.g for entry in node.attribute if entry.type == onnx.AttributeProto.GRAPH]


def reads(node: onnx.NodeProto) -> set[str]:
    """Return the tensors that a node needs: its inputs, and what its branches take from outside."""
    names = set(node.input)
    for branch in branches(node):
        made = {tensor.name for tensor in branch.initializer}
        for inner in branch.node:
            names |= reads(inner) - made
            made.update(inner.output)
        names |= {port.name for port in branch.output} - made
    return names


def rename_reads(node: onnx.NodeProto, renamed: dict[str, str]) -> None:
    """Rename tensors that a node reads, in place, inside its branches as well."""
    node.input[:] = [renamed.get(name, name) for name in node.input]
    for branch in branches(node):
        for inner in branch.node:
            rename_reads(inner, renamed)
        for port in branch.output:
            port.name = renamed.get(port.name, port.name)


def ancestors(graph: onnx.GraphProto, tensors: Iterable[str]) -> Iterator[onnx.NodeProto]:
    """Yield every node that the tensors depend on, last first."""
    needed = set(tensors)
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(reads(node))
            yield node


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Sort nodes in place so that each follows those it reads, also those that only its branches read."""
    made = {name for node in graph.node for name in node.output}
    waiting, done, order = list(graph.node), set[str](), list[onnx.NodeProto]()
    while waiting:
        ready = [node for node in waiting if not (reads(node) & made) - done]
        assert ready, "the graph has a cycle"
        order += ready
        done.update(name for node in ready for name in node.output)
        waiting = [node for node in waiting if not done.issuperset(node.output)]
    _replace_nodes(graph, order)


def run_only_if_given(graph: onnx.GraphProto, port: str, module: str) -> None:
    """Move a module into a branch, in place: it runs only if a value of an input is above zero.

    Args:
        graph: Graph whose nodes are named after modules.
        port: The input, zeros if nothing is given.
        module: Name of the module. Its last operator adds a change, zero if nothing is given, to a tensor.
    """
    last = [node for node in graph.node if node.name.startswith(f"{module}/")][-1]
    assert last.op_type == "Add", "the module ends with another operator"
    unchanged, changed = last.input[0], last.output[0]
    last.output[0] = f"{module}/changed"  # so that nothing outside depends on the module
    outputs = [output.name for output in graph.output]
    outside = {node.name for node in ancestors(graph, [unchanged, *outputs])}
    inside = [node for node in graph.node if node.name not in outside]
    keep = helper.make_node("Identity", [unchanged], [f"{module}/unchanged"], name=f"{module}/unchanged")
    choices = [
        helper.make_graph(nodes, f"{module}_{name}", [], [_float_port(nodes[-1].output[0])])
        for name, nodes in (("given", inside), ("not_given", [keep]))
    ]
    graph.initializer.append(helper.make_tensor(f"{port}/none", TensorProto.FLOAT, [], [0.0]))
    node = helper.make_node
    conditional = [
        node("ReduceMax", [port], [f"{port}/largest"], f"{port}/largest", keepdims=0),
        node("Greater", [f"{port}/largest", f"{port}/none"], [f"{port}/is_given"], f"{port}/is_given"),
        node("If", [f"{port}/is_given"], [changed], module, then_branch=choices[0], else_branch=choices[1]),
    ]
    kept = [node for node in graph.node if node.name in outside]
    needed = reads(conditional[-1])
    at = 1 + max(k for k, node in enumerate(kept) if needed.intersection(node.output))
    _replace_nodes(graph, [*kept[:at], *conditional, *kept[at:]])


def _replace_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    # Copies, because some of the nodes belong to the graph, which is emptied first.
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _float_port(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4)  # OpenCV needs the rank
