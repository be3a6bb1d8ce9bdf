"""What to do about what the log says, where several places say it.

Every warning and error has a `remedy` for hospital IT; docs/operations.md says so.
"""

from node.intake import (
    CANNOT_UNDERSTAND,
    DUPLICATE_INSTANCE,
    INVALID_INSTANCE,
    MISMATCH,
    OUT_OF_RESOURCES,
    SOP_CLASS_NOT_SUPPORTED,
    TRANSFER_SYNTAX_NOT_SUPPORTED,
)

NO_SPACE = "make room, or lower node.retention_days; the sender tries again"
DEFECT = "a defect of Overread: report it, with this line"
SEE_ITS_LOG = "see its log: what it sent is at fault"
CHECK = "run 'overread check': it says what is missing"
CHECK_DATABASE = "bring the database back; 'overread check' says whether it answers"
DAMAGED_FILE = "see to the disk, and have the image sent again, or restore the file"
DAMAGED_RUN = "see to the disk; then 'overread retry STUDY' has it made anew"
DAMAGED_HEADER = "have the image sent again; if it stays so, the sender's fault"
NOT_ITS_KIND = "have the sender write a value that the standard allows; it counts as empty"
NO_IMAGE = "have the client send what the conformance statement lists, or nothing else"

REFUSED_INSTANCE = {
    DUPLICATE_INSTANCE: "ask the sender which of the two is right; the first is used",
    INVALID_INSTANCE: "the sender's fault: its request has to have a valid SOP Instance UID",
    SOP_CLASS_NOT_SUPPORTED: NO_IMAGE,
    TRANSFER_SYNTAX_NOT_SUPPORTED: NO_IMAGE,
    OUT_OF_RESOURCES: NO_SPACE,
    MISMATCH: "the sender's fault: its request and its data set name different objects",
    CANNOT_UNDERSTAND: "have it sent again; if it stays so, the sender's fault",
}
"""By the status that the sender is answered with."""
