"""WADO-RS: instances, their metadata and their bulk data (PS3.18 Section 10.4)."""

import re
from collections.abc import Callable, Iterator, Sequence

import orjson
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRLittleEndian
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from node.codecs import Codecs
from node.dicomweb.answers import DICOM_JSON, DICOM_XML
from node.dicomweb.dicom_json import Attributes, binary_of, json_of
from node.dicomweb.images import (
    CHUNK,
    NoSuchFrameError,
    NotAnImageError,
    can_decode,
    image_of,
)
from node.dicomweb.instance_files import (
    NotConvertibleError,
    as_stored,
    explicit_little_endian,
    parsed,
)
from node.dicomweb.media_types import Body, Chosen, Form
from node.dicomweb.multipart_body import MultipartBody, Part
from node.dicomweb.native_xml import xml_of
from node.dicomweb.resources import (
    Acceptable,
    acceptable,
    held_instances,
    in_parts,
    instance_url,
    streamed,
)
from node.dicomweb.settings import DicomwebSettings
from node.dicomweb.urls import base_url
from node.holdings import HeldInstance, Holdings
from node.instances import Instance, UnreadableInstanceError, read_instance
from node.sequence_items import items_of

INSTANCE_PATH = "/studies/{study}/series/{series}/instances/{instance}"
LEVEL_PATHS = ("/studies/{study}", "/studies/{study}/series/{series}", INSTANCE_PATH)
DICOM = "application/dicom"
OCTETS = "application/octet-stream"
METADATA_FORMS = (
    Form(DICOM_JSON, default=True, bodies=(Body.SINGLE,)),
    Form("application/json", bodies=(Body.SINGLE,)),
    Form(DICOM_XML),
)
BULK_FORMS = (Form(OCTETS, stored=True, default=True),)

PIXEL_TAGS = {0x7FE00010: "OW", 0x7FE00008: "OF", 0x7FE00009: "OD"}
_BULK_PATH = re.compile(r"[0-9A-Fa-f]{8}(/[1-9][0-9]{0,5}/[0-9A-Fa-f]{8}){0,16}")
_JSON_BATCH = 2**17

Endpoint = Callable[[Request], Response]


class Retrieve:
    """The endpoints; plain functions run in threads, so files may block them."""

    def __init__(self, holdings: Holdings, codecs: Codecs, dicomweb: DicomwebSettings) -> None:
        self._holdings = holdings
        self._codecs = codecs
        self._dicomweb = dicomweb

    def instances(self, request: Request) -> Response:
        """Answer a study, a series or an instance as Part 10 files."""
        accepts = acceptable(request)
        held = held_instances(request, self._holdings)
        bodies = [Body.MULTIPART]
        if "instance" in request.path_params:
            bodies.append(Body.SINGLE)
        chosen = _chosen(accepts, held, bodies)
        first = chosen[held[0].transfer_syntax]
        if first.body is Body.SINGLE:
            return streamed(self._file(held[0], first.form), first.form.content_type)
        base = base_url(request, self._dicomweb)
        parts = (
            Part(form.content_type, instance_url(base, one.key), self._file(one, form))
            for one in held
            for form in (chosen[one.transfer_syntax].form,)
        )
        return in_parts(MultipartBody(DICOM, parts))

    def _file(self, held: HeldInstance, form: Form) -> Iterator[bytes]:
        if form.stored:
            return as_stored(held.path)
        return explicit_little_endian(held.path, self._codecs)

    def metadata(self, request: Request) -> Response:
        """Answer the attributes of a study's, a series' or one instance, large values by URL."""
        bodies = [Body.MULTIPART]
        if "instance" in request.path_params:
            bodies.append(Body.SINGLE)
        chosen = acceptable(request).choose(METADATA_FORMS, bodies)
        held = held_instances(request, self._holdings)
        base = base_url(request, self._dicomweb)
        if chosen.form.media_type != DICOM_XML:
            return streamed(_json_array(held, base), chosen.form.media_type)
        documents = (xml_of(_metadata(one, base)) for one in held)
        if chosen.body is Body.SINGLE:
            return streamed(documents, DICOM_XML)
        return in_parts(MultipartBody(DICOM_XML, (Part(DICOM_XML, "", [one]) for one in documents)))

    def bulk_data(self, request: Request) -> Response:
        """Answer one value, of an attribute of the instance or of an item in it."""
        chosen = acceptable(request).choose(BULK_FORMS, [Body.MULTIPART, Body.SINGLE])
        if not _BULK_PATH.fullmatch(request.path_params["path"]):
            raise HTTPException(400, "This is no path of a value: use the BulkDataURI of metadata.")
        steps = request.path_params["path"].split("/")
        (held,) = held_instances(request, self._holdings)
        content = self._value(held, steps)
        if chosen.body is Body.SINGLE:
            return streamed(content, OCTETS)
        base = base_url(request, self._dicomweb)
        url = f"{instance_url(base, held.key)}/bulkdata/{'/'.join(steps)}"
        return in_parts(MultipartBody(OCTETS, [Part(OCTETS, url, content)]))

    def _value(self, held: HeldInstance, steps: Sequence[str]) -> Iterator[bytes]:
        instance = read_instance(held.path)
        tag = BaseTag(int(steps[0], 16))
        if tag == 0x7FE00010 and instance.pixel_bytes_available:
            return image_of(instance).all_uncompressed(self._codecs)
        dataset = parsed(held.path, [tag]) if tag in PIXEL_TAGS else instance.header
        for number, below in zip(steps[1::2], steps[2::2], strict=True):
            items = items_of(dataset, tag)
            if int(number) > len(items):
                raise HTTPException(404, "The instance has no such item.")
            dataset, tag = items[int(number) - 1], BaseTag(int(below, 16))
        content = binary_of(dataset, tag)
        if content is None:
            raise HTTPException(404, "The instance has no such value of bytes.")
        return (content[at : at + CHUNK] for at in range(0, len(content), CHUNK))


def retrieve_routes(retrieve: Retrieve) -> list[BaseRoute]:
    """Return the routes of instances, metadata and bulk data."""
    routes: list[BaseRoute] = []
    for path in LEVEL_PATHS:
        routes.append(Route(path, told(retrieve.instances)))
        routes.append(Route(f"{path}/metadata", told(retrieve.metadata)))
    routes.append(Route(INSTANCE_PATH + "/bulkdata/{path:path}", told(retrieve.bulk_data)))
    return routes


def told(endpoint: Endpoint) -> Endpoint:
    """Return the endpoint with what can be wrong with an instance told to the client."""

    def answer(request: Request) -> Response:
        try:
            return endpoint(request)
        except NoSuchFrameError as error:
            raise HTTPException(404, f"The instance cannot be answered: {error}.") from None
        except (NotAnImageError, NotConvertibleError) as error:
            raise HTTPException(
                406,
                f"The instance cannot be answered like this: {error}. Ask for it as it is stored, "
                f'with Accept: multipart/related; type="{DICOM}"; transfer-syntax=*.',
            ) from None
        except UnreadableInstanceError as error:
            raise HTTPException(406, error.reason.en) from None
        except FileNotFoundError:
            raise HTTPException(404, "The instance is past retention.") from None

    return answer


def _chosen(
    accepts: Acceptable, held: Sequence[HeldInstance], bodies: Sequence[Body]
) -> dict[str, Chosen]:
    """Return the choice for each transfer syntax that is among them."""
    return {
        syntax: accepts.choose(_forms(syntax), bodies)
        for syntax in {one.transfer_syntax for one in held}
    }


def _forms(syntax: str) -> list[Form]:
    """Return what an instance stored in this transfer syntax can be answered as."""
    if syntax == ExplicitVRLittleEndian:
        return [Form(DICOM, syntax, stored=True, default=True)]
    stored = Form(DICOM, syntax, stored=True, plain=False)
    if not can_decode(syntax):
        return [stored]
    return [Form(DICOM, ExplicitVRLittleEndian, default=True), stored]


def _json_array(held: Sequence[HeldInstance], base: str) -> Iterator[bytes]:
    batch = bytearray(b"[")
    for number, one in enumerate(held):
        if number:
            batch += b","
        batch += orjson.dumps(_metadata(one, base))
        if len(batch) >= _JSON_BATCH:
            yield bytes(batch)
            batch.clear()
    yield bytes(batch) + b"]"


def _metadata(held: HeldInstance, base: str) -> Attributes:
    instance = read_instance(held.path)
    bulk_data = f"{instance_url(base, held.key)}/bulkdata"
    made = json_of(instance.header, bulk_data)
    for tag, vr in _pixel_values(instance):
        made[f"{tag:08X}"] = {"vr": vr, "BulkDataURI": f"{bulk_data}/{tag:08X}"}
    return made


def _pixel_values(instance: Instance) -> list[tuple[int, str]]:
    """Return which pixel data the instance has; read_instance places those of integers only."""
    if instance.pixel_bytes_available:
        return [(0x7FE00010, instance.pixel_vr or "OW")]
    if "Rows" not in instance.header:
        return []
    found = parsed(instance.path, list(PIXEL_TAGS))
    return [(tag, vr) for tag, vr in PIXEL_TAGS.items() if tag in found]
