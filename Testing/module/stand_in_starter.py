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
    """Fork a stand-in for every launcher that calls, until standard input ends."""
    import stand_in_worker

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them but their launchers
    while True:
        ready, _, _ = select.select([listener, 0], [], [])
        if 0 in ready:
            return
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _become(stand_in_worker, connection)
        connection.close()


def _become(stand_in_worker, connection):
    """Be the stand-in that a launcher asks for, in its place; never returns."""
    import threading
    import traceback

    try:
        header, streams, _, _ = socket.recv_fds(connection, HEADER, 3)
        with connection.makefile("rb") as file:
            sys.argv, environment, folder = marshal.loads(file.read(int.from_bytes(header, "big")))
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        threading.Thread(target=lambda: os._exit(len(connection.recv(1))), daemon=True).start()
        stand_in_worker.main()
        connection.sendall(b"\0")
    except Exception:
        traceback.print_exc()
        connection.sendall(b"\1")
    finally:
        os._exit(0)


def _launch(address):
    """Hand over everything to a stand-in, and end when it does: killed, where it was."""
    message = marshal.dumps((sys.argv[1:], dict(os.environ), os.getcwd()))  # noqa: PTH109 (pathlib takes time)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [len(message).to_bytes(HEADER, "big")], [0, 1, 2])
        connection.sendall(message)
        ended = connection.recv(1)
    if not ended:
        os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(ended[0])


if __name__ == "__main__":
    if sys.argv[1].isdecimal():
        _serve(socket.socket(fileno=int(sys.argv[1])))
    else:
        _launch(sys.argv[1])
