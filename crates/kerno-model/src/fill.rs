//! Building structs that may get more fields.

/// Builds a value of a struct that is `#[non_exhaustive]`, written as a struct literal: the fields that are given are set in what comes
/// after `..`, or else in the default.
///
/// Structs of this crate may get more fields in any version, so other crates cannot use literals of them.
///
/// ```
/// use kerno_model::{Missing, Span, Window, fill};
///
/// let window = fill!(Window {
///     span: fill!(Span { started_ns: 5_000_000_000, seconds: 30.0 }),
///     missing: vec![fill!(Missing { signal: "disk_io".into(), what: "all".into() })],
/// });
/// let later = fill!(Window { kerno_version: "1.0".into(), ..window.clone() });
/// assert_eq!(later.span, window.span);
/// ```
#[macro_export]
macro_rules! fill {
    (@value $field:ident) => { $field };
    (@value $field:ident $value:expr) => { $value };
    ($type:ty { $($field:ident $(: $value:expr)?,)* ..$base:expr }) => {{
        #[allow(unused_mut, clippy::field_reassign_with_default, reason = "no field may be given")]
        {
            let mut filled: $type = $base;
            $(filled.$field = $crate::fill!(@value $field $($value)?);)*
            filled
        }
    }};
    ($type:ty { $($field:ident $(: $value:expr)?),* $(,)? }) => {
        $crate::fill!($type { $($field $(: $value)?,)* ..<$type as ::std::default::Default>::default() })
    };
}
