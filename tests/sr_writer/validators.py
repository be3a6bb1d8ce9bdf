"""The outside judges of what we write: dciodvfy, PixelMed's DicomSRValidator, DCMTK's dsrdump."""

import re
import shutil
import subprocess
from pathlib import Path

JAVA_FOLDER = Path("/usr/share/java")
PIXELMED_JARS = ("pixelmed.jar", "Saxon-HE.jar")

PIXELMED_FALSE_ERRORS = (
    # TID 1500 row 12b includes TID 4019 Algorithm Identification in the Qualitative Evaluations
    # container by HAS CONCEPT MOD. PixelMed checks its TEXT items against row 14 too, TEXT of any
    # concept name by CONTAINS, since that row's wildcard matches every TEXT in the container.
    (
        r"\[Row 14\] TEXT \*.*"
        r'TEXT \(111001,DCM,"Algorithm Name"\): Incorrect relationship - expected CONTAINS'
    ),
    (
        r"\[Row 14\] TEXT \*.*"
        r'TEXT \(111003,DCM,"Algorithm Version"\): Incorrect relationship - expected CONTAINS'
    ),
    (
        r"\[Row 14\] TEXT \*.*"
        r'TEXT \(122405,DCM,"Algorithm Manufacturer"\): Incorrect relationship - expected CONTAINS'
    ),
    # TID 1500 includes TID 1411 and TID 1501 group by group, in one Imaging Measurements container.
    # PixelMed chooses one template for all groups in it: TID 1411 as soon as any refers to a
    # segment, and so misses one in the group on slices, the first in `mixed` (1.11.1).
    (r"Template 1411 .*\[Row (5|7|10)\].*: within 1\.11\.1: .*: Missing conditional content item"),
)


def dciodvfy_missing() -> str | None:
    """Say what has to be installed, if anything."""
    return None if shutil.which("dciodvfy") else "dciodvfy is missing: install dicom3tools"


def dsrdump_missing() -> str | None:
    """Say what has to be installed, if anything."""
    return None if Path("/usr/bin/dsrdump").exists() else "dsrdump is missing: install dcmtk"


def pixelmed_missing() -> str | None:
    """Say what has to be installed, if anything."""
    if shutil.which("java") is None:
        return "java is missing: install default-jre-headless"
    if not all((JAVA_FOLDER / jar).exists() for jar in PIXELMED_JARS):
        return "PixelMed is missing: install libpixelmed-java and libsaxonhe-java"
    return None


def dciodvfy(path: Path) -> list[str]:
    """Return what dciodvfy says, errors and warnings; some of its errors leave with status 0."""
    done = subprocess.run(
        ["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False
    )
    lines = (done.stdout + done.stderr).splitlines()
    return [line for line in lines if line.startswith(("Error", "Warning"))]


def pixelmed_errors(path: Path) -> list[str]:
    """Return the errors of PixelMed's SR validator that are not known to be false."""
    return [
        line
        for line in pixelmed_validate(path)
        if line.startswith("Error") and not any(re.search(e, line) for e in PIXELMED_FALSE_ERRORS)
    ]


def pixelmed_validate(path: Path) -> list[str]:
    """Return the errors and warnings of PixelMed's SR validator, about 7 s a document.

    The JDK's own XSLT compiler cannot hold its rules, hence Saxon and no limits on XPath.
    """
    done = subprocess.run(
        [
            "java",
            "-Djavax.xml.transform.TransformerFactory=net.sf.saxon.TransformerFactoryImpl",
            "-Djdk.xml.xpathExprGrpLimit=0",
            "-Djdk.xml.xpathExprOpLimit=0",
            "-Djdk.xml.xpathTotalOpLimit=0",
            "-cp",
            ":".join(str(JAVA_FOLDER / jar) for jar in PIXELMED_JARS),
            "com.pixelmed.validate.DicomSRValidator",
            str(path),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = (done.stdout + done.stderr).splitlines()
    if not any("Found" in line for line in lines):
        raise RuntimeError(f"PixelMed did not validate {path}: {lines[-5:]}")
    return [line for line in lines if "Error" in line or "Warning" in line]


def dsrdump(path: Path) -> str:
    """Return the document as DCMTK reads it; raises CalledProcessError where it does not."""
    done = subprocess.run(
        ["/usr/bin/dsrdump", "+Pc", "+Pl", "+U8", str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout + done.stderr
