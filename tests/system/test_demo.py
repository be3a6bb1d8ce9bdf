"""The README's first command, as a newcomer runs it, but for the installation."""

import subprocess
import sys

import pytest
from pydicom import dcmread


@pytest.mark.timeout(240)
def test_the_demo_shows_the_main_job_from_scan_to_report(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "node", "demo", "--out", str(tmp_path / "demo")],
        capture_output=True,
        text=True,
        check=False,
        env=None,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for milestone in (
        "received",
        "complete",
        "assembled",
        "assessed",
        "written",
        "checked",
        "delivered",
    ):
        assert milestone in done.stdout
    assert "not for clinical use" in done.stdout
    assert "不得用于临床" in done.stdout
    report = dcmread(tmp_path / "demo" / "pacs" / "SR.dcm")
    segmentation = dcmread(tmp_path / "demo" / "pacs" / "SEG.dcm")
    assert report.StudyInstanceUID == segmentation.StudyInstanceUID
    assert len(list((tmp_path / "demo").glob("slice_*.png"))) >= 3


def test_the_demo_does_not_overwrite_what_is_not_its_own(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    done = subprocess.run(
        [sys.executable, "-m", "node", "demo", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "choose another folder" in done.stderr
    assert (tmp_path / "thesis.txt").exists()
