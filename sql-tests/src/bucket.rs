//! A server with buckets for the tests: PyPI's `moto`, which speaks the protocol of Amazon S3 and keeps objects in memory.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use millstream_engine::Location;

/// The Python that has `moto`, unless the environment variable `MOTO_PYTHON` names another one.
const PYTHON: &str = "python3";

/// The bucket that all tests share.
const BUCKET: &str = "millstream";

/// A request that takes longer hangs.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Serves on a free port, which it says, until standard input ends: so it stops when the test binary is killed, too. One
/// request at a time is worked on, since `moto` looks whether an object is there, and then puts it.
const SERVER: &str = r#"
import io, os, sys, threading
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

class Quiet(WSGIRequestHandler):
    def log(self, *args):
        pass

app, lock = DomainDispatcherApplication(create_backend_app), threading.Lock()

def one_at_a_time(environ, start_response):
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = io.BytesIO(body)
    with lock:
        return list(app(environ, start_response))

server = make_server("127.0.0.1", 0, one_at_a_time, threaded=True, request_handler=Quiet)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.port, flush=True)
sys.stdin.read()
os._exit(0)
"#;

/// A running server, with a bucket.
pub struct BucketServer {
    child: Child,
    addr: SocketAddr,
    n_prefixes: AtomicUsize,
}

impl BucketServer {
    /// Whether there is `moto`; else why the tests that need it are skipped.
    ///
    /// # Errors
    /// The reason, for a person.
    pub fn installed() -> Result<(), String> {
        static IS_INSTALLED: OnceLock<bool> = OnceLock::new();
        let is_installed = IS_INSTALLED.get_or_init(|| {
            let found = Command::new(python()).args(["-c", "import moto.moto_server.werkzeug_app"]).output();
            found.is_ok_and(|output| output.status.success())
        });
        if *is_installed {
            return Ok(());
        }
        Err(format!(
            "{} has no moto (pip install 'moto[server]'; MOTO_PYTHON names another Python)",
            python().display()
        ))
    }

    /// Starts a server on a free port and makes a bucket.
    ///
    /// # Errors
    /// What went wrong.
    pub fn start() -> Result<BucketServer, String> {
        let mut command = Command::new(python());
        command.args(["-c", SERVER]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|e| format!("moto does not start: {e}"))?;
        let mut line = String::new();
        let read = BufReader::new(child.stdout.take().expect("stdout is piped")).read_line(&mut line);
        read.map_err(|e| format!("moto says nothing: {e}"))?;
        let port = line.trim().parse().map_err(|_| format!("moto does not say where it listens: {line}"))?;
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let server = BucketServer { child, addr, n_prefixes: AtomicUsize::new(0) };
        server.make_bucket().map_err(|e| format!("no bucket can be made: {e}"))?;
        Ok(server)
    }

    fn make_bucket(&self) -> std::io::Result<()> {
        let mut stream = TcpStream::connect(self.addr)?;
        stream.set_read_timeout(Some(REQUEST_TIMEOUT))?;
        write!(stream, "PUT /{BUCKET} HTTP/1.0\r\nHost: {}\r\nContent-Length: 0\r\n\r\n", self.addr)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if answer.split_whitespace().nth(1) == Some("200") { Ok(()) } else { Err(std::io::Error::other(answer)) }
    }

    /// A prefix that nobody else has.
    pub fn prefix(&self) -> Location {
        let url = format!("s3://{BUCKET}/test-{}", self.n_prefixes.fetch_add(1, Ordering::Relaxed));
        url.parse().expect("the url of a bucket")
    }

    /// What a process has to have in its environment to reach it.
    pub fn environment(&self) -> [(&'static str, String); 5] {
        [
            ("AWS_ENDPOINT", format!("http://{}", self.addr)),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "test".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
        ]
    }
}

impl Drop for BucketServer {
    fn drop(&mut self) {
        // Its input ends; it may have ended by itself.
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn python() -> PathBuf {
    std::env::var_os("MOTO_PYTHON").map_or_else(|| PYTHON.into(), PathBuf::from)
}
