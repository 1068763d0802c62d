//! What is served, described for programs: an OpenAPI document. It is made from the types that are answered, by a test, so that nothing has to be
//! made while kerno runs.

#[cfg(test)]
mod document;

/// The document, as JSON.
pub(super) const DOCUMENT: &str = include_str!("openapi.json");
