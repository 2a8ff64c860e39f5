import pytest

from tascnet.errors import ConfigError
from tascnet.exporting import installed
from tascnet.options import FORMATS, RUNTIMES


@pytest.fixture
def there(monkeypatch):
    """Makes only the given packages and programs findable."""

    def only(*names):
        monkeypatch.setattr(installed, "find_spec", lambda name: name if name in names else None)
        monkeypatch.setattr(installed.shutil, "which", lambda name: name if name in names else None)

    return only


@pytest.mark.deployed
def test_what_is_there_follows_from_packages(there):
    there()
    assert installed.installed() == {"eager", "pt2"}
    there("onnx", "onnxscript", "g++")
    assert installed.installed() == {"eager", "pt2", "compile"}
    there("onnx", "onnxscript", "onnxruntime", "openvino", "executorch", "c++")
    assert installed.installed() == {*FORMATS, *RUNTIMES}


@pytest.mark.deployed
def test_what_is_missing_is_named_with_the_command(there):
    there()
    for name, expected in {
        "onnx_int8": "`formats` has onnx_int8, which needs onnx, onnxscript and onnxruntime: "
        "pip install 'tascnet[export]'",
        "onnxruntime": "`runtimes` has onnxruntime, which needs onnx, onnxscript and onnxruntime: "
        "pip install 'tascnet[export]'",
        "openvino": "`formats` has openvino, which needs openvino: pip install openvino",
        "compile": "`runtimes` has compile, which needs a C++ compiler: install g++ or clang++",
    }.items():
        with pytest.raises(ConfigError) as caught:
            installed.need(name)
        assert str(caught.value) == expected
    with pytest.raises(ConfigError, match="`target` has openvino"):
        installed.need("openvino", "target")
    installed.need("pt2")


def test_other_tests_neither_export_nor_time_onnx():
    assert installed.installed() == {"eager", "pt2", "compile"}
    with pytest.raises(ConfigError, match="onnxruntime"):
        installed.need("onnxruntime_int8")
