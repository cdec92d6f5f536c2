"""The machine that the cluster runs on: a network and a view of the file system of its own, held by one process.

When the last process in them has ended, the kernel takes both away, with every link, rule and mount. The folders that
Kubernetes' programs are known to write to are mounted over there, so this machine's own stay as they are.
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
"""What the kubelet wants and would set for the whole machine (cm/container_manager_linux.go): it is shown files."""


def start(lock: int) -> None:
    """Start the machine: its network is up and leads to this machine alone. lock: what it holds as long as it lives."""
    cgroups.make()
    _hold_namespaces(lock)
    for folder in _PRIVATE_FOLDERS:
        _mount_over(Path(folder))
    for number, (setting, value) in enumerate(_KERNEL_SETTINGS.items()):
        _show(Path(setting), value, RUN / "settings" / str(number))
    run(["mount", "-t", "tmpfs", "tmpfs", "/run"])
    _connect()


def inside(command: list[str]) -> list[str]:
    """Return the command, run in the machine as one of its programs."""
    return cgroups.joining(["nsenter", "--target", str(_holder()), "--net", "--mount", "--", *command])


def run(command: list[str]) -> str:
    """Run a command in the machine; return what it prints. Raises ProviderFailed."""
    return _checked(inside(command))


def _holder() -> int:
    try:
        return int(_HOLDER.read_text())
    except FileNotFoundError as problem:
        raise ProviderFailed("the local cluster is not up: 'python -m tools.clusters.local up'") from problem


def _hold_namespaces(lock: int) -> None:
    holding = ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", "echo held; exec sleep infinity"]
    # It outlives us, and would keep open what our output is piped into.
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
    # Its line says that the namespaces are there: nobody may enter before.
    if process.stdout.readline() != b"held\n":
        raise ProviderFailed("namespaces cannot be made here: 'unshare --net --mount' says why")
    process.stdout.close()
    _HOLDER.parent.mkdir(parents=True, exist_ok=True)
    _HOLDER.write_text(str(process.pid))


def _mount_over(folder: Path) -> None:
    own = RUN / "folders" / folder.relative_to("/")
    for made in (own, folder):
        made.mkdir(parents=True, exist_ok=True)
    run(["mount", "--bind", str(own), str(folder)])
    # Volumes that the kubelet mounts there must be seen by containers.
    run(["mount", "--make-rshared", str(folder)])


def _show(setting: Path, value: str, instead: Path) -> None:
    if setting.exists():
        instead.parent.mkdir(parents=True, exist_ok=True)
        instead.write_text(value)
        run(["mount", "--bind", str(instead), str(setting)])


def _connect() -> None:
    """Make the link to this machine. No default route: what is neither pod, service nor this machine is unreachable."""
    _checked(["ip", "link", "add", NAME, "type", "veth", "peer", "name", "node", "netns", str(_holder())])
    _checked(["ip", "address", "add", f"{HOST_ADDRESS}/{LINK_BITS}", "dev", NAME])
    _checked(["ip", "link", "set", NAME, "up"])
    run(["ip", "address", "add", f"{NODE_ADDRESS}/{LINK_BITS}", "dev", "node"])
    run(["ip", "link", "set", "node", "up"])
    run(["ip", "link", "set", "lo", "up"])
    run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])
    # This machine would answer a pod by its own default route, out of here.
    run(["iptables", "-A", "FORWARD", "-d", HOST_ADDRESS, "-j", "REJECT"])
    # Anybody on this machine could ask the kubelet, which asks nobody for a name. Before any rule of kube-proxy's.
    from_here = ["iptables", "--table", "mangle", "-A", "PREROUTING", "--in-interface", "node"]
    run([*from_here, "--protocol", "tcp", "--dport", API_PORT, "-j", "ACCEPT"])
    run([*from_here, "-j", "DROP"])


def _checked(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ProviderFailed(f"'{' '.join(command[-8:])}' failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
