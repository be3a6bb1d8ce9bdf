"""The report as Encapsulated PDF (PS3.3 A.45.1), one document a language, with the key pictures.

A page can be printed and carried away, so each names its patient and says that nobody verified it.
"""

from collections.abc import Sequence

from fpdf import FPDF
from highdicom import SOPClass
from highdicom.sr import CodedConcept
from PIL import Image
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian

from inference.assessment import AssessmentRecord, ModelIdentity, Text
from sr_writer.encoding import UTF_8
from sr_writer.fonts import report_font
from sr_writer.header import constructor_header, series_number, stamp
from sr_writer.identifiers import object_uid
from sr_writer.key_images import KeyImage
from sr_writer.plain_report import report_text
from sr_writer.provenance import Provenance
from sr_writer.wording import PDF_TITLE

SERIES_DESCRIPTION = "Overread AI report, PDF (unverified)"
SERIES_OFFSET = 8
WARNING = Text(en="AI, unverified", zh="人工智能，未经核实")
DEMONSTRATION = Text(en="DEMONSTRATION, not for clinical use", zh="演示，不得用于临床")
IDENTITY = {
    "PatientName": Text(en="Patient", zh="患者姓名"),
    "PatientID": Text(en="Patient ID", zh="患者编号"),
    "PatientBirthDate": Text(en="Born", zh="出生日期"),
    "PatientSex": Text(en="Sex", zh="性别"),
    "AccessionNumber": Text(en="Accession number", zh="检查号"),
    "StudyDate": Text(en="Study date", zh="检查日期"),
    "StudyDescription": Text(en="Study", zh="检查项目"),
    "StudyInstanceUID": Text(en="Study Instance UID", zh="检查实例 UID"),
    "SeriesInstanceUID": Text(en="Series Instance UID", zh="序列实例 UID"),
}
ON_EVERY_PAGE = ("PatientName", "PatientID", "AccessionNumber")
NOT_GIVEN = "-"
UNWRITABLE = "\N{GETA MARK}"
"""Stands for a character that the font lacks, as is usual in print: none vanishes unseen."""

FONT = "report"
MARGIN, LINE, GAP = 18.0, 6.0, 4.0
LABEL_WIDTH, PICTURE_WIDTH, PICTURE_HEIGHT = 44.0, 110.0, 115.0
"""In mm."""
SMALL, PLAIN, LARGE = 8, 10, 15
"""In points."""
LANGUAGES = ("en", "zh")


class _Pages(FPDF):
    """Pages with the patient above and the warning below (fpdf2 asks for a subclass for that)."""

    def __init__(self, language: str, model: ModelIdentity) -> None:
        super().__init__(format="A4")
        self.said = [getattr(WARNING, language)]
        if model.demonstration:
            self.said.append(getattr(DEMONSTRATION, language))
        self.patient = ""
        font = report_font()
        self.add_font(FONT, fname=font.path, collection_font_number=font.face)
        self.known = frozenset(getattr(self.fonts[FONT], "cmap", ()))
        self.set_margin(MARGIN)
        self.set_auto_page_break(auto=True, margin=MARGIN + LINE)

    def header(self) -> None:
        """Name the patient."""
        self.set_font(FONT, size=SMALL)
        self.cell(0, LINE, self.writable(self.patient), align="R", new_x="LMARGIN", new_y="NEXT")

    def footer(self) -> None:
        """Say that nobody verified the report."""
        self.set_y(-MARGIN)
        self.set_font(FONT, size=SMALL)
        said = "    ".join([*self.said, f"{self.page_no()} / {{nb}}"])
        self.cell(0, LINE, said, align="C")

    def writable(self, text: str) -> str:
        """Return text with `UNWRITABLE` for what the font lacks."""
        kept = (each if each == "\n" or ord(each) in self.known else UNWRITABLE for each in text)
        return "".join(kept)


def write_pdf_report(
    record: AssessmentRecord,
    headers: Sequence[Dataset],
    pictures: Sequence[KeyImage],
    provenance: Provenance,
    *,
    language: str,
) -> SOPClass:
    """Write the report in one language, "en" or "zh".

    Parameters
    ----------
    record
        The assessment in terms of the source images.
    headers
        Plain headers of the images that it is about; the first has the patient and the study.
    pictures
        Those that show something are part of the report.

    Raises
    ------
    FontMissingError
        Where the font is not installed.
    """
    model, first = record.model, headers[0]
    accepted = constructor_header(first)
    made = SOPClass(
        study_instance_uid=first.StudyInstanceUID,
        series_instance_uid=object_uid("PDF series", model, provenance),
        series_number=series_number(first, SERIES_OFFSET),
        sop_instance_uid=object_uid(f"PDF {language}", model, provenance),
        sop_class_uid=EncapsulatedPDFStorage,
        instance_number=LANGUAGES.index(language) + 1,
        modality="DOC",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        patient_id=accepted.PatientID,
        manufacturer=model.manufacturer,
        manufacturer_model_name=model.name,
        software_versions=model.version,
        device_serial_number=model.digest[:64],
        series_description=SERIES_DESCRIPTION,
        specific_character_set=UTF_8,
    )
    made.ConversionType = "WSD"
    made.AcquisitionDateTime = None
    made.BurnedInAnnotation = "YES"
    made.DocumentTitle = getattr(PDF_TITLE, language)
    made.ConceptNameCodeSequence = [CodedConcept(*codes.LN.DiagnosticImagingReport)]
    made.VerificationFlag = "UNVERIFIED"
    instances = {str(header.SOPInstanceUID): header for header in headers}
    made.SourceInstanceSequence = [_reference(header) for header in instances.values()]
    made.MIMETypeOfEncapsulatedDocument = "application/pdf"
    document = _render(record, first, pictures, provenance, language)
    made.EncapsulatedDocumentLength = len(document)
    made.EncapsulatedDocument = document + b"\0" * (len(document) % 2)
    stamp(made, first, model, provenance)
    return made


def _reference(header: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    return item


def _render(
    record: AssessmentRecord,
    header: Dataset,
    pictures: Sequence[KeyImage],
    provenance: Provenance,
    language: str,
) -> bytes:
    pages = _Pages(language, record.model)
    title: str = getattr(PDF_TITLE, language)
    pages.set_title(title)
    pages.set_subject(str(header.StudyInstanceUID))
    pages.set_lang(language)
    pages.set_creation_date(provenance.written_at)
    pages.patient = "    ".join(_said(header, keyword) for keyword in ON_EVERY_PAGE)
    pages.add_page()
    pages.set_font(FONT, size=LARGE)
    pages.cell(0, 2 * LINE, title, new_x="LMARGIN", new_y="NEXT")
    for keyword, label in IDENTITY.items():
        _write_row(pages, getattr(label, language), _said(header, keyword))
    pages.ln(GAP)
    pages.set_font(FONT, size=PLAIN)
    said: str = getattr(report_text(record), language)
    pages.multi_cell(0, LINE, pages.writable(said), align="L", new_x="LMARGIN", new_y="NEXT")
    for picture in pictures:
        if picture.shows:
            _write_picture(pages, picture)
    return bytes(pages.output())


def _write_row(pages: _Pages, label: str, value: str) -> None:
    pages.set_font(FONT, size=PLAIN)
    pages.cell(LABEL_WIDTH, LINE, label)
    pages.multi_cell(0, LINE, pages.writable(value), align="L", new_x="LMARGIN", new_y="NEXT")


def _write_picture(pages: _Pages, picture: KeyImage) -> None:
    rows, columns, _ = picture.pixels.shape
    width = min(PICTURE_WIDTH, PICTURE_HEIGHT * columns / rows)
    pages.ln(GAP)
    if pages.will_page_break(width * rows / columns):
        pages.add_page()
    pages.image(Image.fromarray(picture.pixels), x=(pages.w - width) / 2, w=width)


def _said(header: Dataset, keyword: str) -> str:
    """Return what the source says of its patient or study, as people write it."""
    value = header.get(keyword)
    if value in (None, ""):
        return NOT_GIVEN
    if keyword == "PatientName":
        joints = (" ", "", "")  # of the parts of alphabetic, ideographic and phonetic names
        groups = zip(str(value).split("="), joints, strict=False)
        return "  ".join(joint.join(group.split("^")) for group, joint in groups if group).strip()
    if keyword.endswith("Date") and len(str(value)) == 8:
        return f"{str(value)[:4]}-{str(value)[4:6]}-{str(value)[6:]}"
    return str(value)
