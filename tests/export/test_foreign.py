"""Networks of others under our contract: recognised, wrapped, the same alpha; or refused clearly."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.foreign.families import FAMILIES
from export.foreign.importing import Description, import_network
from export.foreign.reading import read_foreign, recognise
from stylematte.engines import open_engine
from stylematte.engines.base import Contract
from stylematte.errors import InputError, UsageError
from stylematte.matter import Matter
from tests.export.drawn_networks import SIDE, network, save, with_architecture

TOLD = Description(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), activation="none")


def imported(path, said=TOLD):
    return import_network(path, said, "drawn", "0.1.0")


def contract_of(model):
    return Contract.from_metadata({entry.key: entry.value for entry in model.metadata_props}, "file")


def alpha_of(model, image, guide=None):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["alpha"], {"image": image, "guide": image if guide is None else guide})[0]


def by_hand(image, mean=0.5, std=0.25, sigmoid=True):
    """What `network` says, in NumPy."""
    x = (np.asarray(image, np.float64) - mean) / std
    difference = np.pad(x[:, 0] - x[:, 1], ((0, 0), (1, 1), (1, 1)))
    height, width = image.shape[2:]
    logits = sum(difference[:, r : r + height, c : c + width] for r in range(3) for c in range(3)) * 3 / 9
    return 1 / (1 + np.exp(-logits)) if sigmoid else logits


@pytest.mark.parametrize("kind", ["u2net", "isnet", "imgly"])
def test_families_are_recognised_by_their_architecture(tmp_path, kind):
    path = save(with_architecture(kind), tmp_path / "any_name.onnx")
    assert recognise(read_foreign(path)) == kind
    found = imported(path, Description())
    assert found.is_recognised
    assert found.family is FAMILIES[kind]
    contract = contract_of(found.model)
    assert (contract.fit, contract.working_sizes, contract.stride) == ("stretch", ((SIDE, SIDE),), SIDE)
    assert contract.mean == pytest.approx(FAMILIES[kind].processing.mean)


def test_alpha_is_the_bare_networks(tmp_path, rng):
    found = imported(save(network(), tmp_path / "a.onnx"))
    image = rng.random((1, 3, SIDE, SIDE), np.float32)
    assert alpha_of(found.model, image)[:, 0] == pytest.approx(by_hand(image), abs=2e-6)
    assert found.proof.max_difference < 1e-5


def test_min_max_and_division_by_the_greatest_value(tmp_path, rng):
    found = imported(save(with_architecture("u2net"), tmp_path / "a.onnx"), Description())
    image = 0.6 * rng.random((1, 3, SIDE, SIDE), np.float32)
    family = FAMILIES["u2net"].processing
    x = np.asarray(image, np.float64) / image.max()
    x = (x - np.reshape(family.mean, (1, 3, 1, 1))) / np.reshape(family.std, (1, 3, 1, 1))
    answer = by_hand(x, 0, 1)
    wanted = (answer - answer.min()) / (answer.max() - answer.min())
    assert alpha_of(found.model, image)[:, 0] == pytest.approx(wanted, abs=2e-5)


def test_sigmoid_is_added_where_it_is_lacking_and_only_there(tmp_path, rng):
    image = rng.random((1, 3, SIDE, SIDE), np.float32)
    said = Description("birefnet")
    mean, std = (
        np.reshape(v, (1, 3, 1, 1)) for v in (FAMILIES["birefnet"].processing.mean, (0.229, 0.224, 0.225))
    )
    wanted = by_hand((image - mean) / std, 0, 1)
    for ends_in in ("Sigmoid", "Identity"):
        found = imported(save(network(ends_in=ends_in), tmp_path / f"{ends_in}.onnx"), said)
        assert alpha_of(found.model, image)[:, 0] == pytest.approx(wanted, abs=1e-5)
        assert not found.is_recognised


def test_a_second_sigmoid_is_refused_where_the_graph_does_not_show_the_first(tmp_path):
    path = save(network(ends_in="HardSigmoid"), tmp_path / "a.onnx")
    with pytest.raises(InputError, match=r"in \[0, 1\] already") as error:
        imported(path, Description("birefnet"))
    assert "--activation none" in error.value.hint
    assert imported(path, Description("birefnet", activation="none")).proof.max_difference < 1e-5


@pytest.mark.parametrize("batch", [1, "N"])
def test_several_images_at_once(tmp_path, rng, batch):
    found = imported(save(network(batch=batch), tmp_path / "a.onnx"))
    assert found.proof.batch_sizes == (1, 2)
    image = rng.random((3, 3, SIDE, SIDE), np.float32)
    assert alpha_of(found.model, image)[:, 0] == pytest.approx(by_hand(image), abs=2e-6)


def test_a_network_of_one_image_stays_so_and_runs_on_several(tmp_path, rng):
    model = network()
    shape = numpy_helper.from_array(np.array([1, 1, SIDE, SIDE], np.int64), "shape")
    model.graph.initializer.append(shape)
    last = model.graph.node[-1]
    last.output[0] = "answer"
    model.graph.node.append(helper.make_node("Reshape", ["answer", "shape"], ["alpha"]))
    found = imported(save(model, tmp_path / "a.onnx"))
    assert found.proof.batch_sizes == (1,)
    path = save(found.model, tmp_path / "wrapped.onnx")
    images = [(255 * rng.random((50, 70, 3))).astype(np.uint8) for _ in range(3)]
    matter = Matter(open_engine(path, device="cpu"))
    for together, alone in zip(matter.batch(images), map(matter, images), strict=True):
        assert np.array_equal(together.alpha, alone.alpha)


def test_half_precision_stays_as_it_is(tmp_path, rng):
    found = imported(save(network(half=True), tmp_path / "a.onnx"))
    assert contract_of(found.model).precision == "fp16"
    kernel = next(tensor for tensor in found.model.graph.initializer if tensor.name.endswith("kernel"))
    assert kernel.data_type == TensorProto.FLOAT16
    image = rng.random((1, 3, SIDE, SIDE), np.float32)
    assert alpha_of(found.model, image)[:, 0] == pytest.approx(by_hand(image), abs=5e-3)


def test_free_sides_keep_the_shape_of_a_photo(tmp_path, rng):
    found = imported(save(network(side=None), tmp_path / "a.onnx"), Description("modnet", size=64))
    contract = contract_of(found.model)
    assert (contract.fit, contract.working_size, contract.stride) == ("keep", 64, 32)
    assert contract.working_size_for(100, 200) == (32, 64)
    image = rng.random((1, 3, 32, 96), np.float32)
    assert alpha_of(found.model, image)[:, 0] == pytest.approx(by_hand(image, 0.5, 0.5), abs=2e-6)


def test_the_library_mattes_with_it(tmp_path):
    found = imported(save(network(), tmp_path / "a.onnx"))
    path = save(found.model, tmp_path / "wrapped.onnx")
    image = np.zeros((90, 120, 3), np.uint8)
    image[:, :60, 1], image[:, 60:, 0] = 255, 255
    alpha = Matter(open_engine(path, device="cpu"))(image).alpha
    assert alpha.shape == (90, 120)
    assert alpha[:, :50].max() < 0.01
    assert alpha[:, 70:].min() > 0.99


def test_nodes_that_are_out_of_order_are_put_in_order(tmp_path):
    model = network(half=True)
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    assert imported(save(model, tmp_path / "a.onnx")).proof.max_difference < 1 / 255


def test_an_unknown_file_is_told_what_would_describe_it(tmp_path):
    path = save(network(side=None), tmp_path / "a.onnx")
    with pytest.raises(InputError, match="not recognised") as error:
        imported(path, Description(mean=(0, 0, 0)))
    assert "--as " in error.value.hint
    for option in ("--std", "--activation", "--size", "--fit"):
        assert option in error.value.hint
    assert "--mean" not in error.value.hint
    assert error.value.details[0] == "input  input: float 1x3x?x?"


def three_inputs():
    model = network()
    for name in ("trimap", "previous"):
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, SIDE, SIDE]))
    return model


def custom_operator():
    model = network(more_nodes=(helper.make_node("FusedConv", ["input"], ["x"], domain="com.microsoft"),))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def four_channels():
    model = network()
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 4
    return model


def ours():
    model = network()
    helper.set_model_props(model, {"stylematte.contract": "2"})
    return model


def integers():
    model = network()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    return model


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (three_inputs(), "3 inputs"),
        (custom_operator(), "com.microsoft.FusedConv"),
        (four_channels(), "4 channels"),
        (ours(), "already a StyleMatte model"),
        (network(batch=4), "takes 4 images at once"),
        (network(ends_in="Identity"), "which is not an alpha"),
    ],
)
def test_what_cannot_be_wrapped_is_refused(tmp_path, model, words):
    path = save(model, tmp_path / "a.onnx")
    with pytest.raises(InputError, match=words):
        imported(path)


def test_integers_are_refused(tmp_path):
    path = tmp_path / "a.onnx"
    path.write_bytes(integers().SerializeToString())
    with pytest.raises(InputError, match=r"damaged|not a float32"):
        imported(path)


def test_external_data_is_refused_with_the_line_that_mends_it(tmp_path):
    path = tmp_path / "a.onnx"
    onnx.save(network(), path, save_as_external_data=True, location="a.data", size_threshold=0)
    with pytest.raises(InputError, match=r"other files: a\.data") as error:
        imported(path)
    assert "onnx.save" in error.value.hint


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "text file"),
        (b"# Title\n\nwords\n", "text file"),
        (b"", "not an ONNX file"),
        (bytes(range(256)) * 8, "not an ONNX file"),
    ],
)
def test_what_is_no_onnx_file_is_refused(tmp_path, content, words):
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_foreign(path)


def test_a_file_that_was_cut_off_is_refused(tmp_path):
    whole = network().SerializeToString()
    path = tmp_path / "a.onnx"
    for share in (0.3, 0.6, 0.9):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(InputError, match=r"truncated|damaged"):
            read_foreign(path)


def test_a_file_beyond_what_onnx_holds_is_refused_unread(tmp_path):
    path = tmp_path / "a.onnx"
    with path.open("wb") as file:
        file.truncate(3 << 30)
    with pytest.raises(InputError, match=r"3\.2 GB"):
        read_foreign(path)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (Description("sam"), "--as sam"),
        (Description(output="x"), "--output x"),
        (Description("modnet", size=65), "size 65"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, said, words):
    path = save(network(), tmp_path / "a.onnx")
    with pytest.raises(UsageError, match=words):
        imported(path, said)
