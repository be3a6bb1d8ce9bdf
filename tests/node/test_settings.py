"""The configuration: every mistake is named with its key and what to do."""

import re
from pathlib import Path

import pytest

from node.settings import SettingsError, load_settings

GOOD = """
[node]
ae_title = "OVERREAD"
state_dir = "/tmp/overread"
[[peers]]
name = "pacs"
ae_title = "PACS"
host = "10.0.0.1"
port = 104
[[routes]]
name = "head"
when = 'Modality == "CT"'
model = "builtin/head_ct"
results_to = ["pacs"]
"""


@pytest.fixture
def load(tmp_path):
    def write_and_load(text):
        path = tmp_path / "overread.toml"
        path.write_text(text)
        return load_settings(path)

    return write_and_load


def test_the_annotated_example_is_valid():
    settings = load_settings(Path(__file__).parents[2] / "config" / "overread.toml")
    assert settings.node.ae_title == "OVERREAD"
    assert settings.routes[0].results_to == ("pacs",)


def test_the_annotated_example_is_valid_with_its_comments_taken_for_settings(tmp_path):
    lines = (Path(__file__).parents[2] / "config" / "overread.toml").read_text().splitlines()
    settings = (line.removeprefix("# ") for line in lines)
    is_setting = re.compile(r"(\[|[a-z0-9_]+ = )").match
    text = "\n".join(line for line in settings if is_setting(line))
    path = tmp_path / "overread.toml"
    path.write_text(text.replace('"..."', f'"{"0" * 64}"'))
    loaded = load_settings(path)
    assert loaded.tls is not None
    assert loaded.dicomweb is not None
    assert (loaded.web.port, loaded.tls.port, loaded.dicomweb.port) == (8080, 2762, 8042)


def test_the_environment_overrides_the_file(load, monkeypatch):
    monkeypatch.setenv("OVERREAD_NODE__DATABASE_URL", "postgresql://overread@db/overread")
    settings = load(GOOD)
    assert settings.database_url == "postgresql+psycopg://overread@db/overread"
    assert settings.node.ae_title == "OVERREAD"


@pytest.mark.parametrize(
    ("change", "mistake"),
    [
        (
            ("port = 104", "port = 104000"),
            "peers.0.port: Input should be less than or",
        ),
        (("port = 104", "prt = 104"), "peers.0.prt: unknown key; did you mean 'port'?"),
        (("port = 104", ""), "peers.0.port: is missing"),
        (('"PACS"', '"A TITLE THAT IS TOO LONG"'), "an AE title has 1 to 16"),
        (('"PACS"', r'"PA\\CS"'), "an AE title has 1 to 16"),
        (("port = 104", 'port = 104\nobjects = ["sr"]'), "peers.0.objects.0: Input should be 'seg"),
        (
            ("port = 104", "port = 104\nobjects = []"),
            "peers.0.objects: Tuple should have at least 1",
        ),
        (
            ("port = 104", 'port = 104\nobjects = ["pdf", "pdf"]'),
            "peers.0.objects: 'pdf' is there twice; name each once",
        ),
        (("port = 104", 'port = 104\nlanguages = ["de"]'), "languages.0: Input should be 'en' or"),
        (("port = 104", 'port = 104\ncharset = "big5"'), "should be 'utf-8' or 'gb18030'"),
        (
            ('["pacs"]', '["pax"]'),
            "routes.head.results_to: no peer is named 'pax'; peers are",
        ),
        (('Modality == "CT"', 'Modalty == "CT"'), "routes.0.when: 'Modalty' is not an attribute"),
        (('Modality == "CT"', "Modality == "), "routes.0.when: Failed to parse"),
        (('Modality == "CT"', "SliceThickness"), "a rule answers true or false"),
        (('"/tmp/overread"', '"/tmp/overread"\nquiet_seconds = -1'), "node.quiet_seconds"),
        (('"/tmp/overread"', '"/tmp/o"\ndatabase_url = "mysql://x"'), "use sqlite:///PATH or"),
        (("[[peers]]", '[web]\nhost = "0.0.0.0"\n[[peers]]'), "no login yet: use 127.0.0.1"),
        (
            ("[[peers]]", '[inference]\nprovider = "gpu"\n[[peers]]'),
            "should be 'cpu', 'cuda'",
        ),
        (
            ("[[peers]]", "[inference]\nmemory_gb = 0.5\n[[peers]]"),
            "use 0 for no limit",
        ),
        (("[[peers]]", "[inference]\nthread = 1\n[[peers]]"), "did you mean 'threads'?"),
        (("[[peers]]", "[[pears]]"), "pears: unknown key; did you mean 'peers'?"),
        (("[[peers]]", "[web]\nport = 11112\n[[peers]]"), "web.port: 11112 is node.port already"),
        (("[node]", "[nodes]"), "nodes: unknown key; did you mean 'node'?"),
        (("[node]", "[node"), "is not valid TOML"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(load, change, mistake):
    with pytest.raises(SettingsError) as refused:
        load(GOOD.replace(*change))
    assert mistake in str(refused.value)
    assert "overread.toml" in str(refused.value)


def test_a_destination_gets_by_default_what_any_viewer_shows(load):
    peer = load(GOOD).peer("pacs")
    assert peer.objects == ("segmentation", "secondary_capture", "report", "text_report")
    assert (peer.languages, peer.charset) == (("en", "zh"), "utf-8")


def test_all_mistakes_are_named_at_once(load):
    bad = GOOD.replace("port = 104", "port = 0").replace('"OVERREAD"', '""')
    bad = bad.replace("model", "modle")
    with pytest.raises(SettingsError) as refused:
        load(bad)
    assert len(refused.value.mistakes) == 4  # modle is unknown, and model is missing


def test_a_missing_file_says_where_to_start(tmp_path):
    with pytest.raises(SettingsError, match=r"start from config/overread\.toml"):
        load_settings(tmp_path / "nothing.toml")
