"""A run whose objects are written and checked, and have one peer to go to."""

from datetime import UTC, datetime

from node import delivery
from node.catalogue import Catalogue
from node.received import Received
from node.settings import load_settings
from node.spool import InstanceKey
from node.steps import Workbench
from node.tables import RunState
from tests.node.configuration import write_config

RUN = "0123456789abcdef0123456789abcdef"


def checked_run(folder, pacs_port, *lines, results, **node):
    """The workbench of a node with that run; `lines` of the configuration are its peer's."""
    config = write_config(folder, pacs_port=pacs_port, **node)
    config.write_text(config.read_text().replace("[[routes]]", "\n".join((*lines, "[[routes]]"))))
    settings = load_settings(config)
    bench = Workbench(settings, Catalogue(settings.database_url))
    now = datetime.now(UTC)
    key = InstanceKey("1.2", "1.2.3", "1.2.3.4")
    bench.catalogue.add_received([Received(key, "1.2.840", "1.2.840.10008.1.2.1", "PACS", now)])
    run = {
        "id": RUN,
        "study_uid": "1.2",
        "revision": "r",
        "route": "head",
        "opened_at": now,
        "state": RunState.DELIVERING,
        "outcome": "",
        "error": "",
        "remedy": "",
        "supersedes": None,
        "attempt": 0,
    }
    bench.catalogue.open_run(run, {"complete": now})
    run_folder = bench.folder(RUN)
    run_folder.path.mkdir(parents=True)
    run_folder.save_results(results)
    bench.outbox.open(RUN, ["pacs"])
    bench.outbox.release(RUN)
    return bench


def deliver(bench):
    """One attempt; returns the delivery after it."""
    delivery.attempt(bench, bench.catalogue.run(RUN).deliveries[0])
    delivery.settle(bench.outbox, RUN)
    return bench.catalogue.run(RUN).deliveries[0]
