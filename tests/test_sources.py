"""Users' own model files: what is read from them, and what is said about those that cannot be used."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import flatbuffers
import numpy as np
import onnx
import onnxruntime
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from harness.export import export
from harness.model_inputs import Input
from harness.sources import LARGEST_BYTES, parse_shapes, source
from results.errors import ConfigError
from search.network import Activation, BatchNorm, Conv, Dense, GlobalPool, Network, Node, initial_weights

CHAIN = (
    Node("conv", Conv(4, stride=(2, 2)), ("input",)),
    Node("norm", BatchNorm(), ("conv",)),
    Node("act", Activation("relu"), ("norm",)),
    Node("pool", GlobalPool(), ("act",)),
    Node("dense", Dense(3), ("pool",)),
)
NETWORK = Network((3, 16, 16), CHAIN)


def exported(file_format: str, seed: int = 0) -> bytes:
    """A real file of this format."""
    return export(NETWORK, initial_weights(NETWORK, seed), file_format).data


def onnx_model(
    shape: list[int | str | None], *, kind: int = TensorProto.FLOAT, nodes: tuple[str, ...] = ("Relu",)
) -> onnx.ModelProto:
    """Nodes of one input one after the other, between ``x`` and ``y``."""
    names = ["x", *(f"t{i}" for i in range(1, len(nodes))), "y"]
    chain = [helper.make_node(op, [names[i]], [names[i + 1]]) for i, op in enumerate(nodes)]
    ends = [helper.make_tensor_value_info(name, kind, shape) for name in "xy"]
    graph = helper.make_graph(chain, "graph", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)


def saved(folder: Path, name: str, data: bytes | onnx.ModelProto) -> str:
    """Path of a file with this content."""
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.SerializeToString())
    return str(path)


# --------------------------------------------------------------------------- any file


@pytest.mark.parametrize("file_format", ["onnx", "tflite"])
def test_a_good_file_is_taken_as_it_is(tmp_path: Path, file_format: str) -> None:
    data = exported(file_format)
    found = source(saved(tmp_path, f"model.{file_format}", data))
    layout = (1, 3, 16, 16) if file_format == "onnx" else (1, 16, 16, 3)
    assert found.inputs == (Input("input", "float32", layout),)
    assert found.data == data
    assert found.path == tmp_path / f"model.{file_format}"
    artifact = found.artifact
    assert artifact.sha256 == export(NETWORK, initial_weights(NETWORK, 0), file_format).artifact.sha256
    assert (artifact.file_format, artifact.precision) == (file_format, "fp32")
    assert artifact.size_bytes == len(data)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.onnx", b"", "is empty"),
        ("model.tflite", b"", "is empty"),
        ("model.onnx", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        ("model.onnx", b"\x93NUMPY" * 20, "no ONNX file, or a damaged one"),
        ("model.onnx", b"hello", "no ONNX file, or a damaged one"),
        ("model.onnx", exported("tflite"), "no ONNX file, or a damaged one"),
        ("model.tflite", exported("onnx"), "no TFLite file"),
        ("model.tflite", b"TFL3", "no TFLite file"),
        ("model.tflite", b"\x00\x00\x00\x10TFL3", "damaged or cut off"),
        ("model.onx", b"x", r"unknown kind of model file '\.onx'; did you mean '\.onnx'"),
        ("model", b"x", r"known: \.onnx, \.tflite"),
    ],
)
def test_files_that_are_no_models(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        source(saved(tmp_path, name, content))
    assert name in str(caught.value)


@pytest.mark.parametrize("file_format", ["onnx", "tflite"])
def test_cut_off_files(tmp_path: Path, file_format: str) -> None:
    data = exported(file_format)
    path = tmp_path / f"model.{file_format}"
    for size in range(1, len(data), 7):
        path.write_bytes(data[:size])
        with pytest.raises(ConfigError, match=str(path)):
            source(str(path))


@pytest.mark.parametrize("file_format", ["onnx", "tflite"])
@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)
@given(changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1))
@example(changes=[(0.3, 255), (0.31, 255), (0.32, 255)])
def test_damage_is_a_config_error_or_goes_unnoticed(
    tmp_path: Path, file_format: str, changes: list[tuple[float, int]]
) -> None:
    data = bytearray(exported(file_format))
    for place, value in changes:
        data[int(place * len(data))] = value
    path = tmp_path / f"model.{file_format}"
    path.write_bytes(data)
    try:
        size_bytes = source(str(path)).artifact.size_bytes
    except ConfigError:  # any other error fails
        return
    assert size_bytes == len(data)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.onnx cannot be read: No such file"):
        source(str(tmp_path / "missing.onnx"))
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ConfigError, match=r"folder\.onnx cannot be read: Is a directory"):
        source(str(tmp_path / "folder.onnx"))
    huge = tmp_path / "huge.onnx"
    huge.touch()
    os.truncate(huge, LARGEST_BYTES + 1)
    with pytest.raises(ConfigError, match=r"huge\.onnx has 2147483648 bytes"):
        source(str(huge))


def test_shapes_as_text() -> None:
    texts = ["x=1,3,224,224", "serving_default_a:0=2", "a=b=3,1"]
    assert parse_shapes(texts) == {"x": (1, 3, 224, 224), "serving_default_a:0": (2,), "a=b": (3, 1)}
    assert parse_shapes([]) == {}


@pytest.mark.parametrize("text", ["x", "x=", "=1,2", "x=1,b", "x=0,3", "x=1,-3", "1,3", "x=1 3"])
def test_shapes_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ConfigError, match="write it like 'images=1,3,224,224'"):
        parse_shapes([text])


def test_a_shape_given_twice() -> None:
    with pytest.raises(ConfigError, match="'x' is given twice"):
        parse_shapes(["x=1", "x=2"])


# --------------------------------------------------------------------------- ONNX


def test_onnx_open_dimensions_are_asked_for(tmp_path: Path) -> None:
    path = saved(tmp_path, "open.onnx", onnx_model(["batch", 3, "height", None]))
    asked = r"input 'x' has the shape \(batch, 3, height, \?\).* such as --shape x=1,3,224,224"
    with pytest.raises(ConfigError, match=asked):
        source(path)
    found = source(path, {"x": (2, 3, 5, 7)})
    assert found.inputs == (Input("x", "float32", (2, 3, 5, 7)),)
    session = onnxruntime.InferenceSession(found.data, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [2, 3, 5, 7]
    assert session.get_outputs()[0].shape[:3] == [2, 3, 5]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"x": (1, 4)}, r"shape \(n, 3\), --shape says \(1, 4\)"),
        ({"x": (1, 3, 1)}, r"shape \(n, 3\), --shape says \(1, 3, 1\)"),
        ({"X": (1, 3)}, "unknown input 'X'"),
    ],
)
def test_onnx_shapes_that_contradict_the_file(tmp_path: Path, shapes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        source(saved(tmp_path, "open.onnx", onnx_model(["n", 3])), shapes)


def test_onnx_one_name_has_one_size(tmp_path: Path) -> None:
    model = onnx_model(["n", 3])
    second = helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n"])
    model.graph.input.append(second)
    with pytest.raises(ConfigError, match="'n' both 1 and 2"):
        source(saved(tmp_path, "open.onnx", model), {"x": (1, 3), "z": (2,)})


def test_onnx_initializers_are_no_inputs(tmp_path: Path) -> None:
    model = onnx_model([1, 3])
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "w"))
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3]))
    assert [each.name for each in source(saved(tmp_path, "old.onnx", model)).inputs] == ["x"]


def test_onnx_same_structure_has_the_same_graph_hash(tmp_path: Path) -> None:
    first, second = (
        source(saved(tmp_path, f"{seed}.onnx", exported("onnx", seed))).artifact for seed in (0, 1)
    )
    assert first.graph == second.graph
    assert first.weights != second.weights
    other = source(saved(tmp_path, "relu.onnx", onnx_model([1, 3]))).artifact
    assert other.graph == other.sha256
    assert other.weights == ""


def test_onnx_integer_constants_are_structure(tmp_path: Path) -> None:
    hashes = set()
    for axis in (0, 1):
        model = onnx_model([1, 3])
        model.graph.initializer.append(numpy_helper.from_array(np.array([axis]), "axes"))
        model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "w"))
        hashes.add(source(saved(tmp_path, "axes.onnx", model)).artifact.graph)
    assert len(hashes) == 2


def test_onnx_external_data_are_taken_in(tmp_path: Path) -> None:
    model = onnx.load_model_from_string(exported("onnx"))
    path = tmp_path / "outside.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="outside.data", size_threshold=0)
    assert source(str(path)).artifact.weights
    session = onnxruntime.InferenceSession(source(str(path)).data, providers=["CPUExecutionProvider"])
    image = np.ones((1, 3, 16, 16), np.float32)
    whole = onnxruntime.InferenceSession(exported("onnx"), providers=["CPUExecutionProvider"])
    assert (session.run(None, {"input": image})[0] == whole.run(None, {"input": image})[0]).all()
    (tmp_path / "outside.data").unlink()
    with pytest.raises(ConfigError, match=r"keeps weights in outside\.data, which cannot be read"):
        source(str(path))


def test_onnx_external_data_outside_the_folder_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"\0" * 12)
    (tmp_path / "models").mkdir()
    model = onnx_model([1, 3])
    tensor = numpy_helper.from_array(np.ones(3, np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    model.graph.initializer.append(tensor)
    with pytest.raises(ConfigError, match=r"keeps weights in \.\./secret"):
        source(saved(tmp_path / "models", "model.onnx", model))


def test_onnx_newer_than_what_is_known(tmp_path: Path) -> None:
    model = onnx_model([1, 3])
    model.opset_import[0].version = 999
    with pytest.raises(ConfigError, match="uses opset 999, the newest known here is"):
        source(saved(tmp_path, "new.onnx", model))
    model = onnx_model([1, 3])
    model.ir_version = 999
    with pytest.raises(ConfigError, match="IR version 999"):
        source(saved(tmp_path, "new.onnx", model))


def _no_inputs(model: onnx.ModelProto) -> None:
    del model.graph.input[:]


def _no_shape(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.ClearField("shape")


def _texts(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING


def _sequence(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.sequence_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_no_inputs, "has no inputs"),
        (_no_shape, "input 'x' has no shape"),
        (_texts, "input 'x' is no tensor of numbers"),
        (_sequence, "input 'x' is no tensor of numbers"),
    ],
)
def test_onnx_inputs_that_cannot_be_made_up(tmp_path: Path, change: Callable, message: str) -> None:
    model = onnx_model([1, 3])
    change(model)
    with pytest.raises(ConfigError, match=message):
        source(saved(tmp_path, "odd.onnx", model))


@pytest.mark.parametrize(
    ("model", "precision"),
    [
        (onnx_model([1, 3]), "fp32"),
        (onnx_model([1, 3], kind=TensorProto.FLOAT16), "fp16"),
        (onnx_model([1, 3], nodes=("QuantizeLinear", "DequantizeLinear")), "int8"),
        (onnx_model([1, 3], nodes=("DynamicQuantizeLinear",)), "fp32"),
        (onnx_model([1, 3], nodes=("ConvInteger",)), "int8"),
        (onnx_model([1, 3], kind=TensorProto.UINT8, nodes=("Cast", "Relu")), "fp32"),
    ],
)
def test_onnx_precision(tmp_path: Path, model: onnx.ModelProto, precision: str) -> None:
    assert source(saved(tmp_path, "model.onnx", model)).artifact.precision == precision


def test_onnx_precision_of_half_weights(tmp_path: Path) -> None:
    model = onnx_model([1, 3])
    model.graph.initializer.append(numpy_helper.from_array(np.ones(30, np.float16), "w"))
    assert source(saved(tmp_path, "half.onnx", model)).artifact.precision == "fp16"


# --------------------------------------------------------------------------- TFLite


def tflite_model(change: Callable[[schema.ModelT], None]) -> bytes:
    """A real file with a change made to its tables."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(exported("tflite"), 0))
    change(model)
    builder = flatbuffers.Builder(4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _custom(name: bytes | None) -> Callable[[schema.ModelT], None]:
    def change(model: schema.ModelT) -> None:
        code = model.operatorCodes[0]
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        code.customCode = name

    return change


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (b"FlexErf", "needs TensorFlow itself for FlexErf; convert it with built-in operators only"),
        (b"edgetpu-custom-op", "custom operators that the interpreter does not have: edgetpu-custom-op"),
        (None, "custom operators that the interpreter does not have: custom"),
    ],
)
def test_tflite_foreign_operators_are_named(tmp_path: Path, name: bytes | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        source(saved(tmp_path, "custom.tflite", tflite_model(_custom(name))))


def test_tflite_detection_is_known_to_the_interpreters(tmp_path: Path) -> None:
    path = saved(tmp_path, "detector.tflite", tflite_model(_custom(b"TFLite_Detection_PostProcess")))
    assert source(path).artifact.precision == "fp32"


def _open(model: schema.ModelT) -> None:
    main = model.subgraphs[0]
    main.tensors[main.inputs[0]].shapeSignature = np.array([-1, -1, 16, 3], np.int32)


def test_tflite_open_dimensions_have_a_default_and_can_be_set(tmp_path: Path) -> None:
    data = tflite_model(_open)
    path = saved(tmp_path, "open.tflite", data)
    assert source(path).inputs[0].shape == (1, 16, 16, 3)
    assert source(path).data == data
    found = source(path, {"input": (2, 32, 16, 3)})
    assert found.inputs == (Input("input", "float32", (2, 32, 16, 3)),)
    image = np.random.default_rng(0).standard_normal((2, 32, 16, 3)).astype(np.float32)
    for resolver in (OpResolverType.AUTO, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES):
        outputs = []
        for content, resize in ((found.data, False), (data, True)):
            interpreter = Interpreter(model_content=content, experimental_op_resolver_type=resolver)
            if resize:
                interpreter.resize_tensor_input(0, image.shape)
            interpreter.allocate_tensors()
            interpreter.set_tensor(0, image)
            interpreter.invoke()
            outputs.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
        assert outputs[0].shape == (2, 3)
        assert (outputs[0] == outputs[1]).all()
    with pytest.raises(ConfigError, match=r"shape \(\?, \?, 16, 3\), --shape says \(1, 1, 1, 1\)"):
        source(path, {"input": (1, 1, 1, 1)})


def test_tflite_fixed_shapes_cannot_be_changed(tmp_path: Path) -> None:
    path = saved(tmp_path, "model.tflite", exported("tflite"))
    assert source(path, {"input": (1, 16, 16, 3)}).data == exported("tflite")
    with pytest.raises(ConfigError, match=r"shape \(1, 16, 16, 3\), --shape says \(1, 32, 32, 3\)"):
        source(path, {"input": (1, 32, 32, 3)})
    with pytest.raises(ConfigError, match="unknown input 'inputs'; did you mean 'input'"):
        source(path, {"inputs": (1, 16, 16, 3)})


def _type(kind: int, *, constants: bool) -> Callable[[schema.ModelT], None]:
    def change(model: schema.ModelT) -> None:
        for tensor in model.subgraphs[0].tensors:
            if (tensor.buffer != 0) is constants and tensor.type == schema.TensorType.FLOAT32:
                tensor.type = kind

    return change


@pytest.mark.parametrize(
    ("change", "precision"),
    [
        (_type(schema.TensorType.INT8, constants=False), "int8"),
        (_type(schema.TensorType.UINT8, constants=False), "int8"),
        (_type(schema.TensorType.FLOAT16, constants=True), "fp16"),
    ],
)
def test_tflite_precision(tmp_path: Path, change: Callable, precision: str) -> None:
    assert source(saved(tmp_path, "model.tflite", tflite_model(change))).artifact.precision == precision


def _no_version(model: schema.ModelT) -> None:
    model.version = 2


def _no_operators(model: schema.ModelT) -> None:
    model.subgraphs[0].operators = []


def _tflite_no_inputs(model: schema.ModelT) -> None:
    model.subgraphs[0].inputs = []


def _tflite_texts(model: schema.ModelT) -> None:
    main = model.subgraphs[0]
    main.tensors[main.inputs[0]].type = schema.TensorType.STRING


def _tensor_beyond(model: schema.ModelT) -> None:
    model.subgraphs[0].inputs = [999]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_no_version, "schema version 2, only 3 is known"),
        (_no_operators, "damaged or cut off: it has no operators"),
        (_tflite_no_inputs, "has no inputs"),
        (_tflite_texts, "input 'input' is no tensor of numbers"),
        (_tensor_beyond, "damaged or cut off"),
    ],
)
def test_tflite_files_with_odd_tables(tmp_path: Path, change: Callable, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        source(saved(tmp_path, "odd.tflite", tflite_model(change)))
