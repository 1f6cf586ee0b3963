"""Starts stand-in workers without the start of Python and numpy, which hundreds of tests would repeat.

    with starter() as program:  # what WorkerClient is to run
        ...

Every stand-in is a process of its own, with the pipes that QProcess made for it: a server that has imported everything
forks it, when a launcher hands over its own streams, folder and environment. The launcher ends as the stand-in does,
and the stand-in ends with the launcher.
"""

import contextlib
import marshal
import os
import select
import signal
import socket
import sys

HEADER = 4  # bytes that tell how long the rest of a launcher's message is
CODE = 2  # bytes of an exit code


@contextlib.contextmanager
def starter():
    """Give the command that starts a stand-in; where no process can be forked, Python with the stand-in itself."""
    import subprocess
    import tempfile
    from pathlib import Path

    worker = Path(__file__).with_name("stand_in_worker.py")
    if not (hasattr(os, "fork") and hasattr(socket, "send_fds")):
        yield [sys.executable, str(worker)]
        return
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        address = f"{folder}/starter"
        listener.bind(address)
        listener.listen()
        arguments = [sys.executable, __file__, str(listener.fileno())]
        with subprocess.Popen(arguments, stdin=subprocess.PIPE, pass_fds=[listener.fileno()]):  # ends with its input
            yield [sys.executable, "-I", "-S", __file__, address]


def _serve(listener):
    """Fork a stand-in for every launcher that calls, and tell it how the stand-in ended, until standard input ends."""
    import stand_in_worker

    launchers = {}
    woken, waker = socket.socketpair()
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # the default would not wake it
    while True:
        ready, _, _ = select.select([listener, woken, 0], [], [])
        if 0 in ready:
            return
        if woken in ready:
            woken.recv(4096)
            _tell_ends(launchers)
        if listener in ready:
            connection, _ = listener.accept()
            pid = os.fork()
            if pid == 0:
                for inherited in (listener, woken, waker, *launchers.values()):
                    inherited.close()
                _become(stand_in_worker, connection)
            launchers[pid] = connection


def _tell_ends(launchers):
    """Send the exit code of each stand-in that has ended, negative for a signal, to its launcher."""
    for pid in list(launchers):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            with launchers.pop(pid) as connection, contextlib.suppress(OSError):  # the launcher may be gone
                connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(CODE, "big", signed=True))


def _become(stand_in_worker, connection):
    """Be the stand-in that a launcher asks for, in its place; never returns."""
    import threading
    import traceback

    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        header, streams, _, _ = socket.recv_fds(connection, HEADER, 3)
        with connection.makefile("rb") as file:
            sys.argv, environment, folder = marshal.loads(file.read(int.from_bytes(header, "big")))
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        threading.Thread(target=lambda: os._exit(len(connection.recv(1))), daemon=True).start()
        stand_in_worker.main()
    except Exception:
        traceback.print_exc()
        os._exit(1)
    finally:
        os._exit(0)


def _launch(address):
    """Hand over everything to a stand-in, and end as it does: with its exit code, or by the signal that ended it."""
    message = marshal.dumps((sys.argv[1:], dict(os.environ), os.getcwd()))  # noqa: PTH109 (pathlib takes time)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [len(message).to_bytes(HEADER, "big")], [0, 1, 2])
        connection.sendall(message)
        code = int.from_bytes(connection.recv(CODE), "big", signed=True)
    if code < 0:
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    if sys.argv[1].isdecimal():
        _serve(socket.socket(fileno=int(sys.argv[1])))
    else:
        _launch(sys.argv[1])
