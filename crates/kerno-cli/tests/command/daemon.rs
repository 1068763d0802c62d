//! A `kerno start` of a test's own.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{kerno, run, signal, text, wait};

/// A daemon on a store of its own.
pub struct Daemon {
    child: Child,
    directory: Arc<tempfile::TempDir>,
    pub http: SocketAddr,
    log: Arc<Mutex<String>>,
}

pub const LIMIT: Duration = Duration::from_secs(60);

pub fn until<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl Daemon {
    pub fn start(directory: &Arc<tempfile::TempDir>, more: &[&str]) -> Self {
        Self::start_with(directory, more, &[])
    }

    /// With settings in the environment.
    pub fn start_with(directory: &Arc<tempfile::TempDir>, more: &[&str], settings: &[(&str, &Path)]) -> Self {
        let (store, socket) = (directory.path().join("store"), directory.path().join("socket"));
        let mut args = vec!["start", "--http", "127.0.0.1:0", "--interval", "1s", "--log", "json"];
        if !more.contains(&"--config") {
            args.extend(["--config", "/dev/null"]);
        }
        args.extend(["--store", store.to_str().unwrap(), "--socket", socket.to_str().unwrap()]);
        args.extend(more);
        let mut child =
            kerno(&args).envs(settings.iter().copied()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (stderr, written) = (child.stderr.take().unwrap(), Arc::clone(&log));
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                *written.lock().unwrap() += &format!("{line}\n");
            }
        });
        let http = until("it does not say where it serves HTTP", || {
            let log = log.lock().unwrap();
            assert!(child.try_wait().unwrap().is_none(), "{log}");
            let line = log.lines().find(|line| line.contains("\"watching\""))?;
            serde_json::from_str::<Value>(line).unwrap()["http"].as_str().unwrap().parse().ok()
        });
        Self { child, directory: Arc::clone(directory), http, log }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What it said of itself when it began to watch.
    pub fn said(&self, what: &str) -> String {
        let log = self.log();
        let line = log.lines().find(|line| line.contains("\"watching\"")).unwrap();
        serde_json::from_str::<Value>(line).unwrap()[what].as_str().unwrap().to_owned()
    }

    /// An answer as its status and body.
    pub fn get(&self, path: &str, headers: &str) -> (u16, String) {
        self.get_at(self.http, path, headers)
    }

    pub fn get_at(&self, address: SocketAddr, path: &str, headers: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let body =
            if head.to_lowercase().contains("transfer-encoding: chunked") { unchunked(body) } else { body.to_owned() };
        (status, body)
    }

    pub fn json(&self, path: &str) -> Value {
        let (status, body) = self.get(path, "");
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// A command that asks this daemon.
    pub fn asked(&self, args: &[&str]) -> Command {
        let mut command = kerno(args);
        command.arg("--socket").arg(self.path("socket")).env("KERNO_CONFIG", "/dev/null");
        command
    }

    pub fn incidents(&self) -> Vec<Value> {
        incidents(&mut self.asked(&["incidents", "--output", "json"]))
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Has it read its settings again.
    pub fn hang_up(&self) {
        signal(&self.child, libc::SIGHUP);
    }

    pub fn stop(mut self) -> String {
        let asked = Instant::now();
        signal(&self.child, libc::SIGTERM);
        let status = wait(&mut self.child);
        println!("stopped in {:?}", asked.elapsed());
        assert!(status.success(), "{}", self.log());
        assert!(!self.path("socket").exists(), "it leaves its socket behind");
        self.log()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn unchunked(body: &str) -> String {
    let (mut rest, mut whole) = (body, String::new());
    while let Some((length, more)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length.trim(), 16).unwrap();
        whole += &more[..length];
        rest = more[length..].trim_start_matches("\r\n");
        if length == 0 {
            break;
        }
    }
    whole
}

pub fn incidents(command: &mut Command) -> Vec<Value> {
    let output = run(command);
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A process that opens 40 files a second and closes none.
pub struct Leak(pub Child);

impl Leak {
    pub fn start() -> Self {
        let script = "ulimit -n 5000; i=3; while :; do i=$((i+1)); eval \"exec $i</dev/null\"; sleep 0.02; done";
        Self(Command::new("bash").args(["-c", script]).spawn().unwrap())
    }
}

impl Leak {
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Leak {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn directory() -> Arc<tempfile::TempDir> {
    Arc::new(tempfile::tempdir().unwrap())
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub fn config(directory: &tempfile::TempDir, text: &str) -> String {
    let path = directory.path().join("config.toml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}
