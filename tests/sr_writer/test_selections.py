"""Key objects and presentation states point at the images that show a finding, and at no others.

Every line of a presentation state goes around exactly the pixels of its segment.
"""

import shutil
import subprocess
from copy import deepcopy

import numpy as np
import pytest
from PIL import Image
from pydicom import DataElement
from pydicom.config import IGNORE
from pydicom.sr.codedict import codes

from sr_writer.conformance import check_objects
from sr_writer.content_items import is_named, walk
from sr_writer.contours import holes
from sr_writer.identifiers import tracking
from sr_writer.key_images import draw_key_images
from sr_writer.key_objects import write_key_objects
from sr_writer.presentation_state import write_presentation_states
from sr_writer.source_images import on_images, source_images
from tests.sr_writer.acquisitions import ACQUISITIONS, acquired
from tests.sr_writer.series import (
    MODEL,
    OBLIQUE,
    PROVENANCE,
    absent,
    as_received,
    as_spooled,
    bytes_of,
    instances_of,
    lesion,
    make_volume,
    mixed,
    present,
    spooled,
)
from tests.sr_writer.test_contours import enclosed as inside
from tests.sr_writer.validators import dciodvfy, dciodvfy_missing

VOLUME = spooled(make_volume(OBLIQUE))


def selections(assessment, volume):
    """The key objects, then the presentation states."""
    pictures = draw_key_images(assessment, volume)
    images = source_images(volume)
    made = [write_key_objects(pictures, images, MODEL, PROVENANCE)]
    made += write_presentation_states(pictures, images, assessment, volume, PROVENANCE)
    return [as_received(each) for each in made if each is not None]


GOOD = selections(mixed(VOLUME), VOLUME)


@pytest.mark.parametrize("name", ACQUISITIONS)
def test_selections_of_every_acquisition_pass_the_gate(name):
    volume = spooled(acquired(name))
    made = selections(mixed(volume), volume)
    assert [each.Modality for each in made] == (["KO"] if name == "mosaic" else ["KO", "PR"])
    assert check_objects(made, instances_of(volume), volume, model=MODEL) == []


@pytest.mark.parametrize("name", ["tilted backwards", "enhanced MR, tilted, gapped"])
def test_what_is_selected_and_drawn_on_is_the_image_of_the_finding(name):
    volume = acquired(name)
    (picture,) = draw_key_images(present(volume), volume)
    key_objects, state = selections(present(volume), volume)
    uid = volume.sources[picture.index].SOPInstanceUID
    frame = volume.frame_numbers[picture.index] if volume.frame_numbers else None
    (item,) = (each for each in walk(key_objects) if each.ValueType == "IMAGE")
    (reference,) = item.ReferencedSOPSequence
    (annotation,) = state.GraphicAnnotationSequence
    (drawn_on,) = annotation.ReferencedImageSequence
    for each in (reference, drawn_on):
        assert each.ReferencedSOPInstanceUID == uid
        assert each.get("ReferencedFrameNumber") == frame


@pytest.mark.parametrize("name", ["tilted", "oblique, tilted", "enhanced"])
def test_lines_go_around_exactly_the_pixels_of_the_segment(name):
    volume = acquired(name)
    assessment = present(volume)
    grid = volume.grid
    assessment.masks[1][lesion(grid.affine, grid.spatial_shape, radius=6.0)] = False
    (picture,) = draw_key_images(assessment, volume)
    mask = on_images(assessment, volume).masks[1][picture.index]
    assert holes(mask)
    _, state = selections(assessment, volume)
    enclosed = np.zeros(mask.shape, bool)
    (segment,) = assessment.record.segments
    for line in state.GraphicAnnotationSequence[0].GraphicObjectSequence:
        points = np.array(line.GraphicData).reshape(-1, 2)
        enclosed ^= inside(points, mask.shape)
        assert line.TrackingUID == tracking(segment, MODEL, PROVENANCE).uid
    assert (enclosed == mask).all()


def test_nothing_is_selected_where_nothing_was_found():
    assert selections(absent(VOLUME), VOLUME) == []


def test_writing_leaves_the_images_as_they_are():
    volume = make_volume(modality="MR")
    images = source_images(volume)
    before = [deepcopy(image.header) for image in images]
    assessment = mixed(volume)
    pictures = draw_key_images(assessment, volume)
    write_presentation_states(pictures, images, assessment, volume, PROVENANCE)
    write_key_objects(pictures, images, MODEL, PROVENANCE)
    assert [image.header for image in images] == before


def test_the_same_bytes_again():
    again = selections(mixed(VOLUME), VOLUME)
    assert [bytes_of(each) for each in again] == [bytes_of(each) for each in GOOD]


def test_a_presentation_state_shows_the_window_of_the_source_in_its_own_units():
    volume = make_volume()
    for source in volume.sources:
        source.WindowCenter, source.WindowWidth = [40, 600], [80, 2800]
        source.RescaleSlope, source.RescaleIntercept = "1", "-1024"
        source["PixelSpacing"] = DataElement(
            "PixelSpacing", "DS", ["4.199999809265137", "4.0"], validation_mode=IGNORE
        )
    _, state = selections(present(volume), volume)
    assert (state.RescaleSlope, state.RescaleIntercept, state.RescaleType) == (1, -1024, "HU")
    assert check_objects([state], volume.sources, volume, model=MODEL) == []
    (grey,) = state.SoftcopyVOILUTSequence
    assert (grey.WindowCenter, grey.WindowWidth) == (40, 80)


def test_images_of_another_rescale_slope_have_a_presentation_state_of_their_own():
    volume = make_volume(modality="MR")
    for index, source in enumerate(volume.sources):
        source.RescaleSlope, source.RescaleIntercept = 1 + index / 8, 0
    _, *states = selections(mixed(volume), volume)
    assert len(states) == 2
    assert len({state.SOPInstanceUID for state in states}) == 2
    for state in states:
        (series,) = state.ReferencedSeriesSequence
        (item,) = series.ReferencedImageSequence
        index = [each.SOPInstanceUID for each in volume.sources].index(
            item.ReferencedSOPInstanceUID
        )
        assert state.RescaleSlope == volume.sources[index].RescaleSlope


def set_to(keyword, value):
    return lambda made: setattr(made, keyword, value)


def line(state):
    for annotation in state.GraphicAnnotationSequence:
        for each in annotation.get("GraphicObjectSequence", []):
            return each
    raise AssertionError


def description(key_objects):
    return next(
        item
        for item in key_objects.ContentSequence
        if is_named(item, codes.DCM.KeyObjectDescription)
    )


def drop_last(sequence):
    del sequence[-1]


KO_FAULTS = {
    "final title": lambda made: setattr(made.ConceptNameCodeSequence[0], "CodeValue", "113004"),
    "no notice": lambda made: setattr(description(made), "TextValue", "key images"),
    "strange instance": lambda made: setattr(
        made.ContentSequence[-1].ReferencedSOPSequence[0], "ReferencedSOPInstanceUID", "2.25.7"
    ),
    "frame too many": lambda made: setattr(
        made.ContentSequence[-1].ReferencedSOPSequence[0], "ReferencedFrameNumber", 2
    ),
    "nobody selected": lambda made: setattr(made, "ContentSequence", made.ContentSequence[-3:]),
    "evidence short": lambda made: drop_last(
        made.CurrentRequestedProcedureEvidenceSequence[0]
        .ReferencedSeriesSequence[0]
        .ReferencedSOPSequence
    ),
    "another series": lambda made: setattr(
        made.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0],
        "SeriesInstanceUID",
        "2.25.7",
    ),
    "nothing selected": lambda made: setattr(made, "ContentSequence", made.ContentSequence[:-2]),
    "called final": set_to("SeriesDescription", "Key objects"),
    "another modality": set_to("Modality", "SR"),
}
PR_FAULTS = {
    "rows before columns": lambda made: setattr(
        line(made), "GraphicData", [value + 43 for value in line(made).GraphicData]
    ),
    "unit of the display": lambda made: setattr(line(made), "GraphicAnnotationUnits", "DISPLAY"),
    "points missing": lambda made: setattr(line(made), "NumberOfGraphicPoints", 3),
    "untracked": lambda made: delattr(line(made), "TrackingUID"),
    "strange instance": lambda made: setattr(
        made.GraphicAnnotationSequence[0].ReferencedImageSequence[0],
        "ReferencedSOPInstanceUID",
        "2.25.7",
    ),
    "strange image": lambda made: setattr(
        made.ReferencedSeriesSequence[0].ReferencedImageSequence[0],
        "ReferencedSOPInstanceUID",
        "2.25.7",
    ),
    "another series": lambda made: setattr(
        made.ReferencedSeriesSequence[0], "SeriesInstanceUID", "2.25.7"
    ),
    "no layer": lambda made: setattr(made.GraphicAnnotationSequence[0], "GraphicLayer", "FINAL"),
    "no warning": lambda made: drop_last(made.GraphicAnnotationSequence[0].TextObjectSequence),
    "called final": set_to("ContentLabel", "FINAL"),
}


@pytest.mark.parametrize("name", KO_FAULTS)
def test_the_gate_stops_key_objects_with(name):
    made = deepcopy(GOOD[0])
    KO_FAULTS[name](made)
    assert check_objects([made], VOLUME.sources, VOLUME, model=MODEL)


@pytest.mark.parametrize("name", PR_FAULTS)
def test_the_gate_stops_a_presentation_state_with(name):
    made = deepcopy(GOOD[1])
    PR_FAULTS[name](made)
    assert check_objects([made], VOLUME.sources, VOLUME, model=MODEL)


@pytest.mark.peers
@pytest.mark.skipif(dciodvfy_missing() is not None, reason=dciodvfy_missing() or "")
@pytest.mark.parametrize("name", ["tilted", "enhanced"])
def test_dciodvfy_finds_nothing(name, tmp_path):
    volume = spooled(acquired(name))
    for source in volume.sources:
        source.BodyPartExamined = "HEAD"
    for made in selections(mixed(volume), volume):
        path = tmp_path / f"{made.Modality}.dcm"
        path.write_bytes(bytes_of(made))
        assert [line for line in dciodvfy(path) if "DeviceUID" not in line] == []


@pytest.mark.peers
@pytest.mark.skipif(shutil.which("dcmp2pgm") is None, reason="dcmp2pgm is missing: install dcmtk")
def test_dcmtk_draws_an_image_by_its_presentation_state(tmp_path):
    volume = make_volume()
    picture = draw_key_images(present(volume), volume)[0]
    image = deepcopy(volume.sources[picture.index])
    image.SpecificCharacterSet = "ISO_IR 192"
    image.RescaleSlope, image.RescaleIntercept, image.RescaleType = "1", "-1024", "HU"
    for source in volume.sources:
        source.RescaleSlope, source.RescaleIntercept, source.RescaleType = "1", "-1024", "HU"
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
    image.PixelRepresentation = 0
    stored = volume.grid.array[picture.index] + 1024
    image.PixelData = stored.astype(np.uint16).tobytes()
    (tmp_path / "image.dcm").write_bytes(bytes_of(as_spooled(image)))
    _, state = selections(present(volume), volume)
    (tmp_path / "state.dcm").write_bytes(bytes_of(state))
    done = subprocess.run(
        ["dcmp2pgm", "-p", "state.dcm", "image.dcm", "out.pgm"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    drawn = np.asarray(Image.open(tmp_path / "out.pgm"))
    assert drawn.min() == 0
    assert drawn.max() == 255
