import hashlib
import os
import pickle
import random
import urllib.error
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from tascnet.errors import WeightsError
from tascnet.models.build import build, build_chain, write_backbone
from tascnet.models.library import find
from tascnet.models.weights import (
    fill,
    fitted,
    is_whole,
    published_state,
    read_metadata,
    read_state,
    write_weights,
)
from tascnet.options import ImageBackbone, TextBackbone
from tests.models.networks import original


@pytest.fixture
def resnet_file(tmp_path: Path) -> Path:
    path = tmp_path / "resnet20.pth"
    torch.save(original("resnet20", 6).state_dict(), path)
    return path


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    theirs = second.state_dict()
    return all(torch.equal(tensor, theirs[key]) for key, tensor in first.state_dict().items())


def test_random_weights_follow_the_seed_and_spare_the_global_generator() -> None:
    before = torch.get_rng_state()
    first, again, other = (build_chain("resnet20", seed=seed) for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert same_weights(first, again)
    assert not same_weights(first, other)


def test_a_file_leaves_the_global_generator_alone(resnet_file: Path) -> None:
    before = torch.get_rng_state()
    chain = build_chain("resnet20", weights=resnet_file)
    assert torch.equal(before, torch.get_rng_state())
    assert chain.classifier.out_features == 6
    assert not chain.training
    assert all(parameter.requires_grad for parameter in chain.parameters())


def test_info_names_the_file_and_its_digest(resnet_file: Path) -> None:
    network = build(ImageBackbone(name="resnet20", weights=str(resnet_file), size=32))
    digest = hashlib.sha256(resnet_file.read_bytes()).hexdigest()[:32]
    assert network.info.weights == f"resnet20.pth (sha256 {digest})"


def published(monkeypatch: pytest.MonkeyPatch, folder: Path) -> tuple[Path, str]:
    """A file in torch's cache, named by its digest as torchvision's are, and an address that is none."""
    monkeypatch.setenv("TORCH_HOME", str(folder))
    torch.save({"a": torch.ones(1000)}, folder / "state.pth")
    digest = hashlib.sha256((folder / "state.pth").read_bytes()).hexdigest()
    path = folder / "hub" / "checkpoints" / f"network-{digest[:8]}.pth"
    path.parent.mkdir(parents=True)
    (folder / "state.pth").rename(path)
    return path, f"https://localhost/{path.name}"


def test_a_damaged_download_is_downloaded_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, url = published(monkeypatch, tmp_path)
    whole = path.read_bytes()
    # One bit of a weight, which torch.load does not find.
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])

    def fetch(asked: str, target: str, digest: str, *, progress: bool) -> None:
        assert asked == url
        assert url.endswith(f"-{digest}.pth")
        Path(target).write_bytes(whole)

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    with caplog.at_level("INFO", "tascnet"):
        for _ in range(2):
            assert torch.equal(published_state(url, "toy")["a"], torch.ones(1000))
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} is damaged: download it again from {url}"
    ]


def test_a_damaged_download_that_cannot_be_replaced_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path, url = published(monkeypatch, tmp_path)
    path.write_bytes(path.read_bytes()[:1000])

    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(
        WeightsError, match=rf"{path.name} is damaged .*no route.*: delete it, or download http"
    ):
        published_state(url, "toy")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(WeightsError, match=r"it is a pipe .*: delete it"):
        published_state(url, "toy")


def test_pretrained_takes_the_file_of_torchvisions_enum(monkeypatch: pytest.MonkeyPatch) -> None:
    model = original("mobilenet_v2", 1000)

    def state_at(url: str, name: str) -> dict[str, Tensor]:
        assert url == torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.url
        return model.state_dict()

    monkeypatch.setattr("tascnet.models.build.published_state", state_at)
    network = build(ImageBackbone(name="mobilenet_v2"))
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(network(x), model(x))
    assert network.info.weights == "torchvision IMAGENET1K_V1"


def test_pretrained_without_network_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(WeightsError, match=r"mobilenet_v2-b0353104\.pth elsewhere"):
        build_chain("mobilenet_v2", weights="pretrained")


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_heads_for_training_alone_are_not_wanted_of_a_file(name: str) -> None:
    with torch.device("meta"):
        wanted = find(name).make(2).state_dict()
        state = torchvision.models.get_model(
            name, weights=None, num_classes=2, init_weights=False
        ).state_dict()
    assert not [key for key in wanted if "aux" in key.lower()]
    assert fitted({key: torch.zeros(tensor.shape) for key, tensor in state.items()}, wanted, name, "file")


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "file", "classes"),
    [
        ("mobilenet_v2", "mobilenet_v2_imagenet", 1000),
        ("resnet20", "resnet20_cifar10", 10),
        ("resnet56", "resnet56_cifar10", 10),
    ],
)
def test_published_files_load(name: str, file: str, classes: int, shared: Path) -> None:
    chain = build_chain(name, weights=shared / "weights" / f"{file}.safetensors")
    assert chain.classifier.out_features == classes
    assert {parameter.dtype for parameter in chain.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["resnet20", "digits_cnn"])
def test_unpublished_weights_need_a_path(name: str) -> None:
    with pytest.raises(WeightsError, match=r"no published weights.*path of a file"):
        build_chain(name, weights="pretrained")


def test_another_architecture_is_named(resnet_file: Path) -> None:
    with pytest.raises(WeightsError, match=r"not those of mobilenet_v2.*missing: features\.0\.0\.weight"):
        build_chain("mobilenet_v2", weights=resnet_file)


def test_missing_and_unexpected_keys_are_named(tmp_path: Path, resnet_file: Path) -> None:
    state = torch.load(resnet_file, weights_only=True)
    del state["layer2.1.conv2.weight"]
    state["extra"] = torch.zeros(1)
    torch.save(state, tmp_path / "wrong.pth")
    with pytest.raises(WeightsError) as caught:
        build_chain("resnet20", weights=tmp_path / "wrong.pth")
    assert str(caught.value) == (
        f"the weights {tmp_path / 'wrong.pth'} are not those of resnet20 "
        "(missing: layer2.1.conv2.weight; unexpected: extra): check that network and weights belong together"
    )


def test_misshapen_keys_are_named(tmp_path: Path, resnet_file: Path) -> None:
    state = torch.load(resnet_file, weights_only=True)
    state["conv1.weight"] = torch.zeros(16, 1, 3, 3)
    torch.save(state, tmp_path / "wrong.pth")
    with pytest.raises(
        WeightsError, match=r"\(of another shape: conv1\.weight \(16, 1, 3, 3\) for \(16, 3, 3, 3\)\)"
    ):
        build_chain("resnet20", weights=tmp_path / "wrong.pth")


def test_a_deeper_network_of_the_same_family_is_refused(tmp_path: Path) -> None:
    save_file(original("resnet56", 4).state_dict(), tmp_path / "deep.safetensors")
    with pytest.raises(WeightsError, match=r"unexpected: .* more"):
        build_chain("resnet20", weights=tmp_path / "deep.safetensors")


def test_unreadable_files_are_one_sentence(tmp_path: Path, resnet_file: Path) -> None:
    whole = resnet_file.read_bytes()
    (tmp_path / "torn.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.safetensors").write_text("not a tensor in sight")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps({"a": 1}))
    torch.save({"epoch": 3}, tmp_path / "numbers.pth")
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    (tmp_path / "pointer.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    for name, words in {
        "torn.pth": "it is truncated",
        "empty.pth": "it is empty",
        "text.safetensors": "it is no file of safetensors or torch.save",
        "pickle.pth": "it is damaged, or no file of torch.save",
        "numbers.pth": "it holds no tensors with names",
        "list.pth": "it holds no tensors with names",
        "pointer.pth": "it only points to a file of Git LFS",
    }.items():
        refuse(tmp_path / name, rf"cannot be read \({words}.*\): give a file of names and tensors")
    with pytest.raises(WeightsError, match="no file"):
        read_state(tmp_path / "absent.pth")


def saved(folder: Path, **tensors: Tensor) -> Path:
    torch.save(tensors, folder / "state.pth")
    return folder / "state.pth"


def quantised() -> Tensor:
    with warnings.catch_warnings(action="ignore"):
        return torch.quantize_per_tensor(torch.ones(3), 1.0, 0, torch.qint8)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torch.empty(3, device="meta"), r"a is without values \(on the meta device\)"),
        (lambda: torch.eye(3).to_sparse(), "a is sparse"),
        (quantised, "a is quantised"),
        (lambda: torch.ones(3, dtype=torch.complex64), "a is complex"),
        (lambda: torch.zeros(1).expand(10**6, 10**6), "its tensors are larger than the file"),
        (lambda: torch.tensor([1.0, float("nan")]), "numbers that are not finite, in a:"),
        (lambda: torch.tensor([1e300], dtype=torch.float64), "numbers that are not finite, in a:"),
    ],
)
def test_tensors_that_are_no_weights_are_named(make: Any, words: str, tmp_path: Path) -> None:
    path = saved(tmp_path, a=make())
    with pytest.raises(WeightsError, match=words) as caught:
        fitted(read_state(path), {"a": torch.zeros(3)}, "toy", path)
    assert str(path) in str(caught.value)


def test_integers_are_no_weights_and_float_counters_are_counted(tmp_path: Path, resnet_file: Path) -> None:
    state = torch.load(resnet_file, weights_only=True)
    counters = {key: torch.tensor(7.0).half() for key in state if "num_batches" in key}
    chain = build_chain("resnet20", weights=saved(tmp_path, **{**state, **counters}))
    counted = [tensor for key, tensor in chain.state_dict().items() if "num_batches" in key]
    assert len(counted) == len(counters) > 0
    assert all(tensor.dtype == torch.int64 and tensor == 7 for tensor in counted)
    path = saved(tmp_path, **{**state, "conv1.weight": state["conv1.weight"].to(torch.int8)})
    with pytest.raises(WeightsError, match=r"of another type: conv1\.weight torch\.int8 for torch\.float32"):
        build_chain("resnet20", weights=path)


def test_names_from_a_file_do_not_reach_the_terminal_raw(tmp_path: Path) -> None:
    name = "\x1b[31m"
    path = saved(tmp_path, **{name: torch.full((1,), float("inf"))})
    with pytest.raises(WeightsError, match=r"in \\x1b\[31m"):
        fitted(read_state(path), {name: torch.zeros(1)}, "toy", path)
    with pytest.raises(WeightsError, match=r"unexpected: \\x1b\[31m"):
        fill(nn.Sequential(nn.Linear(1, 1)), {}, {name: torch.ones(1)}, "toy", path)


class Bomb:
    """Pickled as a call that takes a gigabyte."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return bytearray, (10**9,)


def test_what_unpacks_to_more_than_its_size_is_refused_unread(
    tmp_path: Path, resnet_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.pth"
    monkeypatch.setattr(torch, "load", None)
    with zipfile.ZipFile(resnet_file) as whole, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for part in whole.infolist():
            packed.writestr(part.filename, bytes(10**6) if "data/" in part.filename else whole.read(part))
    refuse(path, "bytes unpack to .*, and torch.save does not compress")
    for is_zip in (True, False):
        torch.save({"a": Bomb()}, path, _use_new_zipfile_serialization=is_zip)
        refuse(path, "it holds a bytearray")
    monkeypatch.setattr("tascnet.models.tensors._LARGEST_HEADER", 1000)
    with zipfile.ZipFile(path, "w") as many:
        many.writestr("a" * 1000, "")
    refuse(path, "the list of its parts has more than 1000 bytes")
    with zipfile.ZipFile(path, "w") as large:
        large.writestr("state/data.pkl", bytes(1001))
    refuse(path, "1001 bytes beside its tensors")


def test_headers_beyond_reason_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.safetensors"
    monkeypatch.setattr("tascnet.models.weights.safe_open", None)
    path.write_bytes((1 << 25).to_bytes(8, "little") + b"{" * (1 << 25))
    refuse(path, "its header has 33554432 bytes, expected at most 16777216")
    header = b"{" * 100_001
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    refuse(path, "more than 100000 names")
    for start in ((10**9).to_bytes(8, "little"), b"\xff" * 8, b"\0" * 8):
        path.write_bytes(start + b"{}")
        refuse(path, "truncated, or no safetensors file")


def test_metadata_nested_beyond_reason_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    for entry in ("[" * 100_000, "5", "null", "[5]", "\x1b"):
        save_file({"a": torch.ones(1)}, path, {"tascnet": entry})
        refuse(path, "cannot be read")
        with pytest.raises(WeightsError, match="cannot be read"):
            read_metadata(path)


def test_only_regular_files_that_may_be_read_are_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("state.pth", "state.safetensors"):
        path = tmp_path / name
        refuse(path, "is no file: give `pretrained`")
        path.mkdir()
        refuse(path, r"it is a folder")
        path.rmdir()
        os.mkfifo(path)
        refuse(path, "it is a pipe or a device")
        with pytest.raises(WeightsError, match="it is a pipe"):
            build(TextBackbone(weights=str(path)))
        path.unlink()
        path.touch()
        with monkeypatch.context() as patch:
            patch.setattr(os, "access", lambda *_: False)
            refuse(path, "permission denied")


def test_a_changed_bit_of_our_own_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    write_weights(path, nn.Linear(3, 2), metadata={"note": "ours"})
    whole = path.read_bytes()
    for position in (whole.index(b"ours"), len(whole) - 20):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        refuse(path, "changed or damaged after they were written: take another copy")
        assert not is_whole(path)
    path.write_bytes(whole)
    assert is_whole(path)


def test_any_change_of_a_file_is_one_sentence(tmp_path: Path, resnet_file: Path) -> None:
    """Other bytes, cuts and repetitions give finite tensors, perhaps others than before, or our error."""
    generator = random.Random(0)
    small = {"a": torch.arange(6.0), "b.num_batches_tracked": torch.tensor(3), "c": torch.ones(2, 2).half()}
    torch.save(small, tmp_path / "zip.pth")
    torch.save(small, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(small, tmp_path / "other.safetensors")
    for path in sorted(tmp_path.glob("[zo][ilt]*")):
        whole = path.read_bytes()
        for _ in range(100):
            path.write_bytes(mutated(whole, generator))
            with suppress(WeightsError):
                found = fitted(read_state(path), small, "toy", path)
                assert found.keys() == small.keys()
                assert all(torch.isfinite(tensor).all() for tensor in found.values())


def mutated(whole: bytes, generator: random.Random) -> bytes:
    start, end = sorted(generator.sample(range(len(whole) + 1), 2))
    other = [bytes([generator.randrange(256)]), b"", whole[start:end] * 2, generator.randbytes(end - start)]
    return whole[:start] + generator.choice(other) + whole[generator.choice([end, start + 1]) :]


def refuse(path: Path, words: str) -> None:
    with pytest.raises(WeightsError, match=words) as caught:
        read_state(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_own_weights_are_written_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "digits.safetensors"
    chain = build_chain("digits_cnn", channels=1, num_classes=5)
    write_weights(path, chain.to(memory_format=torch.channels_last))
    again = build_chain("digits_cnn", weights=path, channels=1)
    assert again.classifier.out_features == 5
    assert same_weights(chain, again)


def test_a_path_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    chain = build_chain("digits_cnn")
    write_weights(tmp_path / "own.safetensors", chain)
    again = build_chain("digits_cnn", weights="~/own.safetensors")
    assert torch.equal(again.state_dict()["classifier.weight"], chain.state_dict()["classifier.weight"])


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "resnet20", "digits_cnn"])
def test_written_weights_have_the_original_layout_and_are_read_back(tmp_path: Path, name: str) -> None:
    network = build(ImageBackbone(name=name, weights="random", size=32), num_classes=3, seed=1)
    path = tmp_path / "weights.safetensors"
    write_backbone(path, network, {"note": "ours"})
    assert read_metadata(path) == {"note": "ours"}
    if name not in ("resnet20", "digits_cnn"):
        assert set(read_state(path)) == set(original(name, 3).state_dict())
    again = build_chain(name, weights=path)
    assert again.classifier.out_features == 3
    assert same_weights(again, network)


def test_equal_networks_give_equal_files(tmp_path: Path) -> None:
    chain = build_chain("digits_cnn")
    for name in ("a", "b"):
        write_weights(
            tmp_path / f"{name}.safetensors", chain, None, {"one": [1, 2], "two": "x", "three": None}
        )
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
