"""Configurations and free ports for nodes under test."""

import random
import socket

_RANGE = (10_000, 32_000)
_draw = random.SystemRandom()
_given = set()


def free_ports(count):
    """Ports that nobody listens on, none of them given before.

    They are below those that the system gives to clients: a client could take one while the server
    that it is meant for restarts.
    """
    ports = []
    while len(ports) < count:
        port = _draw.randrange(*_RANGE)
        if port not in _given and _is_free(port):
            _given.add(port)
            ports.append(port)
    return ports


def _is_free(port):
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def write_config(
    folder, *, pacs_port=None, ae_title="PACS", rule='Modality == "CT"', extra="", **node
):
    """An `overread.toml` in `folder`, for a node there; `node` has keys of its section."""
    listen, web, pacs = free_ports(3)
    node = {
        "ae_title": "OVERREAD",
        "host": "127.0.0.1",
        "port": listen,
        "state_dir": str(folder / "state"),
        "quiet_seconds": 1.5,
        "min_free_gb": 0.1,
        **node,
    }
    (folder / "state").mkdir(exist_ok=True)
    lines = [f"{key} = {_toml(value)}" for key, value in node.items()]
    text = "\n".join(
        [
            "[node]",
            *lines,
            "[web]",
            f"port = {web}",
            "[delivery]",
            "first_retry_seconds = 0.5",
            "longest_retry_seconds = 2",
            "[[peers]]",
            'name = "pacs"',
            f'ae_title = "{ae_title}"',
            'host = "127.0.0.1"',
            f"port = {pacs_port or pacs}",
            "[[routes]]",
            'name = "head"',
            f"when = '{rule}'",
            'model = "builtin/head_ct"',
            'results_to = ["pacs"]',
        ]
    )
    path = folder / "overread.toml"
    path.write_text(text)
    return path


def _toml(value):
    return str(value).lower() if isinstance(value, (bool, int, float)) else f'"{value}"'
