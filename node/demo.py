"""The main job on one screen: a small PACS routes a CT head to a node and gets the results back.

Everything is real but the patient: the node runs as it does in a hospital, on free ports of this
machine, and all objects travel over C-STORE associations.
"""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at import
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

from node import store_scu
from node.catalogue import Catalogue
from node.run_folder import RunFolder
from node.settings import Peer, Settings, load_settings
from node.simulated_scanner import SimulatedStudy, write_head_study
from node.status import timeline
from node.tables import OVER, Run
from sr_writer.kinds import Kind
from sr_writer.plain_report import report_text
from sr_writer.results import SOP_CLASSES

_ASSOCIATIONS = 2  # that the PACS sends with, as many do
_NODE_TIMEOUT = 60.0  # seconds
_RESULT_TIMEOUT = 300.0
_SEED = 7
_NAMES = {Kind.SEGMENTATION: "SEG", Kind.REPORT: "SR"}

_CONFIG = """\
[node]
ae_title = "OVERREAD"
host = "127.0.0.1"
port = {node_port}
state_dir = "{state}"
quiet_seconds = 2
min_free_gb = 1

[web]
port = {web_port}

[[peers]]
name = "demo-pacs"
ae_title = "DEMO-PACS"
host = "127.0.0.1"
port = {pacs_port}

[[routes]]
name = "head-ct"
when = 'Modality == "CT"'
model = "builtin/head_ct"
results_to = ["demo-pacs"]
"""


class DemoError(Exception):
    """The demo cannot go on, and why."""


@dataclass
class DemoPacs:
    """A PACS in a few lines: keeps what it is sent, and routes a study to the node."""

    folder: Path
    port: int
    results: list[Path] = field(default_factory=list)

    def start(self) -> AE:
        """Listen for results; returns at once."""
        self.folder.mkdir(parents=True)
        entity = AE(ae_title="DEMO-PACS")
        entity.add_supported_context(Verification)
        for sop_class in {one for classes in SOP_CLASSES.values() for one in classes}:
            entity.add_supported_context(sop_class)
        entity.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._keep)]
        )
        return entity

    def _keep(self, event: evt.Event) -> int:
        sop_class = event.context.abstract_syntax
        kind = next(kind for kind, classes in SOP_CLASSES.items() if sop_class in classes)
        name = _NAMES.get(kind, kind)
        number = sum(path.stem.split("-")[0] == name for path in self.results) + 1
        path = self.folder / (f"{name}.dcm" if number == 1 else f"{name}-{number}.dcm")
        path.write_bytes(event.encoded_dataset())
        self.results.append(path)
        return 0x0000

    def route(self, study: SimulatedStudy, node: Peer, progress: Progress) -> None:
        """Send the study over several associations at once."""
        instances = [store_scu.read_instance(path) for path in study.paths]
        task = progress.add_task("PACS routes the study to the node", total=len(instances))
        shares = [instances[start::_ASSOCIATIONS] for start in range(_ASSOCIATIONS)]

        def send(share: list[store_scu.Instance]) -> list[store_scu.Answer]:
            return store_scu.send(share, node, "DEMO-PACS", lambda _one: progress.advance(task))

        with ThreadPoolExecutor(_ASSOCIATIONS) as pool:
            answers = [answer for share in pool.map(send, shares) for answer in share]
        refused = [answer for answer in answers if not answer.taken]
        if refused:
            raise DemoError(f"the node refused {len(refused)} instances: {refused[0].comment}")


def run_demo(out: Path, *, keep: bool) -> int:
    """Run the demo into the folder `out`; returns the exit code."""
    console = Console()
    out = out.resolve()
    config = _prepare(out)
    settings = load_settings(config)
    pacs = DemoPacs(out / "pacs", settings.peers[0].port)
    server = pacs.start()
    try:
        with _node(config, out / "node.log") as node:
            study, run = _play(settings, pacs, out, console)
            _print_timeline(run, console)
            _print_results(settings, study, run, console)
            _print_paths(settings, run, pacs, out, console)
            if keep:
                console.print(
                    f"Status page: [link]http://{settings.web.host}:{settings.web.port}/[/link]"
                    "   (Ctrl-C ends the node)"
                )
                node.wait()
    except DemoError as error:
        console.print(f"[red]{error}[/] (the node's log: {out / 'node.log'})")
        return 1
    except KeyboardInterrupt:
        console.print("stopped")
    finally:
        server.shutdown()
    return 0


def _prepare(out: Path) -> Path:
    """An empty folder with the node's configuration in it."""
    marker = out / "overread.toml"
    if out.exists() and any(out.iterdir()) and not marker.exists():
        raise SystemExit(f"{out} holds other things than a demo: choose another folder with --out")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    node_port, web_port, pacs_port = _free_ports(3)
    marker.write_text(
        _CONFIG.format(
            node_port=node_port, web_port=web_port, pacs_port=pacs_port, state=out / "node"
        )
    )
    return marker


def _free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@contextmanager
def _node(config: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The node, as `overread serve` runs it."""
    command = [sys.executable, "-m", "node", "serve", "--config", str(config)]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stderr=stream)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)


def _play(
    settings: Settings, pacs: DemoPacs, out: Path, console: Console
) -> tuple[SimulatedStudy, Run]:
    columns = (SpinnerColumn(), TextColumn("{task.description:<44}"), BarColumn(28))
    with Progress(*columns, MofNCompleteColumn(), console=console) as progress:
        scan = progress.add_task("Scanner: CT head, 160 slices of 512 x 512", total=1)
        start = progress.add_task("Node starts", total=1)
        study = write_head_study(out / "scanner", seed=_SEED)
        progress.advance(scan)
        node = Peer(
            name="node",
            ae_title=settings.node.ae_title,
            host=settings.node.host,
            port=settings.node.port,
        )
        _await_node(node)
        progress.advance(start)
        pacs.route(study, node, progress)
        run = _follow(settings, study, progress)
        count = len(pacs.results)
        progress.add_task("PACS receives the results", total=count, completed=count)
    return study, run


def _await_node(node: Peer) -> None:
    deadline = time.monotonic() + _NODE_TIMEOUT
    while True:
        try:
            store_scu.echo(node, "DEMO-PACS")
        except store_scu.PeerError as error:
            if time.monotonic() > deadline:
                raise DemoError(f"the node did not start: {error}") from None
            time.sleep(0.2)
        else:
            return


def _follow(settings: Settings, study: SimulatedStudy, progress: Progress) -> Run:
    """Show each milestone of the run as it is reached, until it is over."""
    catalogue = Catalogue(settings.database_url)
    task = progress.add_task("Node over-reads the study", total=8)
    deadline = time.monotonic() + _RESULT_TIMEOUT
    while time.monotonic() < deadline:
        found = catalogue.study(study.study_uid)
        if found is not None and found.runs:
            run = found.runs[0]
            reached = timeline(run)
            if reached:
                progress.update(
                    task,
                    completed=len(reached),
                    description=f"Node over-reads the study: {reached[-1][0]}",
                )
            if run.state in OVER:
                catalogue.close()
                if run.error:
                    raise DemoError(f"{run.error}; {run.remedy}")
                return run
        time.sleep(0.1)
    raise DemoError("no result came within five minutes")


def _print_timeline(run: Run, console: Console) -> None:
    table = Table("milestone", "after, ms", title="Timeline", title_justify="left")
    for name, _at, elapsed in timeline(run):
        table.add_row(name, f"{elapsed:.0f}")
    console.print(table)


def _print_results(settings: Settings, study: SimulatedStudy, run: Run, console: Console) -> None:
    text = report_text(RunFolder(settings.runs_dir / run.id).record_on_images())
    console.print(Panel(text.en, title="Report, English"))
    console.print(Panel(text.zh, title="Report, Chinese"))
    lesion = study.lesion
    if lesion is not None:
        console.print(
            f"What the simulated patient has: {lesion.kind} haemorrhage, "
            f"{lesion.volume_ml:.1f} mL, {lesion.side or 'midline'}, {lesion.region}"
        )


def _print_paths(settings: Settings, run: Run, pacs: DemoPacs, out: Path, console: Console) -> None:
    """Where the results lie; the pictures are copied out of the node's folder."""
    pictures = []
    for picture in RunFolder(settings.runs_dir / run.id).pictures():
        pictures.append(out / picture.name)
        shutil.copyfile(picture, pictures[-1])
    console.print("Received by the PACS, and pictures of the key slices:")
    for path in (*pacs.results, *pictures):
        console.print(f"  {path}", highlight=False, soft_wrap=True)
