//! Asks a running daemon over its Unix socket.

use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use kerno_doctor::report::IncidentReport;
use kerno_model::{Window, saved};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::state::Status;
use crate::times::Range;

/// An answer that takes longer does not come.
const TIMEOUT: Duration = Duration::from_secs(60);

/// No answer is longer.
const MAX_BYTES: usize = 1 << 30;

/// A running daemon, asked over its socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// Why a daemon does not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No daemon listens there.
    #[error("cannot reach kerno at {socket}; start it with `sudo kerno start`, or name its socket with --socket")]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It was reached and did not answer.
    #[error("kerno did not answer")]
    Unanswered(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It refused, and why.
    #[error("{0}")]
    Refused(String),
    /// What it answered cannot be read.
    #[error("the answer of kerno cannot be read: {0}")]
    Unreadable(String),
}

#[derive(Deserialize)]
struct Problem {
    error: String,
}

/// No problem is longer, in bytes.
const MAX_PROBLEM: u64 = 64 << 10;

fn problem(body: &[u8]) -> Option<String> {
    serde_json::from_slice::<Problem>(body).ok().map(|problem| problem.error)
}

impl Client {
    /// The daemon at this socket, if one listens there.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] if none does.
    pub fn connect(socket: &Path) -> Result<Self, ClientError> {
        std::os::unix::net::UnixStream::connect(socket)
            .map_err(|source| ClientError::Unreachable { socket: socket.to_owned(), source })?;
        Ok(Self { socket: socket.to_owned() })
    }

    /// How it is.
    ///
    /// # Errors
    /// As all questions.
    pub fn status(&self) -> Result<Status, ClientError> {
        self.json("/api/v1/status")
    }

    /// All incidents, the oldest first.
    ///
    /// # Errors
    /// As all questions.
    pub fn incidents(&self) -> Result<Vec<IncidentReport>, ClientError> {
        self.json("/api/v1/incidents")
    }

    /// What it observed in a stretch of time, as one window.
    ///
    /// # Errors
    /// As all questions; [`ClientError::Refused`] if nothing was observed then.
    pub fn window(&self, range: Range) -> Result<Window, ClientError> {
        let body = self.get(&format!("/api/v1/windows?merged=true&from={}&to={}", range.from_ns, range.to_ns))?;
        saved::read_window(&body).map_err(|error| ClientError::Unreadable(error.to_string()))
    }

    /// The windows that overlap a stretch of time, one JSON object a line.
    ///
    /// # Errors
    /// As all questions.
    pub fn windows(&self, range: Range) -> Result<Lines, ClientError> {
        self.lines(&format!("/api/v1/windows?from={}&to={}", range.from_ns, range.to_ns))
    }

    /// Changes of incidents as they happen, one JSON object a line.
    ///
    /// # Errors
    /// As all questions.
    pub fn follow(&self) -> Result<Lines, ClientError> {
        self.lines("/api/v1/events")
    }

    fn lines(&self, path: &str) -> Result<Lines, ClientError> {
        let unanswered = |error: io::Error| ClientError::Unanswered(error.into());
        let mut stream = std::os::unix::net::UnixStream::connect(&self.socket)
            .map_err(|source| ClientError::Unreachable { socket: self.socket.clone(), source })?;
        // HTTP/1.0: the answer is the stream itself, until its end.
        io::Write::write_all(&mut stream, format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())
            .map_err(unanswered)?;
        let mut lines = BufReader::new(stream);
        let mut line = String::new();
        lines.read_line(&mut line).map_err(unanswered)?;
        let status = line.trim().to_owned();
        while !line.trim().is_empty() {
            line.clear();
            if lines.read_line(&mut line).map_err(unanswered)? == 0 {
                break;
            }
        }
        if status.contains(" 200 ") {
            return Ok(Lines(lines));
        }
        let mut body = String::new();
        io::Read::read_to_string(&mut io::Read::take(lines, MAX_PROBLEM), &mut body).map_err(unanswered)?;
        Err(ClientError::Refused(problem(body.as_bytes()).unwrap_or(status)))
    }

    fn json<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        serde_json::from_slice(&self.get(path)?).map_err(|error| ClientError::Unreadable(error.to_string()))
    }

    fn get(&self, path: &str) -> Result<Bytes, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(|error| ClientError::Unanswered(error.into()))?;
        let (status, body) = runtime.block_on(async {
            let stream = UnixStream::connect(&self.socket)
                .await
                .map_err(|source| ClientError::Unreachable { socket: self.socket.clone(), source })?;
            tokio::time::timeout(TIMEOUT, ask(stream, path))
                .await
                .map_err(|_| ClientError::Unanswered(format!("within {} s", TIMEOUT.as_secs()).into()))?
                .map_err(ClientError::Unanswered)
        })?;
        if status.is_success() {
            return Ok(body);
        }
        Err(ClientError::Refused(problem(&body).unwrap_or_else(|| format!("kerno answered {status}"))))
    }
}

async fn ask(stream: UnixStream, path: &str) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path).header(hyper::header::HOST, "localhost").body(Empty::<Bytes>::new())?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BYTES).collect().await?.to_bytes();
        Ok((status, body))
    };
    tokio::select! {
        answer = answer => answer,
        ended = connection => Err(ended.err().map_or_else(|| "it closed the connection".into(), Into::into)),
    }
}

/// Lines of an answer, or of a stream that goes on until the daemon ends.
#[derive(Debug)]
pub struct Lines(BufReader<std::os::unix::net::UnixStream>);

impl Iterator for Lines {
    type Item = io::Result<String>;

    /// The next line that is not empty.
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let mut line = String::new();
            match self.0.read_line(&mut line) {
                Ok(0) => return None,
                Ok(_) if line.trim().is_empty() => {}
                Ok(_) => return Some(Ok(line.trim_end().to_owned())),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
