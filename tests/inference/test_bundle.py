import hashlib
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.bundle import BUILTIN, PACKAGED, BundleError, find_bundle, load_bundle
from inference.model import load_model
from inference.providers import SessionSettings
from tests.inference.traces import traces_in


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(find_bundle(BUILTIN), tmp_path / "bundle"))


def rewrite(folder: Path, **changes: object) -> None:
    """Change the manifest, and drop the calibration, which is of the bundle as it was."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for finding in manifest["findings"]:
        finding.pop("calibration", None)
    path.write_text(json.dumps(manifest | changes))


def files_of(folder: Path) -> dict[str, str]:
    return dict(json.loads((folder / "manifest.json").read_text())["files"])


def test_packaged_bundle_is_intact_small_and_named() -> None:
    folder = find_bundle(BUILTIN)
    bundle = load_bundle(folder)
    assert bundle.identity.demonstration
    assert "clinical" in bundle.identity.intended_use.en
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 20e6
    assert bundle.manifest.origin.parity_error < 1e-3


def test_no_graph_that_is_shipped_says_on_which_machine_it_was_made() -> None:
    graphs = [*PACKAGED.rglob("*.onnx")]
    assert len(graphs) >= 3
    assert not {path.name: found for path in graphs if (found := traces_in(path))}


def test_digest_is_stable_and_covers_the_manifest(copy: Path) -> None:
    digest = load_bundle(copy).digest
    assert digest == load_bundle(find_bundle(BUILTIN)).digest
    rewrite(copy, version="9.9.9")
    assert load_bundle(copy).digest != digest


@pytest.mark.parametrize("name", ["vision.onnx", "tokenizer.json"])
def test_changed_file_is_refused_by_name(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(BundleError, match=rf"{name}.*SHA-256"):
        load_bundle(copy)


def test_missing_file_is_refused(copy: Path) -> None:
    (copy / "embed.onnx").unlink()
    with pytest.raises(BundleError, match=r"embed\.onnx.*missing"):
        load_bundle(copy)


def test_link_is_refused(copy: Path) -> None:
    (copy / "embed.onnx").rename(copy / "elsewhere")
    (copy / "embed.onnx").symlink_to(copy / "elsewhere")
    with pytest.raises(BundleError, match="plain file"):
        load_bundle(copy)


@pytest.mark.parametrize("name", ["vision.onnx", "decoder.fp32.onnx"])
def test_truncated_graph_with_a_matching_checksum_is_refused(copy: Path, name: str) -> None:
    half = (copy / name).read_bytes()[: (copy / name).stat().st_size // 2]
    (copy / name).write_bytes(half)
    rewrite(copy, files=files_of(copy) | {name: hashlib.sha256(half).hexdigest()})
    with pytest.raises(BundleError, match=name):
        load_model(copy, SessionSettings(threads=1))


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/hostname", "sub/file", "..", "a\\b", "manifest.json", ""]
)
def test_file_names_that_leave_the_bundle_are_refused(copy: Path, name: str) -> None:
    rewrite(copy, files=files_of(copy) | {name: "0" * 64})
    with pytest.raises(BundleError, match="leads out"):
        load_bundle(copy)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": 1}', "\x00"])
def test_malformed_manifest_is_refused(copy: Path, content: str) -> None:
    (copy / "manifest.json").write_text(content)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        load_bundle(copy)


def test_unknown_key_is_refused(copy: Path) -> None:
    rewrite(copy, surprise=1)
    with pytest.raises(BundleError, match="surprise"):
        load_bundle(copy)


def test_manifest_without_a_required_file_is_refused(copy: Path) -> None:
    files = files_of(copy)
    del files["vision.onnx"]
    rewrite(copy, files=files)
    with pytest.raises(BundleError, match=r"lists no vision\.onnx"):
        load_bundle(copy)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(garbage=st.binary(max_size=200))
def test_any_bytes_as_manifest_give_a_bundle_error(tmp_path: Path, garbage: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(garbage)
    with pytest.raises(BundleError):
        load_bundle(tmp_path)


def test_find_bundle_looks_in_search_paths_and_says_where(copy: Path) -> None:
    assert find_bundle("bundle", [copy.parent]) == copy
    with pytest.raises(BundleError, match="looked in"):
        find_bundle("nothing", [copy.parent])
    with pytest.raises(BundleError, match="not a bundle's name"):
        find_bundle("../bundle", [copy.parent])


@pytest.mark.parametrize("field", ["prompts", "preprocessing", "splice", "files"])
def test_a_calibration_of_another_bundle_is_refused(copy: Path, field: str) -> None:
    """Whoever changes what makes the log-odds must calibrate again."""
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text())
    assert manifest["findings"][0]["calibration"]["cases"] >= 100
    match field:
        case "prompts":
            manifest["prompts"]["template"] = "{image}<start>Look. {question}<answer>"
        case "preprocessing":
            manifest["preprocessing"]["centre_below_vertex_mm"] = 80.0
        case "splice":
            manifest["splice"]["tokens"] = 81
        case "files":
            (copy / "tokenizer.json").write_bytes((copy / "tokenizer.json").read_bytes() + b" ")
            digest = hashlib.sha256((copy / "tokenizer.json").read_bytes()).hexdigest()
            manifest["files"]["tokenizer.json"] = digest
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="calibration of intracranial_haemorrhage"):
        load_bundle(copy)


def test_a_tokenizer_of_another_model_is_refused(copy: Path) -> None:
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append(tokenizer["added_tokens"][0] | {"id": 480, "content": "<x>"})
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    digest = hashlib.sha256((copy / "tokenizer.json").read_bytes()).hexdigest()
    rewrite(copy, files=files_of(copy) | {"tokenizer.json": digest})
    with pytest.raises(BundleError, match="belongs to another model"):
        load_model(copy, SessionSettings(threads=1))


def test_a_family_that_is_not_known_is_refused(copy: Path) -> None:
    rewrite(copy, family="radfm")
    with pytest.raises(BundleError, match="'radfm' is not known here"):
        load_model(copy, SessionSettings(threads=1))


def test_preprocessing_of_another_family_is_refused(copy: Path) -> None:
    rewrite(copy, family="m3d_lamed")
    with pytest.raises(BundleError, match="'head_grid' is not what the family"):
        load_model(copy, SessionSettings(threads=1))


def test_a_cache_that_is_too_short_is_found_at_load(copy: Path) -> None:
    decoder = json.loads((copy / "manifest.json").read_text())["decoder"]
    rewrite(copy, decoder=decoder | {"max_length": 90})
    with pytest.raises(BundleError, match=r"take \d+ positions, the decoder's cache holds 90"):
        load_model(copy, SessionSettings(threads=1))


def test_image_tokens_that_no_family_reads_are_refused(copy: Path) -> None:
    splice = json.loads((copy / "manifest.json").read_text())["splice"]
    rewrite(copy, splice=splice | {"kind": "cross_attention"})
    with pytest.raises(BundleError, match="cross attention are read by no family"):
        load_model(copy, SessionSettings(threads=1))


def test_a_tokenizer_that_cannot_write_json_is_refused_by_name(copy: Path) -> None:
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["\u0000"] = tokenizer["model"]["vocab"].pop("{")
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    digest = hashlib.sha256((copy / "tokenizer.json").read_bytes()).hexdigest()
    prompts = json.loads((copy / "manifest.json").read_text())["prompts"]
    files = files_of(copy) | {"tokenizer.json": digest}
    rewrite(copy, files=files, prompts=prompts | {"structured": "Report as JSON."})
    with pytest.raises(BundleError, match=r"tokenizer\.json.*cannot write JSON"):
        load_model(copy, SessionSettings(threads=1))
