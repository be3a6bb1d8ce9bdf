"""The status pages: worklist, study view, health; for anyone who sits at the node.

There is no login, so the pages are for this machine only: settings allow loopback addresses, and a
request whose Host header names anything else is refused, which a rebound DNS name cannot avoid.
"""

import re
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson
import structlog
import uvicorn
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import ValidationError
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inference.assessment import AssessmentRecord, Text
from node.catalogue import Catalogue
from node.run_folder import RunFolder
from node.settings import Settings
from node.spool import Spool
from node.status import RunRow, StudyRow, study_rows
from node.tables import Run
from sr_writer.report import report_text
from sr_writer.wording import DEMONSTRATION, UNVERIFIED

log = structlog.get_logger()

LOOPBACK_NAMES = ["localhost", "127.0.0.1", "[::1]"]
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",  # pictures of patients must not stay in a browser's cache
}
RECENT = timedelta(hours=24)
"""How long a run that ended badly keeps the banner red, unless its study is sent again."""

_RUN_ID = re.compile(r"[0-9a-f]{32}")
_MAIN_STEPS_FROM = "complete"  # what comes before is the sender's time and the quiet period
