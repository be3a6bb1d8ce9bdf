"""The whole configuration, loaded from one TOML file; every mistake is named with key and remedy.

Environment variables override the file for what should not lie in it, such as a database password:
`OVERREAD_NODE__DATABASE_URL=postgresql://...` (prefix `OVERREAD_`, two underscores between keys).
"""

import ipaddress
import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from inference.providers import Limits, OnMissing, Provider, SessionSettings
from node.assembly_settings import AssemblySettings
from node.dicomweb.settings import DicomwebSettings
from node.mistakes import sentence_of
from node.rules import STACK_VARIABLES, check_expression
from node.section import Name, Port, Section, is_loopback
from sr_writer.kinds import Kind, SegmentationForm

MOST_ASSOCIATIONS = 1000
MOST_LISTENERS = 16
AE_TITLE_LENGTH = 16  # PS3.5 Section 6.2, VR AE
# PS3.5 6.2: default repertoire without backslash and control characters
AE_TITLE_CHARACTERS = re.compile(r"[ !-\[\]-~]+")


class SettingsError(Exception):
    """The configuration cannot be used; `mistakes` has a sentence for each reason."""

    def __init__(self, path: Path, mistakes: list[str]) -> None:
        super().__init__("\n".join(f"{path}: {mistake}" for mistake in mistakes))
        self.mistakes = mistakes


def _ae_title(value: str) -> str:
    stripped = value.strip()
    if not stripped or len(stripped) > AE_TITLE_LENGTH or not AE_TITLE_CHARACTERS.fullmatch(value):
        raise ValueError(
            "an AE title has 1 to 16 ASCII characters, no backslash; shorten or fix it"
        )
    return stripped


AETitle = Annotated[str, AfterValidator(_ae_title)]


class NodeSettings(Section):
    """Who the node is, and where it keeps what it was sent."""

    ae_title: AETitle = "OVERREAD"
    host: str = Field(default="0.0.0.0", description="address the DICOM listener binds to")  # noqa: S104  # a PACS is another machine
    port: Port = 11112
    state_dir: Path = Path("/var/lib/overread")
    database_url: str = Field(default="", description="empty: SQLite in state_dir")
    quiet_seconds: float = Field(default=30.0, gt=0, le=86400)
    min_free_gb: float = Field(default=5.0, ge=0)
    retention_days: float = Field(default=30.0, gt=0)
    accept_unknown_peers: bool = False
    max_associations: int = Field(default=100, ge=1, le=MOST_ASSOCIATIONS)
    listener_processes: int = Field(default=1, ge=1, le=MOST_LISTENERS)
    acse_timeout_seconds: float = Field(default=30.0, ge=1, le=3600)
    idle_timeout_seconds: float = Field(default=60.0, ge=1, le=86400)
    other_content: Literal["refuse", "warn"] = "refuse"
    upper_layer: Literal["waiting", "pynetdicom"] = "waiting"
    model_dirs: tuple[Path, ...] = ()

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: str) -> str:
        if value and not value.startswith(("sqlite:///", "postgresql://", "postgresql+psycopg://")):
            raise ValueError("use sqlite:///PATH or postgresql://USER@HOST/DATABASE")
        return value


class InferenceSettings(Section):
    """What runs the models, and what one assessment may take."""

    provider: Provider = "cpu"
    on_missing: OnMissing = "refuse"
    threads: int = Field(default=0, ge=0, description="0: one a core")
    timeout_seconds: float = Field(default=1800.0, gt=0, le=86400)
    memory_gb: float = Field(default=0.0, ge=0, description="0: no limit")

    @field_validator("memory_gb")
    @classmethod
    def _enough_to_start(cls, value: float) -> float:
        if 0 < value < 1:
            raise ValueError("no model starts with less than 1; use 0 for no limit")
        return value


class WebSettings(Section):
    """The status page; it has no login, so it stays on this machine."""

    host: str = "127.0.0.1"
    port: Port = 8080

    @field_validator("host")
    @classmethod
    def _loopback(cls, value: str) -> str:
        if not is_loopback(value):
            raise ValueError("the status page has no login yet: use 127.0.0.1 or ::1")
        return value


class TLSSettings(Section):
    """What the node shows of itself over TLS, and whose certificates it believes; PEM files."""

    port: Port = 2762  # PS3.8 Section 9.1.1
    certificate: Path
    key: Path
    authorities: Path


class Peer(Section):
    """An application entity that may send to us, and that results may go to."""

    name: Name
    ae_title: AETitle
    host: str = Field(min_length=1)
    port: Port
    addresses: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = Field(
        default=(), description="from which it may send; empty: from any"
    )
    query: bool = Field(
        default=False, description="whether it may ask what is held, and have it sent"
    )
    max_associations: int = Field(
        default=0, ge=0, le=MOST_ASSOCIATIONS, description="0: the node's limit"
    )
    max_mb_per_second: float = Field(
        default=0.0, ge=0, description="that it may send over all associations; 0: no limit"
    )
    tls: bool = Field(default=False, description="both ways, by TLS only")
    tls_name: str = Field(default="", description="that its certificate has to have")
    objects: tuple[Kind, ...] = Field(
        default=(Kind.SEGMENTATION, Kind.SECONDARY_CAPTURE, Kind.REPORT, Kind.TEXT_REPORT),
        min_length=1,
        description="what it is sent",
    )
    languages: tuple[Literal["en", "zh"], ...] = Field(
        default=("en", "zh"), min_length=1, description="of documents in one language"
    )
    charset: Literal["utf-8", "gb18030"] = "utf-8"
    deflated: bool = Field(default=True, description="whether masks go deflated where it can be")
    commitment: bool = Field(default=False, description="whether it is asked to commit results")

    @field_validator("max_mb_per_second")
    @classmethod
    def _keeps_associations_alive(cls, value: float) -> float:
        if 0 < value < 1:
            raise ValueError("slower than 1 associations would time out; use 0 for no limit")
        return value

    @field_validator("objects", "languages")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            if value.count(one) > 1:
                raise ValueError(f"'{one}' is there twice; name each once")
        return value


class Route(Section):
    """Which series go to which model, and where the results go."""

    name: Name
    when: str = Field(min_length=1)
    model: str = Field(min_length=1)
    stack: str = Field(default="", description="which of several images at each position")
    segmentation: SegmentationForm = SegmentationForm.BINARY
    results_to: tuple[str, ...] = Field(min_length=1)

    @field_validator("when")
    @classmethod
    def _valid_expression(cls, value: str) -> str:
        check_expression(value)
        return value

    @field_validator("stack")
    @classmethod
    def _valid_stack_rule(cls, value: str) -> str:
        if value:
            check_expression(value, STACK_VARIABLES)
        return value


class Delivery(Section):
    """How long a result is offered to a peer that does not take it."""

    first_retry_seconds: float = Field(default=15.0, gt=0)
    longest_retry_seconds: float = Field(default=900.0, gt=0)
    give_up_hours: float = Field(default=72.0, gt=0)
    commitment_hours: float = Field(default=12.0, gt=0, description="that a report may take")


class Settings(BaseSettings):
    """Everything an operator can set."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix="OVERREAD_", env_nested_delimiter="__"
    )

    node: NodeSettings = NodeSettings()
    assembly: AssemblySettings = AssemblySettings()
    inference: InferenceSettings = InferenceSettings()
    web: WebSettings = WebSettings()
    tls: TLSSettings | None = None
    dicomweb: DicomwebSettings | None = None
    delivery: Delivery = Delivery()
    peers: tuple[Peer, ...] = ()
    routes: tuple[Route, ...] = ()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over file: the file's content comes in as init arguments."""
        return (env_settings, init_settings)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [peer.name for peer in self.peers]
        for section, entries in (("peers", self.peers), ("routes", self.routes)):
            if not entries:
                raise ValueError(f"{section}: there are none; add a [[{section}]] section")
        for name in sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"peers: the name '{name}' is used twice; give each peer its own")
        routes = [route.name for route in self.routes]
        for name in sorted({name for name in routes if routes.count(name) > 1}):
            raise ValueError(f"routes: the name '{name}' is used twice; give each route its own")
        for route in self.routes:
            for destination in route.results_to:
                if destination not in names:
                    raise ValueError(
                        f"routes.{route.name}.results_to: no peer is named '{destination}'; "
                        f"peers are: {', '.join(names)}"
                    )
        return self

    @model_validator(mode="after")
    def _shares_its_port(self) -> Self:
        # Here and not in the section: of that, a mistake would show all values, a password too.
        if self.node.listener_processes > 1 and self.node.upper_layer == "pynetdicom":
            raise ValueError(
                "node.listener_processes: pynetdicom's own upper layer takes a port for itself; "
                "use one listener process"
            )
        return self

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        ports = {"node.port": self.node.port, "web.port": self.web.port}
        if self.tls is not None:
            ports["tls.port"] = self.tls.port
        if self.dicomweb is not None:
            ports["dicomweb.port"] = self.dicomweb.port
        for key, port in ports.items():
            other = next(one for one in ports if ports[one] == port)
            if other != key:
                raise ValueError(f"{key}: {port} is {other} already; give each its own")
        return self

    @model_validator(mode="after")
    def _secured(self) -> Self:
        for peer in self.peers:
            if (peer.tls or peer.tls_name) and self.tls is None:
                raise ValueError(f"peers.{peer.name}.tls: there is no [tls] section; add one")
            if peer.tls_name and not peer.tls:
                raise ValueError(f"peers.{peer.name}.tls_name: it does not speak TLS; set tls")
        if self.dicomweb is not None and self.dicomweb.tls and self.tls is None:
            raise ValueError("dicomweb.tls: there is no [tls] section; add one")
        return self

    @property
    def spool_dir(self) -> Path:
        """Where received instances lie."""
        return self.node.state_dir / "spool"

    @property
    def runs_dir(self) -> Path:
        """Where the assessments and the objects made of them lie, one folder a run."""
        return self.node.state_dir / "runs"

    @property
    def models_dir(self) -> Path:
        """Where `overread models add` puts bundles."""
        return self.node.state_dir / "models"

    @property
    def bundle_dirs(self) -> tuple[Path, ...]:
        """Folders in which a route's model is looked for."""
        return (self.models_dir, *self.node.model_dirs)

    @property
    def session(self) -> SessionSettings:
        """How graphs are run."""
        inference = self.inference
        return SessionSettings(
            provider=inference.provider,
            on_missing=inference.on_missing,
            threads=inference.threads,
            cache_dir=self.node.state_dir / "engines",
        )

    @property
    def limits(self) -> Limits:
        """What one assessment may take."""
        return Limits(self.inference.timeout_seconds, self.inference.memory_gb)

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the catalogue and the workflow's checkpoints."""
        url = self.node.database_url or f"sqlite:///{self.node.state_dir / 'overread.sqlite'}"
        return url.replace("postgresql://", "postgresql+psycopg://", 1)

    def peer(self, name: str) -> Peer:
        """Return the peer called `name`; KeyError names those there are."""
        for peer in self.peers:
            if peer.name == name:
                return peer
        raise KeyError(
            f"no peer is named '{name}'; peers are: {', '.join(p.name for p in self.peers)}"
        )

    def destinations(self, route: Route) -> tuple[Peer, ...]:
        """Return the peers that a route's results go to."""
        return tuple(self.peer(name) for name in route.results_to)

    def route(self, name: str) -> Route:
        """Return the route called `name`."""
        for route in self.routes:
            if route.name == name:
                return route
        raise KeyError(f"no route is named '{name}' any more; put it back, or drop the study")


def load_settings(path: Path) -> Settings:
    """Read and check the TOML file; raises SettingsError with every mistake in it."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(
            path, ["there is no such file; start from config/overread.toml"]
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(path, [f"cannot be read: {error}"]) from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(path, [f"is not valid TOML: {error}"]) from None
    try:
        return Settings(**content)
    except ValidationError as error:
        raise SettingsError(
            path, [sentence_of(detail, Settings) for detail in error.errors()]
        ) from None
