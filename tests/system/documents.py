"""Which of the documents that a PACS received are reports, in whatever form."""

from sr_writer.kinds import Kind
from sr_writer.results import SOP_CLASSES


def reports(documents):
    """Those of a class that reports are written in; a peer gets one form of a report only."""
    return [one for one in documents if one.SOPClassUID in SOP_CLASSES[Kind.REPORT]]
