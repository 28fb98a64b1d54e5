//! Servers with buckets for the tests, which keep objects in memory: PyPI's `moto`, which speaks the protocol of Amazon S3
//! and, with other headers, that of Google Cloud Storage; and npm's `azurite`, which is Azure's blob service.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use millstream_engine::Location;

/// The Python that has `moto`, unless the environment variable `MOTO_PYTHON` names another one.
const PYTHON: &str = "python3";

/// Runs `azurite`, if it finds it: beside the working directory, or where the environment variable `NODE_PATH` says.
const NODE: &str = "node";

/// The bucket that all tests share.
const BUCKET: &str = "millstream";

/// A request that takes longer hangs.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The account that `azurite` has, and its key, as everybody knows it.
const AZURITE_ACCOUNT: &str = "devstoreaccount1";
const AZURITE_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Another key.
const WRONG_KEY: &str = "d3JvbmcgYW5kIG9mIGEgbGVuZ3RoIHRoYXQgYSBrZXkgbWF5IGhhdmUsIGh1c2g=";

/// Who has buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cloud {
    /// `s3://`
    Amazon,
    /// `gs://`
    Google,
    /// `az://`
    Azure,
}

/// All of them, in the order of their numbers.
pub const CLOUDS: [Cloud; 3] = [Cloud::Amazon, Cloud::Google, Cloud::Azure];

impl Cloud {
    /// As urls and tests name it.
    pub fn scheme(self) -> &'static str {
        match self {
            Cloud::Amazon => "s3",
            Cloud::Google => "gs",
            Cloud::Azure => "az",
        }
    }

    /// Whether there is what its server needs; else why the tests that need it are skipped.
    ///
    /// # Errors
    /// The reason, for a person.
    pub fn installed(self) -> Result<(), String> {
        static HAS_MOTO: OnceLock<bool> = OnceLock::new();
        static HAS_AZURITE: OnceLock<bool> = OnceLock::new();
        let runs = |mut command: Command| command.output().is_ok_and(|output| output.status.success());
        if self == Cloud::Azure {
            let find = || runs(command(NODE.into(), ["-e", "require.resolve('azurite/package.json')"]));
            let why = "node finds no azurite (npm install azurite; NODE_PATH names the node_modules that have it)";
            return if *HAS_AZURITE.get_or_init(find) { Ok(()) } else { Err(why.to_owned()) };
        }
        let find = || runs(command(python(), ["-c", "import moto.moto_server.werkzeug_app"]));
        if *HAS_MOTO.get_or_init(find) {
            return Ok(());
        }
        let python = python();
        Err(format!("{} has no moto (pip install 'moto[server]'; MOTO_PYTHON names another Python)", python.display()))
    }

    /// What starts its server.
    fn server(self) -> Command {
        let moto = include_str!("bucket/moto.py");
        match self {
            Cloud::Amazon | Cloud::Google => command(python(), ["-c", moto, self.scheme(), BUCKET]),
            Cloud::Azure => {
                let azurite = include_str!("bucket/azurite.js");
                command(NODE.into(), ["-e", azurite, AZURITE_ACCOUNT, AZURITE_KEY, BUCKET])
            }
        }
    }

    /// The variable that says where its server is, and what it says.
    pub(crate) fn endpoint(self, port: u16) -> (&'static str, String) {
        let server = format!("http://127.0.0.1:{port}");
        match self {
            Cloud::Amazon => ("AWS_ENDPOINT", server),
            Cloud::Google => ("GOOGLE_BASE_URL", server),
            Cloud::Azure => ("AZURE_STORAGE_ENDPOINT", format!("{server}/{AZURITE_ACCOUNT}")),
        }
    }
}

fn command<const N: usize>(program: PathBuf, args: [&str; N]) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command
}

fn python() -> PathBuf {
    std::env::var_os("MOTO_PYTHON").map_or_else(|| PYTHON.into(), PathBuf::from)
}

/// A running server, with a bucket.
pub struct BucketServer {
    cloud: Cloud,
    child: Child,
    port: u16,
    n_prefixes: AtomicUsize,
}

impl BucketServer {
    /// Starts a server on a free port, which makes a bucket.
    ///
    /// # Errors
    /// What went wrong.
    pub fn start(cloud: Cloud) -> Result<BucketServer, String> {
        let child = cloud.server().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.map_err(|e| format!("the server with buckets does not start: {e}"))?;
        let mut line = String::new();
        let read = BufReader::new(child.stdout.take().expect("stdout is piped")).read_line(&mut line);
        let mut server = BucketServer { cloud, child, port: 0, n_prefixes: AtomicUsize::new(0) };
        read.map_err(|e| format!("the server with buckets says nothing: {e}"))?;
        server.port = line
            .trim()
            .parse()
            .map_err(|_| format!("the server with buckets does not say where it listens: {line}"))?;
        Ok(server)
    }

    /// Whose protocol it speaks.
    pub fn cloud(&self) -> Cloud {
        self.cloud
    }

    /// A prefix that nobody else has.
    pub fn prefix(&self) -> Location {
        self.prefix_of(BUCKET)
    }

    /// A prefix of another bucket.
    pub(crate) fn prefix_of(&self, bucket: &str) -> Location {
        let (scheme, number) = (self.cloud.scheme(), self.n_prefixes.fetch_add(1, Ordering::Relaxed));
        format!("{scheme}://{bucket}/test-{number}").parse().expect("the url of a bucket")
    }

    /// What a process has to have in its environment to reach it.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let endpoint = self.cloud.endpoint(self.port);
        let others = match self.cloud {
            Cloud::Amazon => [
                ("AWS_ALLOW_HTTP", "true"),
                ("AWS_REGION", "us-east-1"),
                ("AWS_ACCESS_KEY_ID", "test"),
                ("AWS_SECRET_ACCESS_KEY", "test"),
            ]
            .to_vec(),
            Cloud::Google => [
                ("GOOGLE_ALLOW_HTTP", "true"),
                (
                    "GOOGLE_SERVICE_ACCOUNT_KEY",
                    r#"{"disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": ""}"#,
                ),
            ]
            .to_vec(),
            Cloud::Azure => [
                ("AZURE_ALLOW_HTTP", "true"),
                ("AZURE_STORAGE_ACCOUNT_NAME", AZURITE_ACCOUNT),
                ("AZURE_STORAGE_ACCOUNT_KEY", AZURITE_KEY),
            ]
            .to_vec(),
        };
        others.into_iter().map(|(name, value)| (name, value.to_owned())).chain([endpoint]).collect()
    }

    /// How many reads of objects of a folder, `prefix/folder`, came together since this was last asked; only `moto` says so.
    ///
    /// # Errors
    /// What goes wrong.
    pub(crate) fn reads_at_once(&self, folder: &str) -> Result<usize, String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).map_err(|e| e.to_string())?;
        let asked = stream
            .set_read_timeout(Some(REQUEST_TIMEOUT))
            .and_then(|()| write!(stream, "GET /-/{folder} HTTP/1.0\r\nHost: localhost\r\n\r\n"));
        let mut answer = String::new();
        asked.and_then(|()| stream.read_to_string(&mut answer)).map_err(|e| e.to_string())?;
        let number = answer.rsplit("\r\n\r\n").next().and_then(|body| body.trim().parse().ok());
        number.ok_or_else(|| format!("no number: {answer}"))
    }

    /// What a process has in its environment to which the server says no, if it looks at all, and a part of it that nobody may
    /// be told.
    pub(crate) fn wrong_credentials(&self) -> Option<((&'static str, String), &'static str)> {
        (self.cloud == Cloud::Azure).then(|| (("AZURE_STORAGE_ACCOUNT_KEY", WRONG_KEY.to_owned()), &WRONG_KEY[..16]))
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
