"""Whatever stands in headers, a series gets a verdict: no exception, no memory beyond bounds."""

import struct
import tempfile
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from scipy.spatial.transform import Rotation

from node.assembly import Assembled, assemble
from tests.multi_frames import write_enhanced, write_mosaic
from tests.slices import grid_affine, turned, write_slices

GEOMETRY = (
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "FrameOfReferenceUID",
)
PIXELS = (
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "LossyImageCompression",
    "ModalityLUTSequence",
    "RealWorldValueMappingSequence",
)
KIND = (
    "SpecificCharacterSet",
    "ImageType",
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "Manufacturer",
    "InstanceNumber",
    "AcquisitionNumber",
    "AcquisitionTime",
    "EchoTime",
    "DiffusionBValue",
    "TemporalPositionIdentifier",
    "TriggerTime",
    "ConvolutionKernel",
    "PerFrameFunctionalGroupsSequence",
    "SharedFunctionalGroupsSequence",
    "DimensionIndexSequence",
    "GridFrameOffsetVector",
)
TAGS = [tag_for_keyword(keyword) for keyword in (*GEOMETRY, *PIXELS, *KIND)]
SIEMENS_CSA = [0x00291010, 0x00291020]

VRS = ("DS", "IS", "US", "SS", "UL", "FD", "UI", "CS", "LO", "UN", "OB", "SQ", "AT", "TM", "ZZ")
VALUES = st.one_of(
    st.sampled_from(
        [
            b"",
            b"nan",
            b"inf\\-inf\\0 ",
            b"1e300\\1e300\\1e300 ",
            b"1e-300\\1e-300",
            b"0\\0\\0\\0\\0\\0",
            b"1\\0\\0\\1\\0\\0 ",
            b"-1\\2",
            b"9" * 64,
            b"\xff\xff",
            b"\x00\x00",
            b"\x01\x00",
            b"\x10\x27",
            b"ISO 2022 IR 87\\nonsense",
            b"\\" * 500,
            b"\xfe\xff\x00\xe0\xff\xff\xff\xff",
            b"\xfe\xff\x00\xe0\xf0\xff\xff\x7f",
        ]
    ),
    st.binary(max_size=48),
    st.lists(st.floats(), max_size=7).map(lambda v: "\\".join(map(repr, v)).encode()),
)


@st.composite
def mutations(draw):
    """Tags with the element that takes their place (VR and value), None for none."""
    found = {}
    for tag in draw(st.lists(st.sampled_from(TAGS + SIEMENS_CSA), min_size=1, max_size=3)):
        own = "OB" if tag in SIEMENS_CSA else dictionary_VR(tag).split(" or ")[0]
        vr = draw(st.one_of(st.just(own), st.sampled_from(VRS)))
        found[tag] = draw(st.one_of(st.none(), st.tuples(st.just(vr), VALUES)))
    return found


def element(tag: int, vr: str, value: bytes) -> bytes:
    """An element in Explicit VR Little Endian, whatever its value."""
    value += b" " * (len(value) % 2)
    start = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    if vr in {"OB", "OW", "SQ", "UN"}:
        return start + struct.pack("<HI", 0, len(value)) + value
    return start + struct.pack("<H", len(value)) + value


@dataclass(frozen=True)
class Encoded:
    """A file in parts, of which some can be replaced: its meta information and its elements."""

    name: str
    meta: bytes
    elements: dict[int, bytes]

    def mutated(self, changes: dict) -> bytes:
        elements = dict(self.elements)
        for tag, change in changes.items():
            elements[tag] = b"" if change is None else element(tag, *change)
        return self.meta + b"".join(elements[tag] for tag in sorted(elements))


def encoded(path: Path) -> Encoded:
    content = path.read_bytes()
    elements = {}
    for one in dcmread(path):
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        write_data_element(buffer, one)
        elements[int(one.tag)] = buffer.getvalue()
    meta = content[: 144 + int.from_bytes(content[140:144], "little")]
    assert meta + b"".join(elements.values()) == content
    return Encoded(path.name, meta, elements)


def has_a_verdict(paths: list[Path]) -> Assembled:
    """Assemble within memory that the files account for."""
    size = sum(path.stat().st_size for path in paths)
    tracemalloc.start()
    try:
        assembled = assemble(paths)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    verdict, volume = assembled.verdict, assembled.volume
    assert peak < 8e6 + 64 * size, verdict
    assert (volume is not None) == verdict.accepted
    assert (verdict.reason is None) == verdict.accepted
    if verdict.reason is not None:
        assert verdict.reason.en
        assert verdict.reason.zh
    if volume is not None:
        assert np.isfinite(volume.grid.affine).all()
        assert np.isfinite(volume.grid.array).all()
        assert abs(np.linalg.det(volume.grid.affine[:3, :3])) > 0
        assert volume.on_sources(volume.grid.array > 0).shape[0] == len(volume.sources)
    return assembled


def stored_values(count: int = 6) -> np.ndarray:
    return np.random.default_rng(1).integers(-900, 3000, (count, 12, 10)).astype(np.int16)


OBLIQUE = turned(grid_affine(), Rotation.from_euler("xyz", (9, -12, 6), degrees=True))


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Files of series of several kinds, all of which are volumes as they are."""
    folder = tmp_path_factory.mktemp("sources")
    series = {
        "CT": write_slices(folder / "ct", stored_values(), OBLIQUE),
        "MR": write_slices(folder / "mr", stored_values(), OBLIQUE, modality="MR"),
        "enhanced": [write_enhanced(folder / "enhanced.dcm", stored_values(), OBLIQUE)],
        "mosaic": [write_mosaic(folder / "mosaic.dcm", stored_values(), OBLIQUE)],
    }
    assert all(has_a_verdict(paths).verdict.accepted for paths in series.values())
    return {kind: [encoded(path) for path in paths] for kind, paths in series.items()}


@settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    kind=st.sampled_from(["CT", "MR", "enhanced", "mosaic"]),
    changes=mutations(),
    which=st.sets(st.integers(0, 5), min_size=1),
)
@example(kind="CT", changes={0x00281053: ("DS", b"1e300")}, which={0, 1, 2, 3, 4, 5})
@example(kind="CT", changes={0x00080016: ("SQ", b"nan")}, which={0})
@example(kind="CT", changes={0x00283000: ("DS", b"\x01")}, which={0})
@example(kind="CT", changes={0x00283000: ("DS", b"nan")}, which={0})
@example(kind="MR", changes={0x00280010: ("DS", b"9" * 64)}, which={0})
@example(kind="MR", changes={0x00280010: ("DS", b"9" * 64)}, which={0, 1, 2, 3, 4, 5})
@pytest.mark.filterwarnings("ignore")
def test_no_header_makes_it_raise_or_take_memory(sources, kind, changes, which):
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for number, file in enumerate(sources[kind]):
            paths.append(Path(folder) / file.name)
            is_meant = number in which or len(sources[kind]) == 1
            paths[-1].write_bytes(file.mutated(changes if is_meant else {}))
        has_a_verdict(paths)


@pytest.mark.parametrize(
    ("spacing", "step", "tilt"),
    [
        pytest.param(0.001, 500.0, 44.0, id="a long drift of tiny pixels"),
        pytest.param(0.5, 1e6, 0.0, id="far apart"),
        pytest.param(1e-9, 3.0, 20.0, id="pixels of a nanometre"),
        pytest.param(1e9, 3.0, 0.0, id="pixels of a thousand kilometres"),
    ],
)
@pytest.mark.parametrize("jitter", [0.0, 0.3])
def test_no_geometry_makes_the_grid_large(tmp_path, spacing, step, tilt, jitter):
    def change(header, k):
        along = (k + jitter * (k % 2)) * step
        header.ImagePositionPatient = [0, float(along * np.tan(np.radians(tilt))), float(along)]
        header.PixelSpacing = [spacing, spacing]

    has_a_verdict(write_slices(tmp_path, stored_values(), grid_affine(), change=change))
