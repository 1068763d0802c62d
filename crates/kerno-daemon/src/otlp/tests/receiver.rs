//! A receiver of both protocols on one port, over plain TCP or TLS, that answers as it is told: real ones cannot be made to fail in all these
//! ways.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::HeaderMap;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::otlp::message::{Answer, LogsRequest, MetricsRequest, PartialSuccess};

/// How a request is answered.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    Taken,
    /// So many are rejected, with this message.
    Partly(i64, &'static str),
    /// An HTTP status, headers and a body.
    Http(u16, Vec<(&'static str, String)>, &'static str),
    /// A gRPC status, a message, and details.
    Grpc(u16, &'static str, Vec<u8>),
    /// The answer comes so late.
    Late(Duration),
    /// What is no answer to this.
    Nonsense,
}

/// A request that came.
#[derive(Clone, Debug)]
pub(super) struct Came {
    pub(super) at: Instant,
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) is_compressed: bool,
    pub(super) body: Vec<u8>,
}

impl Came {
    pub(super) fn metrics(&self) -> MetricsRequest {
        MetricsRequest::decode(self.body.as_slice()).unwrap()
    }

    pub(super) fn logs(&self) -> LogsRequest {
        LogsRequest::decode(self.body.as_slice()).unwrap()
    }

    pub(super) fn is_logs(&self) -> bool {
        self.path.to_lowercase().contains("logs")
    }
}

#[derive(Debug, Default)]
struct Told {
    came: Mutex<Vec<Came>>,
    replies: Mutex<VecDeque<Reply>>,
}

#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) address: SocketAddr,
    told: Arc<Told>,
    stop: watch::Sender<bool>,
}

impl Receiver {
    pub(super) fn start() -> Self {
        Self::on(([127, 0, 0, 1], 0).into(), None)
    }

    pub(super) fn on(address: SocketAddr, tls: Option<TlsAcceptor>) -> Self {
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let told = Arc::new(Told::default());
        let (stop, stopped) = watch::channel(false);
        let of_thread = Arc::clone(&told);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve(listener, tls, of_thread, stopped));
            runtime.shutdown_background();
        });
        Self { address, told, stop }
    }

    /// The next requests are answered so; those after them are taken.
    pub(super) fn reply(&self, replies: impl IntoIterator<Item = Reply>) {
        self.told.replies.lock().unwrap().extend(replies);
    }

    pub(super) fn came(&self) -> Vec<Came> {
        self.told.came.lock().unwrap().clone()
    }

    pub(super) fn logs(&self) -> Vec<Came> {
        self.came().into_iter().filter(Came::is_logs).collect()
    }

    pub(super) fn metrics(&self) -> Vec<Came> {
        self.came().into_iter().filter(|came| !came.is_logs()).collect()
    }

    /// It and its connections are gone.
    pub(super) fn stop(&self) {
        let _ = self.stop.send(true);
        std::thread::sleep(Duration::from_millis(200));
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
    }
}

async fn serve(
    listener: std::net::TcpListener,
    tls: Option<TlsAcceptor>,
    told: Arc<Told>,
    mut stop: watch::Receiver<bool>,
) {
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted.unwrap().0,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let (told, tls) = (Arc::clone(&told), tls.clone());
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| answer(request, Arc::clone(&told)));
            let server = auto::Builder::new(TokioExecutor::new());
            // An error is a client that went away, or one that the server refuses.
            match tls {
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        let _ = server.serve_connection(TokioIo::new(stream), service).await;
                    }
                }
                None => drop(server.serve_connection(TokioIo::new(stream), service).await),
            }
        });
    }
}

type Body = http_body_util::combinators::BoxBody<Bytes, Infallible>;

async fn answer(request: Request<Incoming>, told: Arc<Told>) -> Result<Response<Body>, hyper::Error> {
    let (head, body) = request.into_parts();
    let is_grpc = head.headers.get("content-type").is_some_and(|kind| kind == "application/grpc");
    let mut body = body.collect().await?.to_bytes().to_vec();
    let mut is_compressed = head.headers.get("content-encoding").is_some_and(|encoding| encoding == "gzip");
    if is_grpc {
        is_compressed = body[0] == 1;
        let length = u32::from_be_bytes(body[1..5].try_into().unwrap()) as usize;
        body = body[5..].to_vec();
        assert_eq!(body.len(), length, "one message");
    }
    if is_compressed {
        let mut plain = Vec::new();
        GzDecoder::new(body.as_slice()).read_to_end(&mut plain).unwrap();
        body = plain;
    }
    let path = head.uri.path().to_owned();
    told.came.lock().unwrap().push(Came { at: Instant::now(), path, headers: head.headers, is_compressed, body });
    let reply = told.replies.lock().unwrap().pop_front().unwrap_or(Reply::Taken);
    let message = match &reply {
        Reply::Late(time) => {
            tokio::time::sleep(*time).await;
            Answer::default()
        }
        Reply::Partly(rejected, message) => {
            Answer { partial: Some(PartialSuccess { rejected: *rejected, message: (*message).to_owned() }) }
        }
        _ => Answer::default(),
    };
    let bytes = if matches!(reply, Reply::Nonsense) { vec![0xff; 40] } else { message.encode_to_vec() };
    Ok(match (reply, is_grpc) {
        (Reply::Http(status, headers, text), _) => {
            let mut response = Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            response.body(Full::new(Bytes::from(text)).boxed()).unwrap()
        }
        (Reply::Grpc(status, message, details), _) => grpc(None, status, message, &details),
        (_, true) => grpc(Some(&bytes), 0, "", &[]),
        (_, false) => {
            let response = Response::builder().header("content-type", "application/x-protobuf");
            response.body(Full::new(Bytes::from(bytes)).boxed()).unwrap()
        }
    })
}

/// An answer of gRPC: a message with its length, and the status after it.
fn grpc(message: Option<&[u8]>, status: u16, text: &str, details: &[u8]) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.to_string().parse().unwrap());
    if !text.is_empty() {
        trailers.insert("grpc-message", text.parse().unwrap());
    }
    if !details.is_empty() {
        trailers.insert("grpc-status-details-bin", base64(details).parse().unwrap());
    }
    let mut body = Vec::new();
    if let Some(message) = message {
        body.push(0);
        body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        body.extend(message);
    }
    let body = Full::new(Bytes::from(body)).with_trailers(async move { Some(Ok(trailers)) });
    Response::builder().header("content-type", "application/grpc").body(body.boxed()).unwrap()
}

/// Without padding, as gRPC writes it.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            text.push(char::from(DIGITS[(bits >> (18 - 6 * place) & 63) as usize]));
        }
    }
    text
}
