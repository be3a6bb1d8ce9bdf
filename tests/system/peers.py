"""Real peers on loopback: Orthanc as the PACS, DCMTK's tools, PostgreSQL, and the node itself."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pynetdicom import AE, build_context
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as StudyRootFind

from node.catalogue import Catalogue
from node.settings import Peer, load_settings
from node.store_scu import PeerError, echo
from node.tables import OVER
from tests.node.configuration import free_ports

REPOSITORY = Path(__file__).parents[2]
ORTHANC = Path("/usr/sbin/Orthanc")
DICOMWEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
# Debian's DCMTK leaves Nagle's algorithm on: without this every image costs 40 ms.
ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}

needs_orthanc = pytest.mark.skipif(
    not ORTHANC.exists(), reason="Orthanc is not installed (apt-get install orthanc)"
)
needs_dcmtk = pytest.mark.skipif(
    not Path("/usr/bin/storescu").exists(), reason="DCMTK is not installed (apt-get install dcmtk)"
)
INITDB = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
needs_postgresql = pytest.mark.skipif(
    not INITDB or os.geteuid() != 0,
    reason="PostgreSQL is not installed (apt-get install postgresql), or this is not root",
)

# Orthanc sends the CT and MR series of each stable study to the node, in a job of its own; what the
# node sent back is a SEG and an SR, so it is not routed again.
AUTO_ROUTE = """
function OnStableStudy(study, tags, metadata)
  local images = {}
  for _, series in ipairs(ParseJson(RestApiGet('/studies/' .. study))['Series']) do
    local modality = ParseJson(RestApiGet('/series/' .. series))['MainDicomTags']['Modality']
    if modality == 'CT' or modality == 'MR' then
      table.insert(images, series)
    end
  end
  if #images > 0 then
    local job = { Resources = images, Synchronous = false }
    RestApiPost('/modalities/overread/store', DumpJson(job, true))
  end
end
"""


class Orthanc:
    """One Orthanc with an empty storage, its REST API on loopback; DICOMweb where it has that."""

    def __init__(self, folder, *, node_port, dicom_port, ae_title="PACS"):
        self.http_port = free_ports(1)[0]
        self.dicom_port = dicom_port
        self.ae_title = ae_title
        folder.mkdir(parents=True)
        script = folder / "route.lua"
        script.write_text(AUTO_ROUTE)
        settings = {
            "Name": "PACS",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "HttpPort": self.http_port,
            "DicomPort": dicom_port,
            "DicomAet": ae_title,
            "DicomCheckCalledAet": True,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAlwaysAllowFind": True,
            "StableAge": 4,
            "LuaScripts": [str(script)],
            "DicomModalities": {"overread": ["OVERREAD", "127.0.0.1", node_port]},
            "Plugins": [str(DICOMWEB_PLUGIN)] if DICOMWEB_PLUGIN.exists() else [],
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        self._log = (folder / "orthanc.log").open("wb")
        self._process = subprocess.Popen(
            [str(ORTHANC), str(folder / "orthanc.json")],
            stdout=self._log,
            stderr=self._log,
            env=ENVIRONMENT,
        )
        await_true(self._answers, 30, "Orthanc to start")

    def _answers(self):
        try:
            return self.rest("/system")
        except OSError:
            return False

    def rest(self, path):
        return json.loads(self.content(path))

    def content(self, path):
        url = f"http://127.0.0.1:{self.http_port}{path}"
        with urllib.request.urlopen(url, timeout=30) as reply:
            return reply.read()

    def instances(self, study_uid, modality):
        """The study's instances of one modality, as Part 10 bytes."""
        found = []
        for study in self.rest("/studies?expand"):
            if study["MainDicomTags"]["StudyInstanceUID"] == study_uid:
                for series in study["Series"]:
                    one = self.rest(f"/series/{series}")
                    if one["MainDicomTags"]["Modality"] == modality:
                        found += [
                            self.content(f"/instances/{instance}/file")
                            for instance in one["Instances"]
                        ]
        return found

    def find_modalities(self, study_uid):
        """Modalities of the study's series, by C-FIND."""
        query = Dataset()
        query.QueryRetrieveLevel = "SERIES"
        query.StudyInstanceUID = study_uid
        query.SeriesInstanceUID = ""
        query.Modality = ""
        association = AE(ae_title="FINDER").associate(
            "127.0.0.1", self.dicom_port, [build_context(StudyRootFind)], ae_title=self.ae_title
        )
        answers = association.send_c_find(query, StudyRootFind)
        modalities = sorted(answer.Modality for _, answer in answers if answer)
        association.release()
        return modalities

    def store(self, folder):
        """Have a modality send files to it, with DCMTK's storescu."""
        subprocess.run(
            [
                "/usr/bin/storescu",
                "+sd",
                "+r",
                "-aet",
                "SCANNER",
                "-aec",
                self.ae_title,
                "127.0.0.1",
                str(self.dicom_port),
                str(folder),
            ],
            check=True,
            env=ENVIRONMENT,
        )

    def stop(self):
        self._process.terminate()
        self._process.wait(30)
        self._log.close()


class Storescp:
    """DCMTK's storescp as a PACS: a folder in which each instance is a file."""

    def __init__(self, folder, port, ae_title="PACS", options=()):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        command = ["/usr/bin/storescp", "-aet", ae_title, "--fork", *options]
        self._process = subprocess.Popen(
            [*command, "-od", str(folder), str(port)],
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        peer = Peer(name="pacs", ae_title=ae_title, host="127.0.0.1", port=port)
        await_true(lambda: _echoes(peer), 20, "storescp to start")

    def received(self, modality):
        """What lies there of one modality, and what every file is."""
        datasets = [dcmread(path) for path in self.folder.iterdir() if path.is_file()]
        return [dataset for dataset in datasets if dataset.Modality == modality]

    def stop(self):
        os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait(10)


class Node:
    """`overread serve` in processes of its own, which can be killed."""

    def __init__(self, config, *, command=None, cwd=REPOSITORY):
        self.settings = load_settings(config)
        self.config = config
        self._command = command or [sys.executable, "-m", "node"]
        self._cwd = cwd
        self._log = (config.parent / "node.log").open("ab")
        self._process = None

    @property
    def peer(self):
        return Peer(
            name="node", ae_title="OVERREAD", host="127.0.0.1", port=self.settings.node.port
        )

    @property
    def pid(self):
        return self._process.pid

    def start(self, *, wait=True):
        self._process = subprocess.Popen(
            [*self._command, "serve", "--config", str(self.config)],
            stderr=self._log,
            stdout=self._log,
            cwd=self._cwd,
        )
        if wait:
            await_true(self.answers, 60, "the node to start")
        return self

    def kill(self):
        """kill -9 of everything that the node is."""
        for pid in (*_children(self._process.pid), self._process.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.wait(10)
        await_true(lambda: not self.answers(), 20, "the node to be gone")

    def kill_supervisor(self):
        self._process.kill()
        self._process.wait(10)

    def answers(self):
        return _echoes(self.peer)

    def kill_role(self, role):
        for pid in _children(self._process.pid):
            if f"--role\0{role}" in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(pid, signal.SIGKILL)

    def stop(self):
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(40)
        self._log.close()

    def study(self, uid):
        catalogue = Catalogue(self.settings.database_url)
        try:
            return catalogue.study(uid)
        finally:
            catalogue.close()

    def await_runs(self, uid, *, runs=1, timeout=120):
        """Wait until the study has so many runs and all are over; returns them."""

        def over():
            study = self.study(uid)
            return (
                study is not None
                and len(study.runs) >= runs
                and all(run.state in OVER for run in study.runs)
                and study.runs
            )

        return await_true(over, timeout, f"{runs} runs to be over")

    def log(self):
        return (self.config.parent / "node.log").read_text()


@contextmanager
def running(*things):
    """Stop what was started, in reverse order."""
    try:
        yield things
    finally:
        for thing in reversed(things):
            thing.stop()


@contextmanager
def postgresql(folder):
    """A PostgreSQL cluster of its own; yields its URL. It does not run as root."""
    binaries = INITDB[-1].parent
    port = free_ports(1)[0]
    folder.mkdir(parents=True)
    shutil.chown(folder, "postgres")
    for parent in folder.parents:  # pytest's folders are for root alone
        if parent.stat().st_uid == 0 and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)

    def as_postgres(*command):
        subprocess.run(
            ["runuser", "-u", "postgres", "--", *command],
            check=True,
            cwd="/",
            stdout=subprocess.DEVNULL,
        )

    data = str(folder / "data")
    as_postgres(str(binaries / "initdb"), "-D", data, "-A", "trust", "--no-sync")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    control = str(binaries / "pg_ctl")
    as_postgres(control, "-D", data, "-w", "-o", options, "-l", str(folder / "log"), "start")
    try:
        as_postgres(str(binaries / "createdb"), "-h", "127.0.0.1", "-p", str(port), "overread")
        yield f"postgresql://postgres@127.0.0.1:{port}/overread"
    finally:
        as_postgres(control, "-D", data, "-m", "immediate", "stop")


def await_true(condition, timeout, what):
    """Poll until `condition` answers something; returns that."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    pytest.fail(f"waited {timeout} s for {what}")
    return None


def _echoes(peer):
    try:
        echo(peer, "PACS")
    except PeerError:
        return False
    return True


def _children(pid):
    found = subprocess.run(
        ["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False
    ).stdout
    return [int(line) for line in found.split()]
