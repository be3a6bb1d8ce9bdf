"""The section [dicomweb] of the configuration: where DICOMweb is served, and to whom."""

import re
from enum import StrEnum
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from node.section import Port, Section, is_loopback

_DIGEST = re.compile(r"[0-9a-f]{64}")
_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")
_ORIGIN = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?")
_URL = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._~-]+)*")


class Permission(StrEnum):
    """What a client may do."""

    STORE = "store"  # STOW-RS
    READ = "read"  # QIDO-RS and WADO-RS


def _digest(value: str) -> str:
    if not _DIGEST.fullmatch(value):
        raise ValueError("this is no SHA-256 in hexadecimal; 'overread token' prints the line")
    return value


def _path(value: str) -> str:
    if not _PATH.fullmatch(value):
        raise ValueError("a path begins with / and does not end with it, such as /dicom-web")
    return value


def _url(value: str) -> str:
    if value and not _URL.fullmatch(value):
        raise ValueError("use https://NAME/PATH, without / at the end and without a query")
    return value


def _origin(value: str) -> str:
    if not _ORIGIN.fullmatch(value):
        raise ValueError(
            "an origin is https://NAME or https://NAME:PORT, in lower case, and no more"
        )
    return value


class DicomwebClient(Section):
    """Somebody who holds a bearer token (RFC 6750)."""

    # The name is the source AE title of what the client stores, which has 16 characters at most.
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,15}$")]
    token_sha256: Annotated[str, AfterValidator(_digest)]
    may: tuple[Permission, ...] = Field(min_length=1)


class DicomwebSettings(Section):
    """The DICOMweb server; it runs where there is a section for it."""

    host: str = "127.0.0.1"
    port: Port = 8042
    path: Annotated[str, AfterValidator(_path)] = "/dicom-web"
    tls: bool = False
    url: Annotated[str, AfterValidator(_url)] = ""
    origins: tuple[Annotated[str, AfterValidator(_origin)], ...] = ()
    max_requests: int = Field(default=64, ge=1, le=1000)
    clients: tuple[DicomwebClient, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _private(self) -> Self:
        if not self.tls and not is_loopback(self.host):
            raise ValueError(
                "without tls = true tokens could be read on the way: use 127.0.0.1 or ::1, "
                "with a reverse proxy on this machine"
            )
        return self

    @model_validator(mode="after")
    def _told_apart(self) -> Self:
        for what, values in (
            ("name", [client.name for client in self.clients]),
            ("token_sha256", [client.token_sha256 for client in self.clients]),
        ):
            for client, value in zip(self.clients, values, strict=True):
                if values.count(value) > 1:
                    raise ValueError(
                        f"the {what} of client '{client.name}' is used twice; "
                        "give each client its own"
                    )
        return self
