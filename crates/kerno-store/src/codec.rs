//! From windows to bytes and back.

use std::io::Read;

use brotli::enc::{BrotliEncoderParams, StandardAlloc};
use kerno_model::saved::{ReadError, read_window};
use kerno_model::{SCHEMA_VERSION, Window};
use serde::Deserialize;
use serde_json::Value;

use crate::pack;

/// The quality of the compression, from 0 to 11: see docs/decisions/store.md.
const QUALITY: i32 = 5;

/// A window as bytes, not yet compressed.
pub(crate) fn pack(window: &Window) -> Result<Vec<u8>, serde_json::Error> {
    Ok(pack::pack(&serde_json::to_value(window)?))
}

/// A window from bytes that [`pack()`] made, in this version of the saved form or an earlier one.
pub(crate) fn unpack(raw: &[u8]) -> Result<Window, ReadError> {
    let malformed = |what: String| ReadError::Malformed { line: 0, column: 0, what };
    let value = pack::unpack(raw).ok_or_else(|| malformed("not a packed window".to_owned()))?;
    if value.get("schema_version").and_then(Value::as_u64) == Some(SCHEMA_VERSION.into()) {
        Window::deserialize(value).map_err(|error| malformed(error.to_string()))
    } else {
        read_window(value.to_string().as_bytes())
    }
}

/// With less, the encoder takes tables of 32 MB.
const LEAST_WINDOW_BITS: u32 = 17;

/// The most bytes that a value has before compression.
pub(crate) const MAX_RAW_BYTES: usize = 64 << 20;

/// Compresses. What is alike in `dictionary` costs little; the same one is needed to decompress.
pub(crate) fn compress(raw: &[u8], dictionary: &[u8]) -> Vec<u8> {
    let bits = usize::BITS - (raw.len() + dictionary.len() + 32).leading_zeros();
    let params = BrotliEncoderParams {
        quality: QUALITY,
        #[allow(clippy::cast_possible_wrap, reason = "at most 64")]
        lgwin: bits.clamp(LEAST_WINDOW_BITS, 24) as i32,
        size_hint: raw.len(),
        ..BrotliEncoderParams::default()
    };
    let mut out = Vec::with_capacity(raw.len() / 6);
    let (mut input, mut output) = (vec![0; 1 << 15], vec![0; 1 << 15]);
    let result = brotli::BrotliCompressCustomIoCustomDict(
        &mut brotli::IoReaderWrapper(&mut { raw }),
        &mut brotli::IoWriterWrapper(&mut out),
        &mut input,
        &mut output,
        &params,
        StandardAlloc::default(),
        &mut |_, _, _, _| (),
        dictionary,
        std::io::ErrorKind::UnexpectedEof.into(),
    );
    debug_assert!(result.is_ok(), "neither a slice nor a vector fails");
    out
}

/// What was compressed: `None` if it is not that.
pub(crate) fn decompress(compressed: &[u8], dictionary: &[u8], raw_bytes: usize) -> Option<Vec<u8>> {
    if raw_bytes > MAX_RAW_BYTES {
        return None;
    }
    let mut raw = Vec::with_capacity(raw_bytes);
    let reader = brotli::Decompressor::new_with_custom_dict(compressed, 1 << 13, dictionary.to_vec().into());
    reader.take(raw_bytes as u64 + 1).read_to_end(&mut raw).ok()?;
    (raw.len() == raw_bytes).then_some(raw)
}
