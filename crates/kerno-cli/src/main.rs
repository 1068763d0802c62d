//! kerno
fn main() {}
