"""A catalogue with studies in every state, and run folders with real assessments and pictures."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from node.catalogue import Catalogue
from node.descriptions import describe
from node.outbox import Outbox
from node.received import Received
from node.run_folder import RunFolder
from node.settings import Delivery as Limits
from node.settings import Settings
from node.spool import InstanceKey
from node.status import MILESTONES
from node.tables import DeliveredObject, DeliveryState, RunState
from sr_writer.key_images import draw_key_slices
from sr_writer.kinds import LANGUAGES, Kind
from sr_writer.writing import write_results
from tests.sr_writer.series import PROVENANCE, make_volume, present

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
PACS = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 11113}
HEAD = {"name": "head-ct", "when": "Modality == 'CT'", "model": "demo", "results_to": ["pacs"]}


def make_settings(state_dir: Path, **web) -> Settings:
    return Settings(
        node={"state_dir": state_dir, "min_free_gb": 0}, web=web, peers=[PACS], routes=[HEAD]
    )


def receive(catalogue: Catalogue, study: str, *, description="Head 1.0 Hr40", instances=24):
    """A study whose instances came in over two seconds, just now."""
    last = datetime.now(UTC) - timedelta(seconds=40)
    header = Dataset()
    header.StudyDate, header.Modality, header.SeriesNumber = "20261121", "CT", "3"
    header.SeriesDescription = description
    catalogue.add_received(
        [
            Received(
                InstanceKey(study, f"{study}.1", f"{study}.1.{number}"),
                CT_IMAGE,
                ExplicitVRLittleEndian,
                "SCANNER",
                last - timedelta(seconds=2 * (1 - number / instances)),
            )
            for number in range(1, instances + 1)
        ],
        {(study, f"{study}.1"): describe(header)},
    )
    return last


def open_run(
    catalogue: Catalogue, study: str, run_id: str, state: RunState, *, until="complete", **columns
):
    """A run of a study that was received; it reached `until`, a step every 800 ms."""
    last = catalogue.study(study).last_received
    complete = last + timedelta(seconds=30)
    row = {
        "id": run_id,
        "study_uid": study,
        "revision": run_id,
        "route": "head-ct",
        "state": state,
        "outcome": "",
        "error": "",
        "remedy": "",
        "supersedes": None,
        "opened_at": complete,
    }
    reached = {"first received": last - timedelta(seconds=2), "received": last}
    for number, name in enumerate(MILESTONES[2 : MILESTONES.index(until) + 1]):
        reached[name] = complete + timedelta(milliseconds=number * number * 250)
    catalogue.open_run(row | columns, reached)
    catalogue.consider(study, at=last, revision=run_id, note="")


def deliver(catalogue: Catalogue, run_id: str, state: DeliveryState, **columns):
    """An attempt to deliver; a peer that took the objects answered 0000."""
    outbox = Outbox(catalogue, Limits())
    outbox.open(run_id, ["pacs"])
    delivery = catalogue.run(run_id).deliveries[0]
    kinds = {"Comprehensive 3D SR Storage": "1.9.2", "Segmentation Storage": "1.9.1"}
    taken = [
        DeliveredObject(
            run_id=run_id,
            peer="pacs",
            instance_uid=uid,
            sop_class_uid="",
            kind=kind,
            status="0000",
        )
        for kind, uid in kinds.items()
    ]
    objects = taken if state is DeliveryState.DELIVERED else []
    said = {"error": "", "remedy": ""} | columns
    outbox.record(delivery, objects, state=state, **said)


def fill_run_folder(settings: Settings, run_id: str, assess=present):
    """What the steps leave in a run's folder."""
    folder = RunFolder(settings.runs_dir / run_id)
    volume = make_volume()
    assessment = assess(volume)
    save_everything(folder, assessment, volume)
    folder.save_pictures(draw_key_slices(assessment, volume))


def save_everything(folder: RunFolder, assessment, volume):
    """The assessment and objects of every kind."""
    folder.save_assessment(assessment)
    results = write_results(
        assessment,
        volume.sources,
        volume,
        PROVENANCE,
        predecessors={},
        kinds=tuple(Kind),
        languages=LANGUAGES,
    )
    folder.save_results(results)
