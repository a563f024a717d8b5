"""``seq2seq serve``: the attention of what one types, in the browser."""

import argparse
import socket
import sys
import webbrowser
from contextlib import suppress
from pathlib import Path
from threading import Thread

from seq2seq.cli.common import Commands, add_command, show
from seq2seq.utils import UserError

EVERYWHERE = ("0.0.0.0", "::")


def add_to(commands: Commands) -> None:
    usage = "--run FOLDER [--run FOLDER] [--host NAME] [--port N] [--no-browser]"
    text = "a page in the browser to try a run: type, watch, switch heads off"
    serve = add_command(commands, run_serve, usage, text)
    text = "folder of a trained run; two are shown side by side"
    serve.add_argument("--run", type=Path, required=True, action="append", help=text)
    text = "name or address to listen at (127.0.0.1: this machine only; 0.0.0.0: the network)"
    serve.add_argument("--host", default="127.0.0.1", help=text)
    text = "port to listen at (8000); 0: any that is free"
    serve.add_argument("--port", type=int, default=8000, metavar="N", help=text)
    serve.add_argument("--no-browser", action="store_true", help="open no browser")


def run_serve(options: argparse.Namespace) -> None:
    try:
        from seq2seq.viewer import server
        from seq2seq.viewer.live import LiveRun
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise UserError(f"{package}: not installed: pip install 'seq2seq[serve]'") from None

    if len(options.run) > 2:
        raise UserError("serve shows one run or two: leave out the other --run")
    names = [options.host, socket.gethostname()]
    with server.listen(options.host, options.port) as listening:
        app = server.build_app([LiveRun.load(folder) for folder in options.run], names)
        port = listening.getsockname()[1]
        host = "localhost" if options.host in EVERYWHERE else options.host
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        others = f", from elsewhere http://{names[1]}:{port}/" if host != options.host else ""
        show(f"{url}{others} (Ctrl-C ends)")
        sys.stdout.flush()
        if not options.no_browser:
            # It may take long to start, or stay in front until it ends.
            Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        with suppress(KeyboardInterrupt):  # the way to end it
            server.make_server(app).run(sockets=[listening])
