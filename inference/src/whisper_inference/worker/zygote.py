"""The zygote: a process that has imported an engine, and forks a worker whenever a model is to be loaded.

Run as `python -m whisper_inference.worker.zygote ENGINE SIZE PARENT_PID SOCKET_FD`. It must stay single-threaded and
use neither tensors nor CUDA: their state would be copied, partly broken, into each worker.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
import time

from whisper_inference.engines.registry import find_engine
from whisper_inference.errors import ServiceError
from whisper_inference.parentage import die_with_parent
from whisper_inference.worker import protocol, resident
from whisper_inference.worker.child import work
from whisper_inference.worker.logs import log_libraries_to_stderr


def main(engine_name: str, size: str, *, parent: int, control_fd: int) -> None:
    """Import the engine, then fork and reap workers until the parent closes the socket."""
    die_with_parent(parent)
    log_libraries_to_stderr()
    started = time.perf_counter()
    control = socket.socket(fileno=control_fd)
    # An import makes little garbage (1 MB) and many objects that stay: scanning them takes an eighth of its time.
    gc.disable()
    try:
        find_engine(engine_name).preload(size)
    except ServiceError as error:
        control.send(protocol.encode(protocol.ImportRefused(code=error.code, params=error.params)))
        return
    # The collector must not write into pages that workers share with the zygote.
    gc.freeze()
    gc.enable()
    control.send(protocol.encode(protocol.Imported(seconds=time.perf_counter() - started)))
    _serve(control, engine_name)


def _serve(control: socket.socket, engine_name: str) -> None:
    children, wakeup = _child_signals()
    workers: set[int] = set()
    # Not select.select: the descriptor has its number from the API process, which may have thousands open.
    waiting = select.poll()
    for source in (control.fileno(), children):
        waiting.register(source, select.POLLIN)
    while True:
        ready = {source for source, _ in waiting.poll()}
        if children in ready:
            os.read(children, 4096)
            _report_exits(control, workers)
        if control.fileno() in ready:
            packet, descriptors, _, _ = socket.recv_fds(control, protocol.PACKET_BYTES, 1)
            if not packet:
                return
            message = protocol.to_zygote(packet)
            if isinstance(message, protocol.Kill):
                _kill(control, message.pid, workers=workers)
            elif (
                pid := _fork(
                    message, descriptors[0], control=control, engine_name=engine_name, signals=(children, wakeup)
                )
            ) > 0:
                workers.add(pid)
                control.send(protocol.encode(protocol.Forked(pid=pid)))


def _child_signals() -> tuple[int, int]:
    """Return a pipe whose first end becomes readable when a child ends."""
    readable, writable = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda _signal, _frame: None)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    return readable, writable


def _report_exits(control: socket.socket, workers: set[int]) -> None:
    for pid in tuple(workers):
        reaped, status = os.waitpid(pid, os.WNOHANG)
        if reaped == pid:
            workers.discard(pid)
            control.send(protocol.encode(protocol.Exited(pid=pid, wait_status=status)))


def _kill(control: socket.socket, pid: int, *, workers: set[int]) -> None:
    """End a worker at once; the exit of one that was reaped before has been reported."""
    if pid not in workers:
        return
    os.kill(pid, signal.SIGKILL)
    # Now, not after the imports: the first worker would have to fault the pages in again. And before reaping, while
    # the kernel frees the worker's memory.
    resident.drop_clean_file_pages()
    # No deadline: the kernel ends a killed process as soon as it leaves a system call.
    _, status = os.waitpid(pid, 0)
    workers.discard(pid)
    control.send(protocol.encode(protocol.Exited(pid=pid, wait_status=status)))


def _fork(
    order: protocol.Fork, channel_fd: int, *, control: socket.socket, engine_name: str, signals: tuple[int, int]
) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid > 0:
        os.close(channel_fd)
        return pid
    try:
        die_with_parent(parent)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        control.close()
        for descriptor in signals:
            os.close(descriptor)
        work(socket.socket(fileno=channel_fd), order.spec, engine=find_engine(engine_name))
    finally:
        # Never return into the zygote's loop: its children are not ours.
        os._exit(70)  # EX_SOFTWARE


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], parent=int(sys.argv[3]), control_fd=int(sys.argv[4]))
