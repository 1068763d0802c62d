//! HTTP: listeners, limits, and the thread that serves.

mod events;
mod exposition;
mod guard;
mod openapi;
mod questions;
mod routes;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use kerno_doctor::redaction::Redaction;
use kerno_store::Reader;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tokio_io_timeout::TimeoutStream;

pub use guard::{Guard, GuardError};
use guard::{Tls, Token};
use routes::Whom;

use crate::settings::Settings;
use crate::state::Shared;

/// Connections at a time, of all listeners together. One more is closed at once.
const MAX_CONNECTIONS: usize = 600;

/// Answers of many windows at a time: each has a thread, which waits for the client.
const MAX_EXPORTS: usize = 4;

/// A request's head must come within this, and so must the next one on a connection that is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// A client that reads nothing for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest head of a request.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// The members of this group may use the socket, besides root.
const GROUP: &str = "kerno";

/// Why a socket or an address cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Somebody answers on the socket.
    #[error("{0} is in use: another kerno runs; stop it first, or choose another place with --socket and --store")]
    Running(PathBuf),
    /// There is something else at the socket's place.
    #[error("{0} exists and is no socket; remove it, or choose another place with --socket")]
    NoSocket(PathBuf),
    /// The socket cannot be made.
    #[error("cannot listen on {path}")]
    Socket {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The address cannot be used.
    #[error("cannot listen on {address}; choose another with {option}")]
    Address {
        /// The address.
        address: SocketAddr,
        /// The option that sets it.
        option: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file that says who may ask is not as it should be.
    #[error(transparent)]
    Guard(#[from] GuardError),
}

/// Sockets that are bound, and not served yet.
#[derive(Debug)]
pub(crate) struct Listeners {
    unix: Option<(UnixListener, SocketFile)>,
    http: Option<(TcpListener, SocketAddr)>,
    health: Option<(TcpListener, SocketAddr)>,
    tls: Option<Tls>,
    token: Option<Token>,
}

/// Removes the socket from the file system when it is dropped.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listeners {
    pub(crate) fn bind(settings: &Settings) -> Result<Self, BindError> {
        let Settings { socket, http, health, guard, .. } = settings;
        Ok(Self {
            unix: socket.as_deref().map(bind_unix).transpose()?,
            http: http.map(|address| bind_tcp(address, "--http")).transpose()?,
            health: health.map(|address| bind_tcp(address, "--health")).transpose()?,
            tls: Tls::new(guard)?,
            token: Token::new(guard)?,
        })
    }
}

fn bind_tcp(address: SocketAddr, option: &'static str) -> Result<(TcpListener, SocketAddr), BindError> {
    let bound = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bound().map_err(|source| BindError::Address { address, option, source })
}

fn bind_unix(path: &Path) -> Result<(UnixListener, SocketFile), BindError> {
    let failed = |source| BindError::Socket { path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(BindError::NoSocket(path.to_owned())),
        Ok(_) if UnixStream::connect(path).is_ok() => return Err(BindError::Running(path.to_owned())),
        // Of a daemon that was killed.
        Ok(_) => std::fs::remove_file(path).map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    // Nobody may connect before the mode and the group are set.
    let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(path);
    rustix::process::umask(mask);
    let listener = bound.map_err(failed)?;
    let file = SocketFile(path.to_owned());
    listener.set_nonblocking(true).map_err(failed)?;
    if let Some(group) = uzers::get_group_by_name(GROUP) {
        std::os::unix::fs::chown(path, None, Some(group.gid())).map_err(failed)?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(failed)?;
    Ok((listener, file))
}

/// What the routes answer from.
#[derive(Clone, Debug)]
struct App {
    shared: Arc<Shared>,
    reader: Option<Arc<Reader>>,
    /// Answers of many windows that may be written at a time.
    exports: Arc<Semaphore>,
    /// What is hidden in answers; `None` hides nothing.
    redaction: Option<Arc<Redaction>>,
}

/// The thread that serves.
#[derive(Debug)]
pub(crate) struct Api {
    http: Option<SocketAddr>,
    health: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    _file: Option<SocketFile>,
}

impl Api {
    /// Answers that leave the machine have no secrets that `redaction` hides.
    pub(crate) fn start(
        listeners: Listeners,
        shared: Arc<Shared>,
        reader: Option<Reader>,
        redaction: &Redaction,
    ) -> io::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(2)
            .thread_name("kerno http")
            .build()?;
        let address = |listener: &Option<(TcpListener, SocketAddr)>| listener.as_ref().map(|(_, address)| *address);
        let (http, health) = (address(&listeners.http), address(&listeners.health));
        let exports = Arc::new(Semaphore::new(MAX_EXPORTS));
        let app = App { shared, reader: reader.map(Arc::new), exports, redaction: None };
        let Listeners { unix, http: over_tcp, health: of_health, tls, token } = listeners;
        let (unix, file) = unix.map_or((None, None), |(listener, file)| (Some(listener), Some(file)));
        let whom = match (token, &tls) {
            (Some(token), _) => Whom::Token(Arc::new(token)),
            (None, Some(_)) if http.is_some_and(|http| !http.ip().is_loopback()) => Whom::Certified,
            (None, _) => Whom::Local,
        };
        // Whoever needs a token or a certificate need not be a user of this machine, who sees all command lines anyway.
        let leaves = matches!(whom, Whom::Token(_) | Whom::Certified);
        let for_others = App { redaction: leaves.then(|| Arc::new(redaction.clone())), ..app.clone() };
        let tcp = [
            over_tcp.map(|(listener, _)| (listener, routes::router(for_others, whom), tls.map(Arc::new))),
            of_health.map(|(listener, _)| (listener, routes::health(app.clone()), None)),
        ];
        let unix = unix.map(|listener| (listener, routes::router(app.clone(), Whom::Socket)));
        let work = move || {
            runtime.block_on(serve(tcp, unix, app.shared, stopped));
            // A question to a store that hangs is not waited for.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("kerno http".into()).spawn(work)?;
        Ok(Self { http, health, stop, thread: Some(thread), _file: file })
    }

    pub(crate) const fn http(&self) -> Option<SocketAddr> {
        self.http
    }

    pub(crate) const fn health(&self) -> Option<SocketAddr> {
        self.health
    }

    /// Ends the connections, those that do not end by themselves after this time.
    pub(crate) fn stop(mut self, timeout: Duration) {
        let _ = self.stop.send(true);
        let deadline = Instant::now() + timeout;
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some(thread) = self.thread.take_if(|thread| thread.is_finished()) {
            let _ = thread.join();
        }
    }
}

/// A listener with what it serves, over TLS or not.
type Served = (TcpListener, Router, Option<Arc<Tls>>);

async fn serve(
    tcp: [Option<Served>; 2],
    unix: Option<(UnixListener, Router)>,
    shared: Arc<Shared>,
    stop: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let door = Door { shared, places: Arc::clone(&places), stop: stop.clone() };
    let mut tasks = Vec::new();
    for (listener, router, tls) in tcp.into_iter().flatten() {
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => tasks.push(tokio::spawn(accept(listener, router, tls, door.clone()))),
            Err(error) => tracing::error!("HTTP is not served: {error}"),
        }
    }
    if let Some((listener, router)) = unix {
        match tokio::net::UnixListener::from_std(listener) {
            Ok(listener) => tasks.push(tokio::spawn(accept(listener, router, None, door))),
            Err(error) => tracing::error!("the socket is not served: {error}"),
        }
    }
    let mut stopped = stop;
    told(&mut stopped).await;
    for task in tasks {
        let _ = task.await;
    }
    // All places are free again when every connection has ended.
    let all = u32::try_from(MAX_CONNECTIONS).unwrap_or(u32::MAX);
    let _ = tokio::time::timeout(Duration::from_millis(500), places.acquire_many(all)).await;
}

/// What all listeners have in common.
#[derive(Clone, Debug)]
struct Door {
    shared: Arc<Shared>,
    places: Arc<Semaphore>,
    stop: watch::Receiver<bool>,
}

async fn accept<L>(mut listener: L, router: Router, tls: Option<Arc<Tls>>, mut door: Door)
where
    L: Listener,
{
    loop {
        // It waits by itself after an error, such as no descriptor left.
        let stream = tokio::select! {
            (stream, _) = listener.accept() => stream,
            () = told(&mut door.stop) => return,
        };
        // Without a place it is closed: a queue would only make others wait too.
        let Ok(place) = Arc::clone(&door.places).try_acquire_owned() else {
            door.shared.refused();
            continue;
        };
        let (router, stop, tls) = (router.clone(), door.stop.clone(), tls.clone());
        tokio::spawn(async move {
            match tls {
                None => connection(stream, router, stop).await,
                Some(tls) => {
                    // Errors are the client's, as below.
                    let shaken = tokio::time::timeout(HEAD_TIMEOUT, tls.acceptor().accept(stream)).await;
                    if let Ok(Ok(stream)) = shaken {
                        connection(stream, router, stop).await;
                    }
                }
            }
            drop(place);
        });
    }
}

/// Ends when the server is told to stop.
async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn connection<S>(stream: S, router: Router, mut stop: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(router));
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        // Errors are the client's: it was slow, sent nonsense or left.
        _ = serving.as_mut() => {}
        () = told(&mut stop) => {
            serving.as_mut().graceful_shutdown();
            let _ = serving.await;
        }
    }
}
