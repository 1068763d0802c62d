use kerno::signals;
use rustix::thread::CapabilitySet;
use serde_json::Value;

use crate::support::{Unprivileged, kerno, run, text};

fn json(output: &std::process::Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn root_hears_that_everything_works() {
    let output = run(&mut kerno(&["check", "--output", "json"]));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let facts = json(&output);
    let uname = rustix::system::uname();
    assert_eq!(facts["kernel"], uname.release().to_str().unwrap());
    assert_eq!(facts["machine"], uname.machine().to_str().unwrap());
    assert_eq!(facts["btf"], true);
    assert!(facts["kernel_memory_bytes"].as_u64().unwrap() > 1 << 20, "the rings at least: {facts}");
    for capability in facts["capabilities"].as_array().unwrap() {
        assert_eq!(capability["present"], true, "{capability}");
    }
    assert_eq!((&facts["doctor"]["available"], &facts["doctor"]["reason"]), (&true.into(), &Value::Null));
    assert!(facts["doctor"]["kernel_memory_bytes"].is_u64(), "{}", facts["doctor"]);
    let found = facts["signals"].as_array().unwrap();
    assert_eq!(found.len(), signals::ALL.len());
    for (signal, known) in found.iter().zip(signals::ALL) {
        assert_eq!((signal["signal"].as_str(), signal["alias"].as_str()), (Some(known.name), Some(known.alias)));
        assert_eq!((&signal["available"], &signal["tried"]), (&Value::Bool(true), &Value::Bool(true)), "{signal}");
        assert!(signal["reason"].is_null());
        assert!(!signal["hooks"].as_array().unwrap().is_empty());
    }

    let output = run(&mut kerno(&["check"]));
    let report = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0));
    assert!(!report.contains('\x1b') && !report.contains("missing"), "{report}");
    assert!(report.contains("\ndoctor         yes"), "{report}");
    for signal in signals::ALL {
        let line = report.lines().find(|line| line.contains(signal.name)).unwrap();
        assert!(line.starts_with(signal.alias) && line.contains("  yes  "), "{line}");
    }
}

#[test]
fn others_hear_what_is_missing() {
    let user = Unprivileged::new();
    let nothing = CapabilitySet::empty();
    let output = run(&mut user.with(nothing, &["check", "-o", "json"]));
    assert_eq!(output.status.code(), Some(2));
    let facts = json(&output);
    assert_eq!(facts["btf"], true, "needs no privilege");
    for (capability, name) in facts["capabilities"].as_array().unwrap().iter().zip(["CAP_BPF", "CAP_PERFMON"]) {
        assert_eq!((&capability["name"], &capability["present"]), (&name.into(), &false.into()));
    }
    assert_eq!(facts["doctor"]["available"], false);
    assert!(facts["doctor"]["reason"].as_str().unwrap().contains("CAP_BPF and CAP_PERFMON"), "{}", facts["doctor"]);
    for signal in facts["signals"].as_array().unwrap() {
        assert_eq!((&signal["available"], &signal["tried"]), (&Value::Bool(false), &Value::Bool(false)));
        assert!(signal["reason"].as_str().unwrap().contains("CAP_BPF and CAP_PERFMON"));
        assert!(!signal["hooks"].as_array().unwrap().is_empty(), "known without privileges");
    }

    let output = run(&mut user.with(nothing, &["check"]));
    let report = text(&output.stdout);
    assert_eq!(output.status.code(), Some(2));
    assert!(report.contains("missing") && report.contains("setcap cap_bpf,cap_perfmon+ep"), "{report}");

    // One of the two is not enough, and is not asked for again.
    let output = run(&mut user.with(CapabilitySet::BPF, &["check", "-o", "json"]));
    assert_eq!(output.status.code(), Some(2));
    let reason = json(&output)["signals"][0]["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("CAP_PERFMON") && !reason.contains("CAP_BPF"), "{reason}");

    let output = run(&mut user.with(CapabilitySet::BPF | CapabilitySet::PERFMON, &["check"]));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
}
