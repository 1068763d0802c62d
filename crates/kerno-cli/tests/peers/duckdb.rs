//! What DuckDB reads of `kerno export`.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::component::component;
use crate::daemon::{Daemon, Leak, directory, until};
use crate::support::{alone, run, text};

/// Prints the rows of a query as JSON.
const QUERY: &str = "import duckdb, json, sys; print(json.dumps(duckdb.sql(sys.argv[1]).fetchall(), default=str))";

fn rows(query: &str) -> Vec<Vec<Value>> {
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", component("duckdb")).args(["-c", QUERY, query]);
    let output = run(&mut python);
    assert!(output.status.success(), "{query}: {}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn duckdb_reads_both_forms_alike() {
    let _alone = alone();
    let directory = directory();
    let daemon = Daemon::start(&directory, &[]);
    let leak = Leak::start();
    until("no incident", || daemon.incidents().iter().any(|known| known["rule"] == "fd_leak").then_some(()));
    drop(leak);
    let now = jiff::Timestamp::now().to_string();
    // The window of this moment is kept when it is over.
    std::thread::sleep(Duration::from_secs(3));
    let at = |name: &str| daemon.path(name).to_str().unwrap().to_owned();
    for (table, form) in [("samples", "parquet"), ("samples", "ndjson"), ("incidents", "parquet")] {
        let file = at(&format!("{table}.{form}"));
        let output = run(&mut daemon.asked(&["export", &file, "--table", table, "--to", &now]));
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    let sums = "select metric, count(*), sum(value), sum(count), max(p99), count(label_unit), \
                cast(max(epoch_us(cast(time as timestamptz))) as bigint)";
    let of = |file: &str| rows(&format!("{sums} from '{file}' group by metric order by metric"));
    let (parquet, json) = (of(&at("samples.parquet")), of(&at("samples.ndjson")));
    assert!(parquet.len() > 50, "{parquet:?}");
    assert_eq!(parquet.len(), json.len());
    for (a, b) in parquet.iter().zip(&json) {
        // Sums of numbers in another order differ in their last digits.
        let near = |a: &Value, b: &Value| match (a.as_f64(), b.as_f64()) {
            (Some(a), Some(b)) => (a - b).abs() <= 1e-9 * a.abs().max(1.0),
            _ => a == b,
        };
        assert!(a.iter().zip(b).all(|(a, b)| near(a, b)), "{a:?} {b:?}");
    }
    // As the windows say themselves.
    let (_, windows) = daemon.get(&format!("/api/v1/windows?from=0&to={now}"), "");
    let windows: Vec<Value> = windows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let opens: f64 = windows.iter().map(|window| window["file_audit"]["opens"].as_f64().unwrap()).sum();
    let told = rows(&format!(
        "select sum(value), count(*) from '{}' where metric = 'kerno.file.opens'",
        at("samples.parquet")
    ));
    assert_eq!(told, [[Value::from(opens), Value::from(windows.len())]]);
    let incidents = rows(&format!("select id, rule, state, title, typeof(opened) from '{}'", at("incidents.parquet")));
    let known = daemon.incidents();
    assert!(incidents.iter().any(|row| row[1] == "fd_leak" && row[4] == "TIMESTAMP WITH TIME ZONE"), "{incidents:?}");
    for row in &incidents {
        assert!(known.iter().any(|incident| incident["id"] == row[0]), "{row:?}");
    }
    daemon.stop();
}
