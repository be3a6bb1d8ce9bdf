"""Opening the node's database: SQLite or PostgreSQL, tables made once, their version checked."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, select
from sqlalchemy.schema import CreateIndex, CreateTable

from node.tables import SCHEMA, Schema, Table

_TABLES_LOCK = 0x0F3EAD  # PostgreSQL advisory lock: one process makes the tables


class SchemaError(Exception):
    """The database holds tables of another version of Overread."""


def open_database(url: str) -> Engine:
    """Connect and make the tables; SchemaError where there are those of another version."""
    engine = create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
    with engine.begin() as connection:
        found = _version(connection) or _make_tables(connection)
    if found != SCHEMA:
        raise SchemaError(
            f"the database holds tables of version {found}, this Overread needs {SCHEMA}: "
            "let the studies in flight finish, stop the node, give it a new database; what "
            "lies in the spool is listed again at the start"
        )
    return engine


def _version(connection: Connection) -> int | None:
    """The version of the tables; None where they are not all there."""
    if not inspect(connection).has_table(Schema.__tablename__):
        return None
    return connection.scalar(select(Schema.version))


def _make_tables(connection: Connection) -> int | None:
    """Make what is missing, the version last; other roles may be doing the same."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_TABLES_LOCK})")
        if (found := _version(connection)) is not None:
            # To look whether an index is there locks its table, which others write to by now.
            return found
    for table in Table.metadata.sorted_tables:
        connection.execute(CreateTable(table, if_not_exists=True))
        for index in table.indexes:
            connection.execute(CreateIndex(index, if_not_exists=True))
    row = {"id": 1, "version": SCHEMA}
    connection.execute(insert_into(connection, Schema, [row]).on_conflict_do_nothing())
    return _version(connection)


def insert_into(
    engine: Engine | Connection, table: type[Table], rows: Sequence[dict[str, Any]]
) -> Any:
    """INSERT of rows, or of those it is executed with, that can be told what to do about others."""
    # It is loaded already; to import both would load PostgreSQL's for each node on SQLite.
    dialect = import_module(f"sqlalchemy.dialects.{engine.dialect.name}")
    statement = dialect.insert(table)
    return statement.values(list(rows)) if rows else statement


def _configure_sqlite(connection: Any, _record: object) -> None:
    """Readers beside a writer, and a commit that survives a power cut."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout=30000")  # before WAL: switching modes needs the lock
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()
