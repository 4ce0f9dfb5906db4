"""Object storage that speaks enough of Google Cloud Storage's JSON API for gcsfs and tensorstore, on localhost: `with serve() as server`.

`server.objects` maps names to bytes. Objects appear whole or not at all, as they do there; there are no folders and no renames.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, code, body=b"", headers=()):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def split(self):
        address = urllib.parse.urlsplit(self.path)
        return address.path, {name: values[-1] for name, values in urllib.parse.parse_qs(address.query, keep_blank_values=True).items()}

    def described(self, bucket, name):
        data, generation = self.server.objects[name], self.server.generations[name]
        return {
            "kind": "storage#object",
            "name": name,
            "bucket": bucket,
            "size": str(len(data)),
            "generation": str(generation),
            "metageneration": "1",
            "md5Hash": base64.b64encode(hashlib.md5(data).digest()).decode(),
            "updated": "2026-01-01T00:00:00.000Z",
            "timeCreated": "2026-01-01T00:00:00.000Z",
            "contentType": "application/octet-stream",
        }

    def put(self, name, data):
        self.server.count += 1
        self.server.objects[name], self.server.generations[name] = data, self.server.count

    def refused(self, name, query):
        """Whether a condition on the generation does not hold."""
        now = self.server.generations.get(name, 0) if name in self.server.objects else 0
        return "ifGenerationMatch" in query and int(query["ifGenerationMatch"]) != now

    def do_GET(self):
        path, query = self.split()
        with self.server.lock:
            if found := re.fullmatch(r"(?:/download)?/storage/v1/b/([^/]+)/o/(.+)", path):
                bucket, name = found[1], urllib.parse.unquote(found[2])
                if name not in self.server.objects:
                    return self.answer(404, {"error": {"code": 404, "message": "no such object"}})
                if query.get("alt") != "media":
                    return self.answer(200, self.described(bucket, name))
                generation = str(self.server.generations[name])
                if query.get("ifGenerationNotMatch") == generation:
                    return self.answer(304)
                data, code, headers = self.server.objects[name], 200, [("x-goog-generation", generation), ("ETag", generation)]
                if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
                    first, last = int(asked[1]), int(asked[2] or len(data) - 1)
                    headers.append(("Content-Range", f"bytes {first}-{min(last, len(data) - 1)}/{len(data)}"))
                    data, code = data[first : last + 1], 206
                return self.answer(code, data, headers)
            if found := re.fullmatch(r"/storage/v1/b/([^/]+)/o/?", path):
                return self.answer(200, self.listed(found[1], query))
            if found := re.fullmatch(r"/storage/v1/b/([^/]+)/?", path):
                return self.answer(200, {"kind": "storage#bucket", "name": found[1], "location": "X", "storageClass": "STANDARD"})
            if re.fullmatch(r"/storage/v1/b/([^/]+)/storageLayout", path):
                return self.answer(200, {"bucket": "x", "hierarchicalNamespace": {"enabled": False}})
        return self.answer(404, {"error": {"code": 404, "message": path}})

    do_HEAD = do_GET

    def listed(self, bucket, query):
        prefix, cut, items, prefixes = query.get("prefix", ""), query.get("delimiter"), [], set()
        for name in sorted(self.server.objects):
            if not name.startswith(prefix) or not query.get("startOffset", "") <= name < query.get("endOffset", "\U0010ffff"):
                continue
            rest = name[len(prefix) :]
            if cut and cut in rest:
                prefixes.add(prefix + rest.partition(cut)[0] + cut)
            else:
                items.append(self.described(bucket, name))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)}

    def body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def do_POST(self):
        path, query = self.split()
        if "upload_id" in query:
            return self.do_PUT()
        body = self.body()
        with self.server.lock:
            if found := re.fullmatch(r"/upload/storage/v1/b/([^/]+)/o/?", path):
                if query["uploadType"] == "multipart":
                    border = b"--" + re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])[1].encode()
                    parts = [part.removesuffix(b"\n").removesuffix(b"\r") for part in body.split(border)[1:3]]
                    head, data = (re.split(rb"\r?\n\r?\n", part, maxsplit=1)[1] for part in parts)
                    query["name"] = json.loads(head)["name"]
                elif query["uploadType"] == "resumable":
                    name = query.get("name") or json.loads(body)["name"]
                    self.server.count += 1
                    self.server.uploads[str(self.server.count)] = (name, b"")
                    where = f"http://{self.headers['Host']}{path}?uploadType=resumable&upload_id={self.server.count}"
                    return self.answer(200, {}, [("Location", where)])
                else:
                    data = body
                if self.refused(query["name"], query):
                    return self.answer(412, {"error": {"code": 412, "message": "generation"}})
                self.put(query["name"], data)
                return self.answer(200, self.described(found[1], query["name"]))
            if found := re.fullmatch(r"/storage/v1/b/([^/]+)/o/(.+)/(?:rewriteTo|copyTo)/b/([^/]+)/o/(.+)", path):
                source, target = urllib.parse.unquote(found[2]), urllib.parse.unquote(found[4])
                if source not in self.server.objects:
                    return self.answer(404, {"error": {"code": 404, "message": "no such object"}})
                self.put(target, self.server.objects[source])
                return self.answer(200, {"done": True, "resource": self.described(found[3], target)})
            if path.startswith("/batch"):
                return self.batch(body)
        return self.answer(404, {"error": {"code": 404, "message": path}})

    def batch(self, body):
        """Deletions, many in one request."""
        border, parts = self.headers["Content-Type"].partition("boundary=")[2].strip('"'), []
        for number, found in enumerate(re.finditer(rb"DELETE \S*/storage/v1/b/[^/]+/o/(\S+) HTTP", body), 1):
            gone = self.server.objects.pop(urllib.parse.unquote(found[1].decode()), None)
            status = "204 No Content" if gone is not None else "404 Not Found"
            parts.append(
                f"--{border}\r\nContent-Type: application/http\r\nContent-ID: <response-{number}>\r\n\r\nHTTP/1.1 {status}\r\n\r\n\r\n"
            )
        self.answer(200, ("".join(parts) + f"--{border}--").encode(), [("Content-Type", f"multipart/mixed; boundary={border}")])

    def do_PUT(self):
        _, query = self.split()
        with self.server.lock:
            name, before = self.server.uploads[query["upload_id"]]
            data = before + self.body()
            total = self.headers.get("Content-Range", "").rpartition("/")[2]
            if total.isdigit() and len(data) < int(total) or total == "*":
                self.server.uploads[query["upload_id"]] = (name, data)
                return self.answer(308, b"", [("Range", f"bytes=0-{len(data) - 1}")])
            self.put(name, data)
            return self.answer(200, self.described("b", name))

    def do_DELETE(self):
        path, query = self.split()
        name = urllib.parse.unquote(re.fullmatch(r"/storage/v1/b/[^/]+/o/(.+)", path)[1])
        with self.server.lock:
            if self.refused(name, query):
                return self.answer(412, {"error": {"code": 412, "message": "generation"}})
            gone = self.server.objects.pop(name, None)
        self.answer(204 if gone is not None else 404, b"" if gone is not None else {"error": {"code": 404, "message": name}})


@contextlib.contextmanager
def serve():
    server = ThreadingHTTPServer(("localhost", 0), Handler)
    server.objects, server.generations, server.uploads, server.count, server.lock = {}, {}, {}, 0, threading.RLock()
    server.environment = {
        "STORAGE_EMULATOR_HOST": f"http://localhost:{server.server_port}",  # gcsfs
        "TENSORSTORE_GCS_HTTP_URL": f"http://localhost:{server.server_port}",
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",  # tensorstore's
    }
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
