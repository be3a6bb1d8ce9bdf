"""`overread deliveries` and `overread retry`: what has not arrived, and having it tried again."""

import sys
from datetime import datetime
from typing import Any

import orjson
from rich.table import Table
from rich.text import Text

from node.catalogue import Catalogue
from node.command_line import console, fail
from node.replay import outages, replay, unsettled
from node.run_folder import RunFolder
from node.settings import Settings
from node.tables import Delivery, DeliveryState


def show_deliveries(settings: Settings, peer: str | None, *, as_json: bool) -> None:
    """Print what waits and what was given up, of all peers or of one."""
    _check_peer(settings, peer)
    catalogue = Catalogue(settings.database_url)
    found = unsettled(catalogue, peer)
    away = [one for one in outages(catalogue) if peer in (None, one.peer)]
    if as_json:
        said = {
            "deliveries": [_as_dict(delivery, study) for delivery, study in found],
            "peers_away": [
                {"peer": one.peer, "since": one.since, "error": one.error, "remedy": one.remedy}
                for one in away
            ],
        }
        sys.stdout.buffer.write(orjson.dumps(said) + b"\n")
        return
    for one in away:
        console.print(f"[red]away[/] {one.peer} since {_clock(one.since)}: {one.error}")
        console.print(f"     -> {one.remedy}")
    console.print(_as_table(found) if found else "Every peer has what it should have.")


def retry_deliveries(
    settings: Settings, study: str | None, peer: str | None, *, all_deliveries: bool, again: bool
) -> None:
    """Make deliveries due, of a study, to a peer, or all; have a study looked at again."""
    _check_peer(settings, peer)
    if study is None and peer is None and not all_deliveries:
        fail("retry what? give a Study Instance UID, --peer NAME, or --all")
    if again and study is None and peer is None:
        fail("--again sends everything anew: say of which study, or to which --peer")
    catalogue = Catalogue(settings.database_url)
    if study is not None and peer is None:
        _look_again(settings, catalogue, study)
    count = replay(catalogue, study=study, peer=peer, again=again)
    what = "1 delivery is" if count == 1 else f"{count} deliveries are"
    console.print(f"{what} due now; the node takes it up within seconds: 'overread deliveries'.")


def _look_again(settings: Settings, catalogue: Catalogue, study: str) -> None:
    """Have failed runs start anew, and routes that were added since heeded."""
    try:
        failed = catalogue.retry(study)
    except KeyError as error:
        fail(f"{error.args[0]}; see 'overread status'")
    for run in failed:
        if not any(delivery.objects for delivery in run.deliveries):
            RunFolder(settings.runs_dir / run.id).clear()  # so that it is assessed anew


def _check_peer(settings: Settings, peer: str | None) -> None:
    try:
        if peer is not None:
            settings.peer(peer)
    except KeyError as error:
        fail(str(error.args[0]))


def _as_dict(delivery: Delivery, study: str) -> dict[str, Any]:
    return {
        "study": study,
        "run": delivery.run_id,
        "peer": delivery.peer,
        "state": delivery.state.value,
        "attempts": delivery.attempts,
        "opened_at": delivery.opened_at,
        "next_attempt_at": _next(delivery),
        "error": delivery.error,
        "remedy": delivery.remedy,
    }


def _next(delivery: Delivery) -> datetime | None:
    return None if delivery.state is DeliveryState.GIVEN_UP else delivery.next_attempt_at


def _as_table(found: list[tuple[Delivery, str]]) -> Table:
    table = Table(title="Not there yet, by peer, the oldest first", expand=True)
    for column in ("state", "peer", "study", "why, and what to do"):
        table.add_column(column, overflow="fold")
    for delivery, study in found:
        given_up = delivery.state is DeliveryState.GIVEN_UP
        state = Text(delivery.state.value, style="bold red" if given_up else "")
        when = f"\nsince {_clock(delivery.opened_at)}, {delivery.attempts} attempts"
        state.append(when, style="dim")
        why = Text(delivery.error, style="red")
        if delivery.remedy:
            why.append(f"\n-> {delivery.remedy}", style="bold")
        if not given_up:
            why.append(f"\nnext at {_clock(delivery.next_attempt_at)}", style="dim")
        table.add_row(state, delivery.peer, study, why)
    return table


def _clock(at: datetime) -> str:
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S}"
