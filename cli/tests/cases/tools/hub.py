"""A hub that lies: serves the small model as any repository, with headers of its own.

    hub.py PORT_FILE [NAME=VALUE ..]

NAME is a header in the answer about a file (`ETag`, `X-Repo-Commit`, ..), `list` the commit in a list of files, `file` a
further name in it, `body:FILE` what comes in a file's place, or `cut:FILE` how many bytes of it come, without a length. It
ends with its parent.
"""

import http.server
import json
import os
import pathlib
import sys
import threading
import time

port_file, *flags = sys.argv[1:]
lies = dict(flag.split("=", 1) for flag in flags)
model = pathlib.Path(os.environ["MODEL"])
commit = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def answer(self, with_body):
        name = self.path.split("?")[0].rsplit("/", 1)[-1]
        if "/api/models/" in self.path:
            names = sorted(entry.name for entry in model.iterdir())
            names += [name for key, name in lies.items() if key == "file"]
            listed = {"sha": lies.get("list", commit), "siblings": [{"rfilename": name} for name in names]}
            body = json.dumps(listed).encode()
            headers = {"Content-Type": "application/json"}
        elif (model / name).is_file():
            body = (model / name).read_bytes()
            body = lies.get("body:" + name, "").encode() or body
            cut = lies.get("cut:" + name)
            body = body[: int(cut)] if cut else body
            headers = {"ETag": f'"tag-{name}"', "X-Repo-Commit": commit}
            headers |= {key: value for key, value in lies.items() if key[0].isupper()}
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        for key, value in headers.items():
            self.send_header(key, value)
        if "Content-Length" not in headers and "cut:" + name not in lies:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_):
        """A client that ends the connection is not the hub's concern."""


server = Server(("127.0.0.1", 0), Hub)
part = pathlib.Path(port_file + ".part")
part.write_text(str(server.server_port))
part.rename(port_file)
parent = os.getppid()
threading.Thread(target=server.serve_forever, daemon=True).start()
while os.getppid() == parent:
    time.sleep(0.2)
