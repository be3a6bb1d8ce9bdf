"""Accept is read as HTTP and PS3.18 have it, whatever a client writes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.dicomweb.media_types import (
    Body,
    Chosen,
    Form,
    MalformedAcceptError,
    accepted,
    choose,
)

EXPLICIT, JPEG_LS = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.80"
UNCOMPRESSED = Form("application/octet-stream", EXPLICIT, default=True)
STORED = Form("application/octet-stream", JPEG_LS, stored=True, plain=False)
PICTURE = Form("image/jls", JPEG_LS, stored=True)
FORMS = (UNCOMPRESSED, STORED, PICTURE)
BODIES = (Body.MULTIPART, Body.SINGLE)


@pytest.mark.parametrize(
    ("accept", "form", "body"),
    [
        ("*/*", UNCOMPRESSED, Body.MULTIPART),
        ("*", UNCOMPRESSED, Body.MULTIPART),
        ("multipart/related", UNCOMPRESSED, Body.MULTIPART),
        ("multipart/*", UNCOMPRESSED, Body.MULTIPART),
        ("application/*", UNCOMPRESSED, Body.SINGLE),
        ('multipart/related; type="application/octet-stream"', UNCOMPRESSED, Body.MULTIPART),
        ("multipart/related;type=image/jls", PICTURE, Body.MULTIPART),
        ("Multipart/Related; Type=Image/JLS; transfer-syntax=*", PICTURE, Body.MULTIPART),
        ("application/octet-stream;transfer-syntax=*", STORED, Body.SINGLE),
        (f"application/octet-stream;transfer-syntax={JPEG_LS}", STORED, Body.SINGLE),
        (f"application/octet-stream;transfer-syntax={EXPLICIT}", UNCOMPRESSED, Body.SINGLE),
        ("text/html, image/jls;q=0.5, */*;q=0.1", PICTURE, Body.SINGLE),
        ("*/*;q=0.1, image/jls", PICTURE, Body.SINGLE),
        ("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", UNCOMPRESSED, Body.MULTIPART),
        ("image/jls;q=0, */*", UNCOMPRESSED, Body.MULTIPART),
        ("application/octet-stream;q=0, image/*", None, None),
        ("application/octet-stream;q=0, */*", None, None),
        ("image/png", None, None),
        ("application/octet-stream;transfer-syntax=1.2.840.10008.1.2.2", None, None),
    ],
)
def test_what_a_client_prefers_is_chosen(accept, form, body):
    assert choose(accepted(accept), FORMS, BODIES) == (form and Chosen(form, body))


def test_a_body_that_the_resource_cannot_have_is_passed_over():
    accept = "image/jls, multipart/related; type=image/jls; q=0.1"
    assert choose(accepted(accept), FORMS, [Body.MULTIPART]) == Chosen(PICTURE, Body.MULTIPART)


def test_a_form_may_have_bodies_of_its_own():
    forms = [Form("a/json", default=True, bodies=(Body.SINGLE,)), Form("a/xml")]
    for accept, expected in (
        ("*/*", Chosen(forms[0], Body.SINGLE)),
        ("multipart/related; type=a/xml, */*; q=0.1", Chosen(forms[1], Body.MULTIPART)),
        ("a/xml, a/json; q=0.1", Chosen(forms[0], Body.SINGLE)),
        ("multipart/related; type=a/json", None),
    ):
        assert choose(accepted(accept), forms, [Body.MULTIPART]) == expected


def test_a_plus_that_a_query_has_lost_is_put_back():
    (one,) = accepted("application/dicom json")
    assert one.media_type == "application/dicom+json"


@pytest.mark.parametrize(
    "accept", ["x" * 5000, "png", "image/png;q=2", "image/png;q", 'a/b;c="', "a/b c/d;", "/"]
)
def test_what_is_no_media_type_is_refused(accept):
    with pytest.raises(MalformedAcceptError):
        accepted(accept)


TOKENS = st.text("abcdefghijklmnopqrstuvwxyz0123456789.+-", min_size=1, max_size=12)
MEDIA_TYPES = st.builds("{}/{}".format, TOKENS, TOKENS).filter(
    lambda one: not one.startswith("multipart/")
)
SYNTAXES = st.sampled_from(["", "*", EXPLICIT, JPEG_LS])
QUALITIES = st.integers(0, 1000).map(lambda one: one / 1000)


@given(st.lists(st.tuples(MEDIA_TYPES, SYNTAXES, QUALITIES, st.booleans()), min_size=1, max_size=9))
def test_what_was_written_is_read(ranges):
    written, expected = [], []
    for media_type, syntax, quality, multipart in ranges:
        said = f'multipart/related; type="{media_type}"' if multipart else media_type
        if syntax:
            said += f"; transfer-syntax={syntax}"
        written.append(f"{said};q={quality:.3f}")
        expected.append((media_type, syntax, quality))
    got = [
        (one.media_type, one.transfer_syntax, one.quality) for one in accepted(", ".join(written))
    ]
    assert got == sorted(expected, key=lambda one: -one[2])


@given(st.text(max_size=200) | st.text('abc/*;=,"\\ q01.+', max_size=60))
def test_whatever_is_written_is_read_or_refused(text):
    try:
        ranges = accepted(text)
    except MalformedAcceptError:
        return
    for one in ranges:
        assert 0 <= one.quality <= 1
    chosen = choose(ranges, FORMS, BODIES)
    assert chosen is None or chosen.form in FORMS
