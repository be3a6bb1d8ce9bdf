"""`overread models`, as an AI engineer types it: a published checkpoint becomes a bundle."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from inference.bundle import BUILTIN, find_bundle
from inference.phantom import HeadPhantom
from inference.simulation import scan_grid
from node.cli import app
from tests.node.configuration import write_config
from tests.slices import write_slices

CARD = Path(__file__).parents[2] / "config" / "models" / "ct_chest.toml"
SHAPE = (12, 96, 96)


def run(*arguments):
    return CliRunner().invoke(app, ["models", *(str(argument) for argument in arguments)])


def says(done, text: str) -> bool:
    """Whether the output holds the text, wherever the console broke its lines."""
    return "".join(text.split()) in "".join(done.output.split())


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    phantom = HeadPhantom(5, haemorrhage=False)
    affine = scan_grid(phantom, SHAPE, (14.0, 2.4, 2.4))
    folder = tmp_path_factory.mktemp("series")
    write_slices(folder, phantom.render(affine, SHAPE)[0].round().astype("int16"), affine)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    pytest.importorskip("torch", reason="the extra 'export' is not installed")
    from tests.inference.export.llava_checkpoints import llava_checkpoint  # noqa: PLC0415

    return llava_checkpoint(tmp_path_factory.mktemp("published") / "checkpoint", "llava_mistral")


@pytest.fixture(scope="module")
def added(tmp_path_factory, checkpoint):
    """A configuration, and a node that has the bundle `chest`."""
    config = write_config(tmp_path_factory.mktemp("node"))
    done = run(
        "add", "chest", "--from", checkpoint, "--card", CARD, "--config", config,
        "--precision", "fp32",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    return config


def test_a_bundle_that_was_added_is_listed_shown_and_checked(added):
    (row,) = [
        row
        for row in json.loads(run("list", "--json", "--config", added).output)
        if row["name"] == "chest"
    ]
    assert row["family"] == "llava"
    assert row["findings"] == 4
    assert row["state"] == "demonstration, not calibrated"
    shown = json.loads(run("show", "chest", "--config", added).output)
    assert shown["origin"]["parity_error"] < 1e-3
    assert len(shown["digest"]) == 64
    assert shown["preprocessing"]["window"] == [-160.0, 240.0]
    checked = run("check", "chest", "--config", added)
    assert checked.exit_code == 0
    assert says(checked, "intact and runs on CPUExecutionProvider")


def test_check_shows_how_each_label_is_coded_and_on_whose_word(tmp_path):
    folder = Path(shutil.copytree(find_bundle(BUILTIN), tmp_path / "state" / "models" / "mine"))
    manifest = json.loads((folder / "manifest.json").read_text())
    (finding,) = manifest["findings"]
    del finding["calibration"]
    finding["site"] = {"value": "80146002", "scheme": "SCT", "meaning": "Excision of appendix"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    shown = run("check", "mine", "--config", write_config(tmp_path))
    assert shown.exit_code == 0, shown.output
    for text in ("1386000", "Intracranial hemorrhage", "50960005", "80146002"):
        assert says(shown, text)
    assert shown.output.count("card: check it") == 1
    finding["code"] = "widget_sign"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    refused = run("check", "mine", "--config", write_config(tmp_path))
    assert refused.exit_code == 1
    assert says(refused, "label 'intracranial_haemorrhage', code: 'widget_sign' is not among")


def test_it_answers_its_findings_and_free_questions(added, series):
    done = run("ask", "chest", series, "--config", added)
    assert done.exit_code == 0, done.output
    for label in ("Pleural effusion", "Pneumothorax", "Pericardial effusion", "Cardiomegaly"):
        assert says(done, f"{label}: ")
    assert says(done, "not been calibrated")
    assert says(done, "Not for clinical use")
    free = run("ask", "chest", series, "--config", added, "--question", "Is this a head?")
    assert free.exit_code == 0, free.output
    assert says(free, "Is this a head?")
    assert says(free, "(not calibrated)")


def test_a_prior_and_an_indication_are_taken(added, series):
    done = run("ask", "chest", series, "--prior", series, "--context", "Cough.", "--config", added)
    assert done.exit_code == 0, done.output


def test_a_bundle_that_was_changed_is_named_in_the_list_and_not_used(added, tmp_path, series):
    config = write_config(tmp_path)
    folder = shutil.copytree(Path(added).parent / "state/models/chest", tmp_path / "state/models/x")
    (folder / "embed.onnx").write_bytes(b"other")
    assert (
        "embed.onnx: SHA-256"
        in json.loads(run("list", "--json", "--config", config).output)[-1]["state"]
    )
    for command in (("check", "x"), ("ask", "x", series), ("show", "x")):
        done = run(*command, "--config", config)
        assert done.exit_code == 1
        assert says(done, "embed.onnx: SHA-256")


def test_a_bundle_is_removed_unless_a_route_names_it(added, tmp_path):
    config = write_config(tmp_path)
    shutil.copytree(Path(added).parent / "state/models/chest", tmp_path / "state/models/chest")
    config.write_text(config.read_text().replace("builtin/head_ct", "chest"))
    refused = run("remove", "chest", "--config", config)
    assert refused.exit_code == 1
    assert says(refused, "route head")
    config.write_text(config.read_text().replace('"chest"', '"builtin/head_ct"'))
    assert run("remove", "chest", "--config", config).exit_code == 0
    assert not (tmp_path / "state/models/chest").exists()
    assert says(run("remove", "chest", "--config", config), "is no bundle")
    assert says(run("remove", "../state", "--config", config), "no name for a bundle")


def test_a_checkpoint_that_cannot_be_converted_leaves_nothing(checkpoint, tmp_path, capfd):
    copy, config = shutil.copytree(checkpoint, tmp_path / "copy"), write_config(tmp_path)
    (copy / "config.json").write_text('{"model_type": "hulu_med"}')
    done = run("add", "new", "--from", copy, "--card", CARD, "--config", config)
    assert done.exit_code == 1
    assert says(done, "new was not added")
    assert "hulu_med is of no known family" in capfd.readouterr().err
    assert not (tmp_path / "state/models").exists()


def test_a_card_with_mistakes_is_named_with_all_of_them(tmp_path):
    pytest.importorskip("torch", reason="the extra 'export' is not installed")
    from inference.export.card import load_card  # noqa: PLC0415
    from inference.export.graphs import ExportError  # noqa: PLC0415

    card = tmp_path / "card.toml"
    card.write_text(CARD.read_text().replace("licence", "license").replace("[-160.0", "['a'"))
    with pytest.raises(ExportError, match="licence: Field required") as caught:
        load_card(card)
    assert "license: Extra inputs" in str(caught.value)
    card.write_text(CARD.read_text().replace('"pneumothorax"', '"pleural_effusion"'))
    with pytest.raises(ExportError, match="two findings have the same name"):
        load_card(card)
    assert "docs/models.md" in str(caught.value)
