"""Plans, keys, builds and proofs of engines, on a stand-in for TensorRT and the GPU."""

import hashlib
import json
import os
import subprocess
import types

import numpy as np
import onnx
import pytest

from export import engine_plan, tensorrt
from export.build import fix_size
from export.engine_plan import Identity, plan_for
from export.parity import ParityError
from export.precision import set_metadata, to_half
from export.tensorrt import build_in_process, build_plan, check_engine, run_engine, write_engine
from stylematte.engines.base import Contract
from stylematte.engines.cuda import Cuda
from stylematte.engines.tensorrt import Sidecar
from stylematte.errors import EngineError, InputError
from tests.runtime.fake_gpu import FakeCuda, fake_tensorrt

BUILT_FOR = {
    "gpu": "Drawn GPU 9000",
    "compute_capability": "9.0",
    "driver": "580.1",
    "tensorrt": "11.4.0.106",
}


@pytest.fixture
def plan(exported) -> engine_plan.EnginePlan:
    return plan_for("test", exported.model, 64, 2)


@pytest.fixture
def gpu() -> FakeCuda:
    return FakeCuda()


@pytest.fixture
def trt(gpu):
    return fake_tensorrt(gpu)


@pytest.fixture
def photos(rng) -> dict[str, np.ndarray]:
    return {name: rng.random((3, 90, 120), np.float32) for name in "ab"}


def silent(phase: str, done: int, steps: int) -> None:
    pass


def test_sizes_are_near_the_photos_shapes_and_the_networks_area(exported):
    plan = plan_for("test", exported.model, 480, 4)
    assert plan.sizes == ((480, 480), (384, 576), (576, 384), (416, 544), (544, 416), (352, 640), (640, 352))
    assert plan.precision == "fp32"
    contract = Contract.from_metadata(plan.metadata, "test")
    assert contract.working_sizes == plan.sizes
    assert plan_for("test", exported.model, None, 4).sizes[0] == (128, 128)
    profile = plan.profiles()[1]
    assert profile["image"] == [(1, 3, 384, 576), (1, 3, 384, 576), (4, 3, 384, 576)]
    assert profile["guide"] == [(1, 3, 1, 1), (1, 3, 1536, 2304), (4, 3, 4096, 4096)]


def test_a_file_of_one_size_gives_an_engine_of_one_size(exported):
    model = onnx.ModelProto()
    model.CopyFrom(exported.model)
    fix_size(model, (96, 160))
    assert plan_for("test", model, 480, 4).sizes == ((96, 160),)
    shapes = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert shapes == [0, 3, 96, 160]


def test_models_that_no_engine_is_built_from(exported):
    model = onnx.ModelProto()
    model.CopyFrom(exported.model)
    set_metadata(model, "precision", "int8")
    with pytest.raises(InputError, match="int8"):
        plan_for("test", model, None, 1)
    del model.metadata_props[:]
    with pytest.raises(InputError, match="not a StyleMatte model"):
        plan_for("test", model, None, 1)
    with pytest.raises(InputError, match="size 16 is below the network's stride of 32"):
        plan_for("test", exported.model, 16, 1)


def test_the_key_changes_with_everything_the_engine_depends_on(exported, plan):
    identity = Identity(BUILT_FOR, "a" * 64, "b" * 64)
    keys = {identity.key(plan)}
    for name in BUILT_FOR:
        keys.add(Identity(BUILT_FOR | {name: "other"}, "a" * 64, "b" * 64).key(plan))
    keys.add(Identity(BUILT_FOR, "c" * 64, "b" * 64).key(plan))
    keys.add(Identity(BUILT_FOR, "a" * 64, "c" * 64).key(plan))
    keys.add(identity.key(plan_for("test", exported.model, 96, 2)))
    keys.add(identity.key(plan_for("test", exported.model, 64, 3)))
    assert len(keys) == 9
    assert identity.key(plan_for("test", exported.model, 64, 2)) in keys


def test_a_plan_is_a_script_and_the_kernels(exported, plan, tmp_path):
    pytest.importorskip("cuda.bindings.nvrtc")
    files = engine_plan.write_plan(plan, tmp_path / "test.onnx", tmp_path)
    names = ["test.fgf_coefficients.ptx", "test.fgf_apply.ptx", "test.build.sh"]
    assert [path.name for path in files] == names
    assert ".entry fgf_apply" in files[1].read_text()
    assert os.access(files[2], os.X_OK)
    subprocess.run(["sh", "-n", str(files[2])], check=True)
    script = files[2].read_text()
    assert "--weights ./test.onnx --batch-size 2 --size 64 --out ." in script
    assert "--maxShapes=image:2x3x64x64,guide:2x3x4096x4096" in script
    half = plan_for("half", to_half(exported.model, "fp16"), 64, 2)
    paths = engine_plan.write_plan(half, tmp_path / "half.onnx", tmp_path)
    # The filter is float32 in every precision.
    assert [path.read_text() for path in paths[:2]] == [path.read_text() for path in files[:2]]


@pytest.mark.parametrize("tool", ["stylematte", "trtexec"])
@pytest.mark.parametrize(
    "name",
    ["a b", "x$(touch pwned)", "`touch pwned`", 'it\'s "1"', "-v", "a\ntouch pwned\n#", "x;touch pwned"],
)
def test_the_script_takes_a_name_for_a_name(exported, tmp_path, name, tool):
    pytest.importorskip("cuda.bindings.nvrtc")
    plan = plan_for(name, exported.model, 64, 2)
    script = engine_plan.write_plan(plan, tmp_path / f"{name}.onnx", tmp_path)[-1]
    program = tmp_path / "bin" / tool
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nprintf "%s\\0" "$@"\n')
    program.chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", str(script)],
        cwd=tmp_path,
        env={"PATH": f"{program.parent}:/usr/bin:/bin"},
        capture_output=True,
        check=True,
        text=True,
    )
    given = done.stdout.split("\0")
    wanted = f"./{name}.onnx" if tool == "stylematte" else f"--onnx=./{name}.onnx"
    assert wanted in given
    assert not (tmp_path / "pwned").exists()


def test_an_engine_is_built_with_a_profile_a_size_and_without_tf32(trt, plan):
    said = []
    engine = build_plan(trt, plan, lambda *progress: said.append(progress))
    assert onnx.ModelProto.FromString(engine) == plan.model
    (config,) = trt.configs
    assert [profile["image"][2][2:] for profile in config.profiles] == list(plan.sizes)
    assert config.cleared == ["TF32"]
    assert said == [("Building", 0, 2), ("Building", 1, 2)]


def test_where_tensorrt_has_plugins_the_nodes_ask_for_them(trt, plan, monkeypatch):
    trt.NetworkDefinitionCreationFlag = types.SimpleNamespace(PREFER_AOT_PYTHON_PLUGINS=2)
    registered = []
    monkeypatch.setattr(tensorrt, "register", lambda *numbers, **more: registered.append(numbers))
    model = onnx.ModelProto.FromString(build_plan(trt, plan, silent))
    assert registered == [(1, 1e-4)]
    assert trt.configs[0].network["flags"] == 1 << 2
    nodes = [node for node in model.graph.node if node.domain == "matte"]
    assert len(nodes) == 2
    for node in nodes:
        assert {a.name for a in node.attribute} == {"plugin_namespace", "plugin_version", "aot"}


def test_a_half_engine_keeps_tf32_for_what_is_left_of_float32(trt, exported):
    build_plan(trt, plan_for("half", to_half(exported.model, "fp16"), 64, 1), silent)
    assert trt.configs[0].cleared == []


def test_refusals_in_tensorrts_words(trt, plan):
    trt.failure = "no tactic\nfor node 7"
    with pytest.raises(EngineError, match=r"TensorRT did not build test: no tactic for node 7$"):
        build_plan(trt, plan, silent)
    trt.refusal = "Plugin not found"
    with pytest.raises(EngineError, match=r"TensorRT does not read test: Plugin not found$"):
        build_plan(trt, plan, silent)


def test_an_engine_is_proven_at_every_size_and_batch(trt, gpu, plan, photos):
    run = run_engine(trt, build_plan(trt, plan, silent), plan, Cuda(0, gpu))
    parity = check_engine(plan, run, photos)
    assert parity.batch_sizes == (1, 2)
    assert parity.pictures == 3 + len(plan.sizes) + 1
    assert parity.max_difference == 0  # the stand-in is ONNX Runtime
    assert sorted(set(trt.plans[0].contexts[0].profiles)) == list(range(len(plan.sizes)))
    assert not gpu._memory  # all is given back


def test_an_engine_wrong_for_one_batch_size_alone_is_found_out(trt, gpu, plan, photos):
    right = run_engine(trt, build_plan(trt, plan, silent), plan, Cuda(0, gpu))

    def wrong(image, guide):
        alpha = right(image, guide)
        alpha[1:, :, :20] = 0
        return alpha

    with pytest.raises(ParityError, match="2 at 64x64: alpha of the file differs from the onnx file's"):
        check_engine(plan, wrong, photos)


def test_an_engine_that_does_not_open_or_run(trt, gpu, plan, photos):
    with pytest.raises(EngineError, match="cannot open the engine that it built for test"):
        run_engine(trt, b"refused", plan, Cuda(0, gpu))
    run = run_engine(trt, build_plan(trt, plan, silent), plan, Cuda(0, gpu))
    trt.plans[0].broken = True
    with pytest.raises(EngineError, match=r"the engine of test fails on \(1, 3, 64, 64\)"):
        check_engine(plan, run, photos)
    assert not gpu._memory


def test_engine_and_sidecar_are_what_the_runtime_reads(trt, gpu, plan, photos, tmp_path):
    engine = build_plan(trt, plan, silent)
    parity = check_engine(plan, run_engine(trt, engine, plan, Cuda(0, gpu)), photos)
    identity = Identity(BUILT_FOR, "a" * 64, "b" * 64)
    path = engine_plan.engine_path(plan, identity, tmp_path)
    assert path.name == f"test.{identity.key(plan)}.engine"
    assert not engine_plan.is_built(path)
    write_engine(path, engine, plan, identity, parity, {"seconds": 1.5})
    assert engine_plan.is_built(path)
    sidecar = Sidecar.read(path)
    assert sidecar.contract.preset == "test"
    assert sidecar.contract.working_sizes == sidecar.sizes == plan.sizes
    assert (sidecar.built_for, sidecar.onnx_sha256, sidecar.largest_batch) == (BUILT_FOR, "a" * 64, 2)
    assert sidecar.engine_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    facts = json.loads(path.with_name(path.name + ".json").read_text())
    assert facts["ptx_sha256"] == "b" * 64
    assert facts["parity"]["batch_sizes"] == [1, 2]
    assert facts["build"] == {"seconds": 1.5}
    path.write_bytes(b"half of it")
    assert not engine_plan.is_built(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, f"{path.name}.json"]


def answer_engine(settings, sender):
    sender.send(("progress", ("Building", 1, 2)))
    sender.send(("engine", settings[0].encode()))


def answer_error(settings, sender):
    sender.send(("error", "TensorRT did not build it"))


def answer_nothing(settings, sender):
    os._exit(11)


def test_a_build_in_a_process_of_its_own(plan, monkeypatch):
    said = []
    monkeypatch.setattr(tensorrt, "_build_and_send", answer_engine)
    assert build_in_process(plan, lambda *progress: said.append(progress)) == b"test"
    assert said == [("Building", 1, 2)]
    monkeypatch.setattr(tensorrt, "_build_and_send", answer_error)
    with pytest.raises(EngineError, match="TensorRT did not build it"):
        build_in_process(plan, silent)
    monkeypatch.setattr(tensorrt, "_build_and_send", answer_nothing)
    with pytest.raises(EngineError, match="the process that built it died with 11"):
        build_in_process(plan, silent)


def test_an_interrupted_build_leaves_no_process(plan, monkeypatch):
    def interrupt(*progress):
        raise KeyboardInterrupt

    monkeypatch.setattr(tensorrt, "_build_and_send", answer_engine)
    with pytest.raises(KeyboardInterrupt):
        build_in_process(plan, interrupt)
    assert not tensorrt.multiprocessing.active_children()


def test_an_engine_of_the_shipped_kind_is_proven_with_its_prior(trt, gpu, shipped, photos):
    plan = plan_for("test", shipped.model, 64, 2)
    assert [kernel.name for kernel in plan.kernels()] == ["fgf_apply"]
    run = run_engine(trt, build_plan(trt, plan, silent), plan, Cuda(0, gpu))
    parity = check_engine(plan, run, photos)
    assert parity.pictures == 3 + len(plan.sizes) + 1 + 2
    assert parity.max_difference == 0
    assert not gpu._memory

    def deaf(image, guide, prior=None):
        return run(image, guide)

    with pytest.raises(ParityError, match="a, with its alpha as prior: alpha of the file differs"):
        check_engine(plan, deaf, photos)
