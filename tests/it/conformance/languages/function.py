"""A component in Python, for languages.rs. The query names the task. Uses the standard library only."""

import os
import random
import sys
import time
from pathlib import Path

from wit_world import exports


def deed(query):
    if query == "echo":
        # stdout is unbuffered: one write() takes a part.
        body = sys.stdin.buffer.read()
        while body:
            body = body[sys.stdout.buffer.write(body) :]
    elif query == "count":
        print(len(sys.stdin.buffer.read()))
    elif query == "environment":
        print(os.environ["IT_ANSWER"], len(sys.argv))
    elif query == "clocks":
        began, pause = time.monotonic(), 0.02
        time.sleep(pause)
        passed = time.time() * 1000 - int(os.environ["HTTP_X_NOW"])
        print(*(str(holds).lower() for holds in (time.monotonic() - began >= pause, 0 <= passed < 20_000)))
    elif query == "randoms":
        # The module was imported, and seeded, when the component was made.
        random.seed()
        print(random.random())
    elif query == "scratch":
        folder = Path(os.environ["TMPDIR"])
        file = folder / "file"
        state = "old" if file.exists() else "fresh"
        file.write_text("content")
        (folder / "folder").mkdir()
        file.rename(folder / "folder" / "file")
        names = ", ".join(f'"{name}"' for name in os.listdir(folder))
        print(state, (folder / "folder" / "file").read_text(), f"[{names}]")
    elif query == "elsewhere":
        print(str(not os.path.exists("/etc/passwd")).lower())
    elif query == "head":
        sys.stdout.write("Status: 201 Created\r\nContent-Type: text/csv\r\n\r\na,b\n")
    elif query == "errors":
        print("said on stderr", file=sys.stderr)
        print("done")
    elif query == "exit":
        sys.exit(3)
    elif query == "fails":
        raise RuntimeError("out of luck")


class Run(exports.Run):
    def run(self):
        deed(os.environ["QUERY_STRING"])
        sys.stdout.flush()
