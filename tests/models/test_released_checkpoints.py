"""Released checkpoints: every name and shape, the published forward pass, and every file that is refused."""

import pickle

import numpy as np
import pytest
import torch

from models.checkpoints import CheckpointError
from models.released_checkpoints import load_published, matte_published
from models.stylematte import build_model
from tests.models import released
from tests.models.networks import lively
from tests.models.released import RELEASED, SMALL


@pytest.fixture(scope="module")
def checkpoint() -> dict[str, torch.Tensor]:
    """A small one; not to be changed."""
    return released.tensors(SMALL)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "stylematte_pure.pth"


def random_image(*size: int) -> torch.Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(5))


def test_the_released_state_dict_has_374_entries():
    assert len(released.shapes(RELEASED)) == 374
    parts = ("fpn.", "pixel_decoder.encoder.", "pixel_decoder.decoder.", "conv.")
    counts = [sum(name.startswith(part) for name in released.shapes(RELEASED)) for part in parts]
    assert counts == [18, 237, 117, 2]


def test_parameters_of_official():
    model = build_model("official")
    parts = (model, model.encoder, model.pixel_decoder, model.fpn, model.head)
    counts = [sum(p.numel() for p in part.parameters()) for part in parts]
    assert counts == [34_912_123, 27_520_698, 5_421_504, 1_967_616, 2_305]


@pytest.mark.parametrize(
    "size", [(64, 64), (104, 72), (40, 136), (60, 100)]
)  # the last: multiples of 4 alone
def test_the_published_forward_pass(checkpoint, path, size):
    torch.save(checkpoint, path)
    model = load_published(path, "test_official")
    image = random_image(*size)
    with torch.inference_mode():
        got = model(image, image).alpha[:, 0].numpy()
    wanted = released.alpha(SMALL, checkpoint, image)
    assert np.ptp(wanted) > 0.5
    np.testing.assert_allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "padding"), [((61, 90), (3, 6)), ((64, 93), (8, 3)), ((63, 80), (1, 8)), ((64, 80), (0, 0))]
)
def test_the_published_padding(checkpoint, path, size, padding):
    torch.save(checkpoint, path)
    image = random_image(*size)
    with torch.inference_mode():
        got = matte_published(load_published(path, "test_official"), image)[:, 0].numpy()
    above, left = padding
    padded = np.pad(image.numpy(), ((0, 0), (0, 0), (above, 0), (left, 0)), "reflect")
    wanted = released.alpha(SMALL, checkpoint, torch.from_numpy(padded))[:, above:, left:]
    assert got.shape == (2, *size)
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_a_network_of_larger_steps_is_padded_to_them():
    model, image = lively("test"), random_image(72, 104)
    with torch.inference_mode():
        got = matte_published(model, image)
        padded = torch.nn.functional.pad(image, (24, 0, 24, 0), mode="reflect")
        wanted = model(padded, padded).alpha[..., 24:, 24:]
    torch.testing.assert_close(got, wanted)


BLOCK = "pixel_decoder.encoder.encoder.layers.3.blocks.1.attention.self"
INDEX = f"{BLOCK}.relative_position_index"
LEVELS = "pixel_decoder.decoder.level_embed"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(LEVELS), f"1 tensors are missing, first {LEVELS}"),
        (lambda t: t.pop(f"{BLOCK}.key.bias"), f"1 tensors are missing, first {BLOCK}.key.bias"),
        (lambda t: t.pop("fpn.smooth_conv.2.bias"), "1 tensors are missing, first fpn.smooth_conv.2.bias"),
        (lambda t: t.pop(INDEX), f"1 tensors are missing, first {INDEX}"),
        (lambda t: t.update(extra=torch.zeros(1)), "1 tensors are unknown, first extra"),
        (lambda t: t.update({"conv.bias": torch.zeros(2)}), "conv.bias is (2,), the network expects (1,)"),
        (
            lambda t: t.update({"fpn.smooth_conv.1.bias": torch.ones(32)}),
            "fpn.smooth_conv.1.bias and fpn.smooth_conv.0.bias differ, but the network has one",
        ),
        (lambda t: t.update({INDEX: t[INDEX].T}), f"{INDEX} is not the position table for this window size"),
        (lambda t: t.update(state_dict={}), "'state_dict' is a dict, not a tensor"),
    ],
)
def test_what_does_not_fit_is_named(checkpoint, path, change, message):
    changed = dict(checkpoint)
    change(changed)
    torch.save(changed, path)
    with pytest.raises(CheckpointError) as caught:
        load_published(path, "test_official")
    assert str(caught.value) == f"{path}: {message}"


def test_a_file_that_would_run_code_is_refused(path):
    class Touch:
        def __reduce__(self):
            return (open, (str(path.with_name("ran")), "w"))

    path.write_bytes(pickle.dumps({"conv.bias": Touch()}, protocol=2))
    with pytest.raises(CheckpointError, match="not a file of plain tensors"):
        load_published(path, "test_official")
    torch.save({"conv.bias": Touch()}, path)
    with pytest.raises(CheckpointError, match="not a file of plain tensors"):
        load_published(path, "test_official")
    assert not path.with_name("ran").exists()


@pytest.mark.parametrize("share", [0, 0.3, 0.99])
def test_a_truncated_file(checkpoint, path, share):
    torch.save(checkpoint, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(CheckpointError, match=r"stylematte_pure\.pth: damaged"):
        load_published(path, "test_official")


def test_a_list_of_tensors(path):
    torch.save([torch.zeros(1)], path)
    with pytest.raises(CheckpointError, match="expected a dictionary of tensors, found list"):
        load_published(path, "test_official")


def test_a_file_that_is_not_there(path):
    with pytest.raises(FileNotFoundError):
        load_published(path, "test_official")
