"""What a target may ask of a runtime (provider, delegate, release), and what the board says without it."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from devices.agent import options
from devices.agent.failures import Failure
from devices.agent.packages import chosen, installed_runtimes, version_of
from devices.agent.runtimes import onnxruntime as plugin
from devices.agent_client import AgentClient
from results.errors import ConfigError, RuntimeMissing, RuntimeRefused
from results.records import Target
from tests.fixtures_agent import QUICK, put, start
from tests.tiny_models import artifact_of, onnx_convolution, tflite_convolution

NO_DELEGATE = str(importlib.import_module("numpy.linalg._umath_linalg").__file__)
"""A shared library that is none."""


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentClient]:
    """An agent on this machine."""
    with start(tmp_path_factory.mktemp("board")) as running:
        yield running


def target(runtime: str, **taken: str | int | bool) -> Target:
    return Target("desk", runtime, options=tuple({"threads": 1, **taken}.items()))


def run(agent: AgentClient, where: Target) -> Any:
    data = onnx_convolution() if where.file_format == "onnx" else tflite_convolution()
    artifact = put(agent, artifact_of(data, where.file_format), data)
    return agent.session(artifact, where, QUICK).ran_on


# --------------------------------------------------------------------------- providers and delegates


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        (target("onnxruntime", provider="CudaExecutionProvider"), "'CUDAExecutionProvider', 'Tensorrt"),
        (target("onnxruntime", provider=plugin.CUDA), "has no CUDAExecutionProvider; it has .*CPUExec"),
        (target("onnxruntime", provider=plugin.TENSORRT), "has no TensorrtExecutionProvider"),
        (target("onnxruntime", provider=plugin.XNNPACK), "has no XnnpackExecutionProvider"),
        (target("tflite", delegate=1), "delegate is a text, not 1"),
        (target("tflite", delegate="/no/libedgetpu.so.1"), "the board has no file '/no/libedgetpu.so.1'"),
        (target("tflite", delegate=NO_DELEGATE), "cannot be loaded as a TFLite delegate"),
    ],
)
def test_what_the_board_has_not_is_told_and_nothing_else_is_measured(
    agent: AgentClient, where: Target, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        run(agent, where)


def test_the_provider_named_is_the_one_that_runs(agent: AgentClient) -> None:
    assert run(agent, target("onnxruntime", provider=plugin.CPU)).provider == "CPUExecutionProvider"


class FallingBack:
    """ONNX Runtime as it is where a provider is built in but does not start: it warns and takes the CPU."""

    __version__ = onnxruntime.__version__
    SessionOptions = onnxruntime.SessionOptions
    GraphOptimizationLevel = onnxruntime.GraphOptimizationLevel

    def get_available_providers(self) -> list[str]:
        return [plugin.CUDA, plugin.TENSORRT, plugin.CPU]

    def InferenceSession(self, path: str, settings: Any, providers: list[Any]) -> Any:
        assert providers[-1] == (plugin.CPU, {})
        return onnxruntime.InferenceSession(path, settings, providers=[plugin.CPU])


def test_a_silent_fall_back_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_convolution())
    known = options.read("onnxruntime", plugin.OPTIONS, {"provider": plugin.CUDA})
    with pytest.raises(Failure, match="asked for CUDAExecutionProvider, got CPUExecutionProvider"):
        plugin.open_model(FallingBack(), str(path), known)


class WithEngines(FallingBack):
    """Like a build with TensorRT, as far as engines and their folder go; this machine has no such build."""

    def __init__(self) -> None:
        self.folders: list[str] = []

    def InferenceSession(self, path: str, settings: Any, providers: list[Any]) -> Any:
        (name, own), rest = providers
        assert (name, own["trt_engine_cache_enable"], rest) == (plugin.TENSORRT, True, (plugin.CPU, {}))
        self.folders.append(own["trt_engine_cache_path"])
        session = onnxruntime.InferenceSession(path, settings, providers=[plugin.CPU])
        return Named(session, [plugin.TENSORRT, plugin.CPU])


class Named:
    """A session that says to run on other providers."""

    def __init__(self, session: Any, providers: list[str]) -> None:
        self.get_providers = lambda: providers
        self.get_inputs, self.get_outputs, self.run = session.get_inputs, session.get_outputs, session.run


def test_engines_are_built_once_per_file_and_their_time_is_kept_apart(tmp_path: Path) -> None:
    files = tmp_path / "artifacts"
    files.mkdir()
    path, old = files / ("ab" * 32), tmp_path / "engines" / ("cd" * 32 + "-1.0")
    path.write_bytes(onnx_convolution())
    old.mkdir(parents=True)
    library, known = WithEngines(), options.read("onnxruntime", plugin.OPTIONS, {"provider": plugin.TENSORRT})
    plugin.build(library, str(path), known)
    plugin.build(library, str(path), known)
    assert len(library.folders) == 1, "the second time they are there"
    folder = tmp_path / "engines" / f"{'ab' * 32}-{onnxruntime.__version__}"
    assert library.folders == [str(folder)]
    assert not old.exists(), "engines of a file that the board has no more are of no use"
    seconds = json.loads((folder / "built.json").read_text())["build_s"]
    provider = plugin.open_model(library, str(path), known).provider
    assert provider == f"TensorrtExecutionProvider, CPUExecutionProvider (engines built in {seconds:.1f} s)"


def test_other_providers_build_nothing(tmp_path: Path) -> None:
    plugin.build(onnxruntime, str(tmp_path / "model"), options.read("onnxruntime", plugin.OPTIONS, {}))
    assert list(tmp_path.iterdir()) == []


IDLE = r"""
/* An external delegate by TFLite's C interface (tensorflow/lite/core/c/common.h) that takes no operator. */
#include <stddef.h>
#include <stdint.h>
typedef struct Delegate {
  void *data; int (*prepare)(void *, struct Delegate *); void *copy_from, *copy_to, *forget;
  int64_t flags; void *builder;
} Delegate;
static int prepare(void *context, Delegate *self) { return 0; }
static Delegate idle = { NULL, prepare, NULL, NULL, NULL, 0, NULL };
Delegate *tflite_plugin_create_delegate(const char *const *k, const char *const *v, size_t n, void *say) {
  return &idle;
}
void tflite_plugin_destroy_delegate(Delegate *delegate) {}
"""


def test_a_delegate_that_takes_nothing_is_an_error(agent: AgentClient, tmp_path: Path) -> None:
    source, library = tmp_path / "idle.c", tmp_path / "libidle.so"
    source.write_text(IDLE)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    with pytest.raises(RuntimeRefused, match=r"libidle\.so takes none of its operators"):
        run(agent, target("tflite", delegate=str(library)))


# --------------------------------------------------------------------------- releases


def test_a_release_is_chosen_by_package_and_version(agent: AgentClient) -> None:
    version = importlib.metadata.version("tflite-runtime")
    for package in (f"tflite-runtime=={version}", f"=={version}"):
        assert run(agent, target("tflite", package=package)).version == version
    for package in ("tflite-runtime==1.0", "==1.0"):
        with pytest.raises(RuntimeMissing, match=rf"version 1\.0 on the board; it has .*{version}"):
            run(agent, target("tflite", package=package))


def test_releases_lie_side_by_side_and_the_newest_is_taken(tmp_path: Path) -> None:
    for version in ("1.9.0", "1.32.0", "1.24.4"):
        folder = tmp_path / "runtimes" / f"tflite-runtime-{version}"
        info = folder / f"tflite_runtime-{version}.dist-info"
        (folder / "tflite_runtime").mkdir(parents=True)
        info.mkdir()
        (folder / "tflite_runtime" / "__init__.py").touch()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tflite-runtime\nVersion: {version}\n")

    def versions(wanted: str) -> list[str]:
        return [version_of(p) for p in chosen("tflite", str(tmp_path), wanted) if p.folder is not None]

    assert versions("tflite-runtime") == ["1.32.0", "1.24.4", "1.9.0"]
    assert versions("tflite-runtime==1.24.4") == versions("==1.24.4") == ["1.24.4"]
    assert "1.24.4 (tflite-runtime)" in installed_runtimes(str(tmp_path))["tflite"]
    with pytest.raises(Failure, match=r"it has .*tflite-runtime 1\.9\.0"):
        versions("tflite-runtime==1.24")
