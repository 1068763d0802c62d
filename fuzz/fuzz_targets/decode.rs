//! Any bytes, as any type of event: decoded, shown and serialised without a panic; what is refused is refused with a reason.
#![no_main]

use kerno::{EventType, RawEvent};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((number, record)) = data.split_first() else { return };
    let Ok(event_type) = EventType::try_from(number % 9) else { return };
    let owned = RawEvent { event_type, data: record }.to_owned();
    match owned.decode() {
        Ok(event) => {
            assert!(!event.to_string().chars().any(char::is_control), "{event}");
            let json = serde_json::to_value(event).unwrap();
            assert_eq!(json["type"], event_type.name());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
