"""Process 1 of a host: makes the host out of its new namespaces, says "up", and lives until the host is killed.

The keeper starts it (cluster/hosts/keeper.py), lays its network cable, and then writes what the host is to be."""

import json
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from cluster.hosts.namespaces import BIND, HIDDEN_FOLDERS, PRIVATE, RECURSIVE, mount, unmount
from cluster.hosts.network import run

_SIZE = "size=25%"  # of the machine's memory, for each: taken only as it fills
_BACKSTAGE = Path("/mnt")  # covered while the file of names is made


def main() -> None:
    """The settings end with the end of stdin: by then the cable lies."""
    settings = json.load(sys.stdin)
    socket.sethostname(settings["name"])
    mount("none", Path("/"), flags=RECURSIVE | PRIVATE)  # nothing mounted here reaches the machine
    give_private_folders([Path(word) for word in settings["visible"]])
    mount("proc", Path("/proc"), "proc")
    give_names(settings["names"])
    run("ip", "link", "set", "lo", "up")
    run("ip", "address", "add", f"{settings['names'][settings['name']]}/24", "dev", "eth0")
    run("ip", "link", "set", "eth0", "up")
    sys.stdout.write("up\n")
    sys.stdout.flush()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # orphans of the host are ours, and are forgotten as they end
    while True:
        signal.pause()


def give_private_folders(visible: Sequence[Path]) -> None:
    """Empty /tmp and /dev/shm, except for the paths that must be seen at their usual place."""
    with held(visible) as handles:
        for folder in HIDDEN_FOLDERS:
            mount("tmpfs", folder, "tmpfs", data=f"mode=1777,{_SIZE}")
        for path, handle in handles.items():
            path.mkdir(parents=True, exist_ok=True)
            mount(f"/proc/self/fd/{handle}", path, flags=BIND | RECURSIVE)


@contextmanager
def held(folders: Sequence[Path]) -> Iterator[Mapping[Path, int]]:
    """Open, so that they can be reached when something has been mounted over them."""
    handles = {folder: os.open(folder, os.O_PATH | os.O_DIRECTORY) for folder in folders}
    try:
        yield handles
    finally:
        for handle in handles.values():
            os.close(handle)


def give_names(names: Mapping[str, str]) -> None:
    """An /etc/hosts of the host's own; its memory is freed with the host."""
    mount("tmpfs", _BACKSTAGE, "tmpfs", data="size=64k")
    file = _BACKSTAGE / "hosts"
    file.write_text("127.0.0.1 localhost\n::1 localhost\n" + "".join(f"{a} {name}\n" for name, a in names.items()))
    mount(str(file), Path("/etc/hosts"), flags=BIND)
    unmount(_BACKSTAGE)


if __name__ == "__main__":
    main()
