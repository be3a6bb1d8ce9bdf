"""What is answered to a STOW-RS request: status and Store Instances Response Module.

PS3.18 Section 10.5.3 and Annex I.
"""

from collections.abc import Sequence
from typing import Any

import orjson
from starlette.responses import Response

from node.dicomweb.answers import DICOM_JSON, DICOM_XML, HEADERS, RETRY_SECONDS
from node.dicomweb.media_types import Form
from node.dicomweb.native_xml import xml_of
from node.dicomweb.upload import Outcome
from node.intake import OUT_OF_RESOURCES, SUCCESS
from node.spool import InstanceKey

FORMS = (Form(DICOM_JSON, default=True), Form("application/json"), Form(DICOM_XML))

_RETRIEVE_URL = "00081190"
_REFERENCED_SOP_CLASS_UID = "00081150"
_REFERENCED_SOP_INSTANCE_UID = "00081155"
_WARNING_REASON = "00081196"
_FAILURE_REASON = "00081197"
_FAILED_SOP_SEQUENCE = "00081198"
_REFERENCED_SOP_SEQUENCE = "00081199"
_OTHER_FAILURES_SEQUENCE = "0008119A"

Item = dict[str, dict[str, Any]]


def store_response(outcomes: Sequence[Outcome], base_url: str, form: Form) -> Response:
    """Return the answer to a request whose parts had these outcomes."""
    status = _status(outcomes)
    module = _module(outcomes, base_url)
    return Response(
        xml_of(module) if form.media_type == DICOM_XML else orjson.dumps(module),
        status_code=status,
        media_type=form.media_type,
        headers={**HEADERS, **({"Retry-After": RETRY_SECONDS} if status == 503 else {})},
    )


def _status(outcomes: Sequence[Outcome]) -> int:
    found = {one.answer.status for one in outcomes}
    if found == {SUCCESS}:
        return 200
    if any(one.answer.key is not None for one in outcomes):
        return 202
    return 503 if found == {OUT_OF_RESOURCES} else 409


def _module(outcomes: Sequence[Outcome], base_url: str) -> Item:
    stored = [
        _referenced(one, base_url, one.answer.key) for one in outcomes if one.answer.key is not None
    ]
    failed = [one for one in outcomes if one.answer.key is None]
    known = [_failed(one) for one in failed if one.sop_class_uid and one.instance_uid]
    others = [_reason(one) for one in failed if not (one.sop_class_uid and one.instance_uid)]
    studies = {one.answer.key.study for one in outcomes if one.answer.key is not None}
    module: Item = {_RETRIEVE_URL: {"vr": "UR"}}
    if len(studies) == 1:
        module[_RETRIEVE_URL]["Value"] = [f"{base_url}/studies/{studies.pop()}"]
    for tag, items in (
        (_FAILED_SOP_SEQUENCE, known),
        (_REFERENCED_SOP_SEQUENCE, stored),
        (_OTHER_FAILURES_SEQUENCE, others),
    ):
        if items:
            module[tag] = {"vr": "SQ", "Value": items}
    return module


def _referenced(one: Outcome, base_url: str, key: InstanceKey) -> Item:
    url = f"{base_url}/studies/{key.study}/series/{key.series}/instances/{key.instance}"
    item = {**_identity(one), _RETRIEVE_URL: {"vr": "UR", "Value": [url]}}
    if one.answer.status != SUCCESS:
        item[_WARNING_REASON] = {"vr": "US", "Value": [one.answer.status]}
    return item


def _failed(one: Outcome) -> Item:
    return {**_identity(one), **_reason(one)}


def _reason(one: Outcome) -> Item:
    return {_FAILURE_REASON: {"vr": "US", "Value": [one.answer.status]}}


def _identity(one: Outcome) -> Item:
    return {
        _REFERENCED_SOP_CLASS_UID: {"vr": "UI", "Value": [one.sop_class_uid]},
        _REFERENCED_SOP_INSTANCE_UID: {"vr": "UI", "Value": [one.instance_uid]},
    }
