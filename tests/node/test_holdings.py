"""What is held is found by every key, whatever its level, character set and age."""

from datetime import UTC, datetime
from functools import partial

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from node.bookkeeper import Bookkeeper
from node.catalogue import Catalogue
from node.descriptions import LONGEST, describe
from node.holdings import Holdings, Level, unsupported
from node.matching import MOST_UIDS, MOST_VALUES, UnmatchableKeyError
from node.received import Received
from node.settings import load_settings
from node.spool import InstanceKey, Spool
from tests.node.configuration import write_config
from tests.slices import grid_affine, write_slices

PATIENTS = [
    ("Wang^XiaoDong=王^小東", "GB18030", "P1", "20260103", "CT"),
    ("Yamada^Tarou=山田^太郎=やまだ^たろう", ["", "ISO 2022 IR 87"], "P2", "20260102", "MR"),
    ("Müller^Jörg", "ISO_IR 100", "P3", "20260101", "CT"),
]


def identify(patient, study, number, header, _index):
    name, header.SpecificCharacterSet, identity, date, modality = patient
    header.PatientName, header.PatientID = name, identity
    header.StudyInstanceUID, header.StudyDate = study, date
    header.AccessionNumber, header.SeriesNumber = f"A{identity}", number
    header.SeriesDescription = f"Series [{number}]"
    header.Modality = modality
    request = Dataset()
    request.RequestedProcedureID = f"R{identity}"
    header.RequestAttributesSequence = [request]


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """A spool with a study of two series for each patient, listed by the bookkeeper."""
    folder = tmp_path_factory.mktemp("holdings")
    settings = load_settings(write_config(folder))
    spool, catalogue = Spool(settings.spool_dir), Catalogue(settings.database_url)
    spool.prepare()
    for patient in PATIENTS:
        study = generate_uid()
        for number in (1, 2):
            paths = write_slices(
                folder / patient[2] / str(number),
                np.zeros((3, 8, 8), np.int16),
                grid_affine(),
                change=partial(identify, patient, study, number),
            )
            for path in paths:
                header = dcmread(path, stop_before_pixels=True)
                key = InstanceKey(study, header.SeriesInstanceUID, header.SOPInstanceUID)
                spool.store(key, path.read_bytes())
    keeper = Bookkeeper(catalogue, spool)
    keeper.start()
    keeper.stop()
    return Holdings(settings, catalogue)


def query(**keys):
    asked = Dataset()
    for keyword, value in keys.items():
        setattr(asked, keyword, value)
    return asked


def patients(holdings, **keys):
    return [str(one.PatientID) for one in holdings.find(Level.STUDY, query(**keys))]


def test_all_studies_are_found_the_latest_first(node):
    assert patients(node) == ["P1", "P2", "P3"]
    (third,) = node.find(Level.STUDY, query(), limit=5, offset=2)
    assert third.PatientID == "P3"
    assert len(list(node.find(Level.STUDY, query(), limit=2))) == 2


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ({"PatientName": "wang*"}, ["P1"]),
        ({"PatientName": "王^小東"}, ["P1"]),
        ({"PatientName": "*=山田*"}, ["P2"]),
        ({"PatientName": "やまだ^*"}, ["P2"]),
        ({"PatientName": "MÜLLER^J?RG"}, ["P3"]),
        ({"PatientName": "Müller"}, []),
        ({"PatientName": "*"}, ["P1", "P2", "P3"]),
        ({"PatientID": "P2"}, ["P2"]),
        ({"PatientID": "p2"}, []),
        ({"PatientID": "P?", "StudyDate": "20260102-"}, ["P1", "P2"]),
        ({"StudyDate": "20260101-20260102"}, ["P2", "P3"]),
        ({"StudyDate": "-20260101"}, ["P3"]),
        ({"StudyDate": "2026.01.03"}, ["P1"]),
        ({"StudyTime": "10"}, ["P1", "P2", "P3"]),
        ({"StudyTime": "1012-"}, []),
        ({"AccessionNumber": "AP3"}, ["P3"]),
        ({"ModalitiesInStudy": "CT"}, ["P1", "P3"]),
        ({"ModalitiesInStudy": ["MR", "US"]}, ["P2"]),
        ({"NumberOfStudyRelatedSeries": "2", "StudyID": "1"}, ["P1", "P2", "P3"]),
        ({"StudyInstanceUID": ["1.2.3", "1.2.4"]}, []),
        ({"InstitutionName": "not kept, so not looked at"}, ["P1", "P2", "P3"]),
    ],
)
def test_a_study_is_found_by_its_keys(node, keys, found):
    assert patients(node, **keys) == found


def test_an_answer_is_unicode_and_says_so(node):
    (answer,) = node.find(Level.STUDY, query(PatientID="P2"))
    assert answer.SpecificCharacterSet == "ISO_IR 192"
    assert str(answer.PatientName) == PATIENTS[1][0]
    assert answer.NumberOfStudyRelatedSeries == 2
    assert answer.NumberOfStudyRelatedInstances == 6
    assert answer.ModalitiesInStudy == "MR"
    assert answer.PatientBirthDate == ""


def test_series_and_images_are_found_below_their_study(node):
    keys = query(PatientID="P1", SeriesNumber="2", RequestAttributesSequence=[Dataset()])
    keys.RequestAttributesSequence[0].RequestedProcedureID = "RP1"
    (series,) = node.find(Level.SERIES, keys)
    assert series.SeriesDescription == "Series [2]"
    assert series.NumberOfSeriesRelatedInstances == 3
    assert series.RequestAttributesSequence[0].RequestedProcedureID == "RP1"
    keys.RequestAttributesSequence[0].RequestedProcedureID = "RP2"
    assert list(node.find(Level.SERIES, keys)) == []
    below = {"SeriesInstanceUID": series.SeriesInstanceUID}
    images = list(node.find(Level.IMAGE, query(**below, Manufacturer="", StationName="")))
    assert sorted(int(one.InstanceNumber) for one in images) == [1, 2, 3]
    first = images[0]
    assert (first.Rows, first.Columns, first.BitsAllocated) == (8, 8, 16)
    assert first.SOPClassUID == CTImageStorage
    assert first.AvailableTransferSyntaxUID == ExplicitVRLittleEndian
    assert first.Manufacturer == "Overread tests"
    assert first["StationName"].is_empty
    assert str(first.PatientName) == PATIENTS[0][0]
    (second,) = node.find(Level.IMAGE, query(**below, InstanceNumber="2"))
    (same,) = node.find(Level.IMAGE, query(SOPInstanceUID=second.SOPInstanceUID))
    assert same.SeriesInstanceUID == series.SeriesInstanceUID
    assert list(node.find(Level.IMAGE, query(**below, Rows=9))) == []
    assert list(node.find(Level.SERIES, query(SeriesDescription="Series [12]"))) == []
    assert len(list(node.find(Level.SERIES, query(SeriesDescription="*[1]")))) == 3


def test_wildcards_in_a_value_of_the_source_stand_for_themselves(node):
    assert list(node.find(Level.SERIES, query(SeriesDescription="Series ?1]*"))) != []


def test_instances_say_where_they_lie(node):
    (study,) = node.find(Level.STUDY, query(PatientID="P1"))
    held = node.instances(study.StudyInstanceUID)
    assert len(held) == 6
    for one in held:
        header = dcmread(one.path, stop_before_pixels=True)
        assert (header.SOPInstanceUID, header.SOPClassUID) == (one.key.instance, one.sop_class_uid)
        assert header.file_meta.TransferSyntaxUID == one.transfer_syntax
    assert len(node.instances(study.StudyInstanceUID, held[0].key.series)) == 3
    assert node.instances(study.StudyInstanceUID, held[0].key.series, held[0].key.instance) == [
        held[0]
    ]
    assert node.instances("1.2.3") == []


def test_a_file_that_is_gone_hides_no_other(node):
    (study,) = node.find(Level.STUDY, query(PatientID="P3"))
    uid = study.StudyInstanceUID
    node.instances(uid)[0].path.unlink()
    assert len(list(node.find(Level.IMAGE, query(StudyInstanceUID=uid)))) == 5


@pytest.mark.parametrize(
    "keys", [{"StudyDate": "yesterday"}, {"StudyTime": "25:00:00:00"}, {"PatientBirthDate": "-"}]
)
def test_a_key_that_means_nothing_is_refused_without_its_value(node, keys):
    ((keyword, value),) = keys.items()
    with pytest.raises(UnmatchableKeyError, match=keyword) as error:
        node.find(Level.STUDY, query(**keys))
    assert value not in str(error.value)


def test_a_query_of_as_many_values_as_there_may_be_is_answered(node):
    uids, words = [f"1.2.{n}" for n in range(MOST_UIDS)], [f"V{n}" for n in range(MOST_VALUES)]
    keys = dict.fromkeys(("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"), uids)
    keys |= dict.fromkeys(("PatientID", "AccessionNumber", "StudyID", "Modality"), words)
    dates = [f"20260101-2026{n + 1:04}" for n in range(MOST_VALUES)]
    keys |= {"SOPClassUID": uids, "ModalitiesInStudy": words, "StudyDate": dates}
    assert list(node.find(Level.IMAGE, query(**keys))) == []
    for keyword, values in keys.items():
        with pytest.raises(UnmatchableKeyError):
            node.find(Level.IMAGE, query(**{keyword: [*values, values[0]]}))


@pytest.mark.parametrize("hostile", ["P\0", "P\udcff", "P\n1"])
def test_what_no_database_takes_is_refused(node, hostile):
    with pytest.raises(UnmatchableKeyError):
        node.find(Level.STUDY, query(PatientID=f"{hostile}x"))


def test_keys_that_are_not_looked_at_are_told():
    asked = query(PatientName="", Modality="CT", InstitutionName="X", AcquisitionDateTime="2026")
    asked.QueryRetrieveLevel, asked.StudyInstanceUID = "STUDY", "1.2"
    assert unsupported(Level.STUDY, asked) == {
        "Modality",
        "InstitutionName",
        "AcquisitionDateTime",
    }
    assert unsupported(Level.IMAGE, asked) == {"AcquisitionDateTime"}


def test_what_a_header_says_badly_is_left_out_and_the_rest_is_kept():
    header = Dataset()
    header.PatientName = "A\x00B^" + "x" * 5000
    header.StudyDate = "1993.08.22"
    header.Modality = "CT"
    header.add_new(0x00400275, "LO", "no sequence")
    said = describe(header)
    assert said.study["patient_name"].startswith("AB^x")
    assert len(said.study["patient_name"]) == LONGEST
    assert said.study["study_date"] == "19930822"
    assert said.series["modality"] == "CT"
    assert said.series["requested_procedure"] == ""


def test_more_series_than_a_statement_takes_are_listed(tmp_path):
    catalogue = Catalogue(f"sqlite:///{tmp_path}/overread.sqlite")
    now = datetime.now(UTC)
    keys = [InstanceKey(f"1.{number}", f"1.{number}.1", "1.1") for number in range(1, 3001)]
    received = [Received(key, CTImageStorage, "1.2", "PACS", now) for key in keys]
    assert len(catalogue.unlisted_series(received)) == 3000
    catalogue.add_received(received)
    assert catalogue.unlisted_series(received) == {}
