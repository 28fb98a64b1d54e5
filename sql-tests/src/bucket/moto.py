"""Serves buckets on a free port, which it says, until standard input ends: so it stops when the test binary is killed,
too. Arguments: the protocol, s3 or gs, and a bucket to be made.

One request at a time is worked on, since moto looks whether an object is there, and then puts it.
"""

import io
import os
import sys
import threading
import urllib.request

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

PROTOCOL, BUCKET = sys.argv[1:]
NOT_FOUND = b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>"
# Of whom does not matter, but there has to be somebody.
SIGNED = "AWS4-HMAC-SHA256 Credential=test/20250101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"

app, lock = DomainDispatcherApplication(create_backend_app), threading.Lock()
reading, most, counts = {}, {}, threading.Lock()


class Quiet(WSGIRequestHandler):
    def log(self, *args):
        pass


def status_of(environ, method):
    said = []
    asked = {**environ, "REQUEST_METHOD": method, "wsgi.input": io.BytesIO()}
    list(app(asked, lambda status, headers, *rest: said.append(status)))
    return said[0].split()[0]


def as_google(environ, start_response):
    """What Google's XML API has otherwise than Amazon's protocol: whose request it is, how a condition is put, and that
    nothing to be deleted is an error."""
    environ["HTTP_AUTHORIZATION"] = SIGNED
    if environ.pop("HTTP_X_GOOG_IF_GENERATION_MATCH", None) == "0":
        environ["HTTP_IF_NONE_MATCH"] = "*"
    is_delete = environ["REQUEST_METHOD"] == "DELETE" and "uploadId" not in environ.get("QUERY_STRING", "")
    if is_delete and status_of(environ, "HEAD") == "404":
        start_response("404 Not Found", [("Content-Type", "application/xml"), ("Content-Length", str(len(NOT_FOUND)))])
        return [NOT_FOUND]
    return app(environ, start_response)


def counted(environ, start_response):
    """Counts reads of objects, by folder, from when they come in. `/-/PREFIX/FOLDER` says how many came together since it
    was last asked."""
    bucket, _, name = environ["PATH_INFO"].strip("/").partition("/")
    folder = name.rpartition("/")[0]
    is_read = environ["REQUEST_METHOD"] == "GET"
    with counts:
        if bucket == "-":
            at_once = str(most.pop(name, 0)).encode()
            start_response("200 OK", [("Content-Length", str(len(at_once)))])
            return [at_once]
        reading[folder] = reading.get(folder, 0) + is_read
        most[folder] = max(most.get(folder, 0), reading[folder])
    try:
        return one_at_a_time(environ, start_response)
    finally:
        with counts:
            reading[folder] -= is_read


def one_at_a_time(environ, start_response):
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = io.BytesIO(body)
    with lock:
        return list(as_google(environ, start_response) if PROTOCOL == "gs" else app(environ, start_response))


server = make_server("127.0.0.1", 0, counted, threaded=True, request_handler=Quiet)
threading.Thread(target=server.serve_forever, daemon=True).start()
urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{server.port}/{BUCKET}", method="PUT"))
print(server.port, flush=True)
sys.stdin.read()
os._exit(0)
