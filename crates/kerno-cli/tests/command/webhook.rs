//! Receives what webhooks send.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use serde_json::Value;

/// A webhook's receiver: the bodies that came.
pub fn receiver(address: SocketAddr) -> Arc<Mutex<Vec<Value>>> {
    let listener = TcpListener::bind(address).unwrap();
    let bodies: Arc<Mutex<Vec<Value>>> = Arc::default();
    let taken = Arc::clone(&bodies);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let (mut line, mut length) = (String::new(), 0);
            while stream.read_line(&mut line).unwrap_or(0) > 2 {
                if let Some(value) = line.to_lowercase().strip_prefix("content-length: ") {
                    length = value.trim().parse().unwrap();
                }
                line.clear();
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            taken.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
            stream.get_mut().write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").unwrap();
        }
    });
    bodies
}
