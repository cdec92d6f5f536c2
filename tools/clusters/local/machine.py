"""The machine that the cluster runs on: a network namespace and a mount namespace, held open by one process.

When the last process in them exits, the kernel removes both with all links, rules and mounts. The directories that
Kubernetes programs write to are bind-mounted inside, so those of this machine are not touched.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from tools.clusters.base import ProviderFailed
from tools.clusters.local import cgroups
from tools.clusters.local.layout import API_PORT, HOST_ADDRESS, LINK_BITS, LOGS, NAME, NODE_ADDRESS, RUN

_HOLDER = RUN / "pids" / "machine"
_PRIVATE_FOLDERS = ("/var/lib/kubelet", "/var/lib/cni", "/var/log/pods", "/var/log/containers")
_KERNEL_SETTINGS = {
    "/proc/sys/kernel/panic": "10",
    "/proc/sys/kernel/panic_on_oops": "1",
    "/proc/sys/vm/overcommit_memory": "1",
    "/proc/sys/vm/panic_on_oom": "0",
    "/proc/sys/kernel/keys/root_maxkeys": "1000000",
    "/proc/sys/kernel/keys/root_maxbytes": "25000000",
}
"""Global settings that the kubelet would change (cm/container_manager_linux.go): it gets files instead."""


def start(lock: int) -> None:
    """Start the machine with a network to this machine only. lock: a file descriptor that it keeps open."""
    cgroups.make()
    _hold_namespaces(lock)
    for folder in _PRIVATE_FOLDERS:
        _mount_over(Path(folder))
    for number, (setting, value) in enumerate(_KERNEL_SETTINGS.items()):
        _show(Path(setting), value, RUN / "settings" / str(number))
    run(["mount", "-t", "tmpfs", "tmpfs", "/run"])
    _connect()


def inside(command: list[str]) -> list[str]:
    """Return the command wrapped to run inside the machine and its control group."""
    return cgroups.joining(["nsenter", "--target", str(_holder()), "--net", "--mount", "--", *command])


def run(command: list[str]) -> str:
    """Run a command in the machine and return its output. Raises ProviderFailed."""
    return _checked(inside(command))


def _holder() -> int:
    try:
        return int(_HOLDER.read_text())
    except FileNotFoundError as problem:
        raise ProviderFailed(
            "the local cluster is not running: start it with 'python -m tools.clusters.local up'"
        ) from problem


def _hold_namespaces(lock: int) -> None:
    holding = ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", "echo held; exec sleep infinity"]
    # The process outlives this one, so it must not inherit a pipe that a caller may be reading to its end.
    with (LOGS / "machine.log").open("ab") as log:
        process = subprocess.Popen(
            cgroups.joining(holding),
            stdout=subprocess.PIPE,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=(lock,),
        )
    assert process.stdout is not None
    # The line confirms that the namespaces exist; entering them earlier would fail.
    if process.stdout.readline() != b"held\n":
        raise ProviderFailed("cannot create namespaces on this machine: run 'unshare --net --mount' to see why")
    process.stdout.close()
    _HOLDER.parent.mkdir(parents=True, exist_ok=True)
    _HOLDER.write_text(str(process.pid))


def _mount_over(folder: Path) -> None:
    own = RUN / "folders" / folder.relative_to("/")
    for made in (own, folder):
        made.mkdir(parents=True, exist_ok=True)
    run(["mount", "--bind", str(own), str(folder)])
    # Volumes that the kubelet mounts there must propagate into containers.
    run(["mount", "--make-rshared", str(folder)])


def _show(setting: Path, value: str, instead: Path) -> None:
    if setting.exists():
        instead.parent.mkdir(parents=True, exist_ok=True)
        instead.write_text(value)
        run(["mount", "--bind", str(instead), str(setting)])


def _connect() -> None:
    """Create the link to this machine. Without a default route, only pods, Services and this machine are reachable."""
    _checked(["ip", "link", "add", NAME, "type", "veth", "peer", "name", "node", "netns", str(_holder())])
    _checked(["ip", "address", "add", f"{HOST_ADDRESS}/{LINK_BITS}", "dev", NAME])
    _checked(["ip", "link", "set", NAME, "up"])
    run(["ip", "address", "add", f"{NODE_ADDRESS}/{LINK_BITS}", "dev", "node"])
    run(["ip", "link", "set", "node", "up"])
    run(["ip", "link", "set", "lo", "up"])
    run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])
    # This machine would send replies to pods through its own default route.
    run(["iptables", "-A", "FORWARD", "-d", HOST_ADDRESS, "-j", "REJECT"])
    # The kubelet accepts anonymous requests, so block users of this machine, ahead of kube-proxy's rules.
    from_here = ["iptables", "--table", "mangle", "-A", "PREROUTING", "--in-interface", "node"]
    run([*from_here, "--protocol", "tcp", "--dport", API_PORT, "-j", "ACCEPT"])
    run([*from_here, "-j", "DROP"])


def _checked(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ProviderFailed(f"'{' '.join(command[-8:])}' failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
