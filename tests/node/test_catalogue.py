"""The catalogue: made once however many roles start, and told things more than once."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta

from node.catalogue import Catalogue
from node.received import Received
from node.spool import InstanceKey

NOW = datetime.now(UTC)


def received(instance, at=NOW):
    key = InstanceKey("1.2", "1.2.3", instance)
    return Received(key, "1.2.840", "1.2.840.10008.1.2.1", "PACS", at)


def test_roles_that_start_at_once_all_get_their_tables(tmp_path):
    code = (
        f"from node.catalogue import Catalogue; Catalogue('sqlite:///{tmp_path}/overread.sqlite')"
    )
    for _ in range(3):
        roles = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(6)]
        assert [role.wait(60) for role in roles] == [0] * 6
        for file in tmp_path.glob("overread.sqlite*"):
            file.unlink()


def test_an_instance_heard_of_twice_is_listed_once_and_time_never_goes_back(tmp_path):
    catalogue = Catalogue(f"sqlite:///{tmp_path}/overread.sqlite")
    catalogue.add_received([received("1.1"), received("1.2", NOW - timedelta(hours=1))])
    catalogue.add_received([received("1.1", NOW - timedelta(hours=2))])
    study = catalogue.study("1.2")
    assert study.last_received == NOW
    assert study.first_received == NOW - timedelta(hours=1)
    assert catalogue.unlisted("1.2", {"1.2.3": ("1.1", "1.2", "1.3")}) == [
        InstanceKey("1.2", "1.2.3", "1.3")
    ]


def test_many_instances_are_listed_in_one_call(tmp_path):
    catalogue = Catalogue(f"sqlite:///{tmp_path}/overread.sqlite")
    catalogue.add_received([received(f"1.{number}") for number in range(1, 1800)])
    assert catalogue.study("1.2").series[0].instances == 1799


def test_what_is_removed_is_forgotten(tmp_path):
    catalogue = Catalogue(f"sqlite:///{tmp_path}/overread.sqlite")
    catalogue.add_received([received("1.1")])
    assert [one.uid for one in catalogue.studies_received_before(NOW + timedelta(1))] == ["1.2"]
    catalogue.remove_study("1.2")
    assert catalogue.worklist() == []
