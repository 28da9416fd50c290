"""Swin networks in traceable form: the same results as the package's own operators, at sizes not traced."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from export.onnx import export_onnx
from export.traceable import deformable_attention, reference_points, traceable
from models.stylematte import build_model
from tests.export.conftest import ORIGIN
from tests.models.networks import lively


def test_deformable_attention_is_that_of_grid_sample():
    """Points on pixels, between them, across the border and far outside."""
    torch.manual_seed(0)
    sizes, batch, heads, dim, queries, points = [(3, 5), (4, 2)], 2, 3, 4, 7, 2
    value = torch.randn(batch, 3 * 5 + 4 * 2, heads, dim)
    locations = torch.rand(batch, queries, heads, len(sizes), points, 2) * 2 - 0.5
    locations[:, 0] = 0
    locations[:, 1] = 1
    locations[:, 2] = 9
    attention = torch.randn(batch, queries, heads, len(sizes) * points).softmax(-1)
    attention = attention.view(batch, queries, heads, len(sizes), points)
    wanted = torch.zeros(batch, queries, heads, dim)
    for level, (maps, (height, width)) in enumerate(zip(value.split([15, 8], 1), sizes, strict=True)):
        for head in range(heads):
            image = maps[:, :, head].transpose(1, 2).reshape(batch, dim, height, width)
            grid = 2 * locations[:, :, head, level] - 1  # (B, queries, points, 2)
            sampled = F.grid_sample(image, grid, padding_mode="zeros", align_corners=False)
            wanted[:, :, head] += (sampled * attention[:, None, :, head, level]).sum(-1).transpose(1, 2)
    got = deformable_attention(value, sizes, locations, attention)
    torch.testing.assert_close(got, wanted.flatten(2), atol=1e-6, rtol=1e-5)


def test_reference_points_are_the_centres_of_pixels():
    got = reference_points([(1, 2), (2, 1)], torch.ones(3, 2, 2), torch.device("cpu"))
    centres = [[0.25, 0.5], [0.75, 0.5], [0.5, 0.25], [0.5, 0.75]]
    assert got.shape == (3, 4, 2, 2)
    for batch in range(3):
        for level in range(2):
            assert got[batch, :, level].tolist() == centres


@pytest.mark.parametrize("preset", ["test_swin", "test_official"])
@pytest.mark.parametrize("size", [(64, 96), (160, 32)])  # windows of 4 and 3 do not fit into all maps
def test_a_network_says_the_same_in_traceable_form(preset, size):
    network = lively(preset)
    image = torch.rand(2, 3, *size)
    with torch.inference_mode():
        wanted = network.coarse(image).logits
        with traceable(network):
            got = network.coarse(image).logits
        after = network.coarse(image).logits
    assert wanted.std() > 0.01
    assert not torch.equal(got, wanted)  # it was another way
    torch.testing.assert_close(got, wanted, atol=2e-5, rtol=1e-4)
    assert torch.equal(after, wanted)  # and nothing is left of it


def test_other_networks_are_left_alone():
    network = build_model("test").eval()
    with traceable(network):
        assert network.coarse(torch.rand(1, 3, 32, 32)).logits.shape == (1, 1, 8, 8)


@pytest.mark.slow
def test_a_swin_file_takes_every_size_and_batch():
    network = lively("test_swin")
    model = export_onnx(network, ORIGIN)
    kinds = {node.op_type for node in model.graph.node}
    assert not kinds & {"GridSample", "If", "Loop", "Scan", "NonZero"}
    assert {node.domain for node in model.graph.node} == {""}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for shape, full in (
        ((1, 128, 128), (61, 47)),
        ((2, 96, 160), (40, 10)),
        ((3, 32, 224), (8, 70)),
        ((1, 352, 288), (9, 9)),
    ):
        image = rng.random((shape[0], 3, *shape[1:]), np.float32)
        guide = rng.random((shape[0], 3, *full), np.float32)
        with torch.inference_mode():
            wanted = network(torch.from_numpy(image), torch.from_numpy(guide)).alpha.numpy()
        (alpha,) = session.run(["alpha"], {"image": image, "guide": guide})
        np.testing.assert_allclose(alpha, wanted, atol=1e-4)
