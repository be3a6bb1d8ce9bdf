from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset

from node.clinical_context import MAX_CHARACTERS, clinical_context


def test_nothing_is_said_where_nothing_is_known():
    assert clinical_context(Dataset()) == ""


def test_indication_and_history_come_from_where_scanners_write_them():
    request = Dataset()
    request.ReasonForTheRequestedProcedure = "Fall,\r\nheadache"
    header = Dataset()
    header.RequestAttributesSequence = [request, request]
    header.ReasonForStudy = ""
    header.AdmittingDiagnosesDescription = ["Stroke", "AF"]
    header.AdditionalPatientHistory = "On warfarin."
    assert clinical_context(header) == (
        "Indication: Fall, headache. Diagnosis: Stroke; AF. History: On warfarin."
    )


@given(text=st.text(max_size=2000))
def test_any_text_becomes_one_short_printable_line(text: str):
    header = Dataset()
    header.add_new("AdditionalPatientHistory", "LT", text)
    said = clinical_context(header)
    assert len(said) <= MAX_CHARACTERS
    assert not any(ord(one) < 32 or ord(one) == 127 for one in said)
