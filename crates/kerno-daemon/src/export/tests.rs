use std::collections::BTreeMap;

use kerno_model::catalogue::samples;
use kerno_model::saved;
use kerno_store::Store;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::Field;
use serde_json::Value;

use super::*;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

fn corpus(name: &str, at: u32) -> Window {
    let mut window = saved::read_window(&std::fs::read(format!("{ROOT}/tests/corpus/{name}.json")).unwrap()).unwrap();
    let seconds = f64::from(at) * 600.0;
    window.span.started_unix = 1.7e9 + seconds;
    window.span.started_ns = (1e12 + seconds * 1e9) as u64;
    window
}

/// A store with some windows, and these.
fn past() -> (tempfile::TempDir, Past, Vec<Window>) {
    let directory = tempfile::tempdir().unwrap();
    let windows: Vec<_> =
        ["backup", "batch", "blocked_writer"].iter().zip(1..).map(|(name, at)| corpus(name, at)).collect();
    let (mut store, _) = Store::open(directory.path(), kerno_store::Settings::default()).unwrap();
    for window in &windows {
        store.append(window).unwrap();
    }
    drop(store);
    let past = Past::of_store(directory.path()).unwrap();
    (directory, past, windows)
}

const ALL: Range = Range { from_ns: 0, to_ns: u64::MAX };

fn exported(past: &Past, table: Table, format: Format) -> (Vec<u8>, Exported) {
    let mut bytes = Vec::new();
    let exported = export(past, ALL, table, format, &Redaction::off(), &mut bytes).unwrap();
    (bytes, exported)
}

/// Rows of JSON as text by field, and rows of Parquet so, too: what is missing is in neither.
type Read = Vec<BTreeMap<String, String>>;

fn of_json(bytes: &[u8]) -> Read {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let object = |line| serde_json::from_slice::<BTreeMap<String, Value>>(line).unwrap();
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| object(line).into_iter().map(|(name, value)| (name, text(&value))).collect()).collect()
}

fn of_parquet(bytes: Vec<u8>) -> Read {
    let reader = SerializedFileReader::new(hyper::body::Bytes::from(bytes)).unwrap();
    let text = |field: &Field| match field {
        Field::Null => None,
        Field::Str(text) => Some(text.clone()),
        Field::TimestampMicros(us) => Some(jiff::Timestamp::from_microsecond(*us).unwrap().to_string()),
        Field::Double(number) => Some(serde_json::Number::from_f64(*number).unwrap().to_string()),
        Field::Long(count) => Some(count.to_string()),
        other => panic!("{other:?}"),
    };
    let rows = reader.get_row_iter(None).unwrap().map(Result::unwrap);
    rows.map(|row| {
        let fields = row.get_column_iter();
        fields.filter_map(|(name, field)| Some((name.clone(), text(field)?))).collect()
    })
    .collect()
}

/// Parquet has microseconds.
fn without_nanoseconds(mut rows: Read) -> Read {
    for (_, value) in
        rows.iter_mut().flatten().filter(|(name, _)| ["time", "opened", "closed", "last_seen"].contains(&name.as_str()))
    {
        let at: jiff::Timestamp = value.parse().unwrap();
        *value = jiff::Timestamp::from_microsecond(at.as_microsecond()).unwrap().to_string();
    }
    rows
}

#[test]
fn both_forms_have_every_number_of_every_window() {
    let (_directory, past, windows) = past();
    let (json, exported_json) = exported(&past, Table::Samples, Format::Ndjson);
    let (table, exported_table) = exported(&past, Table::Samples, Format::Parquet);
    assert_eq!(exported_json, exported_table);
    assert_eq!(exported_json.windows, 3);
    assert_eq!(exported_json.unreadable, None);
    let rows = of_json(&json);
    assert_eq!(without_nanoseconds(rows.clone()), of_parquet(table));
    assert_eq!(rows.len() as u64, exported_json.rows);
    let given: usize = windows.iter().map(|window| samples(window).len()).sum();
    // Each window has one number that is none: kerno.build.info.
    assert_eq!(rows.len(), given - windows.len());
    // Distributions, to the last value.
    let counted: u64 = rows.iter().filter_map(|row| row.get("count")).map(|count| count.parse::<u64>().unwrap()).sum();
    let all = windows.iter().flat_map(samples);
    let made: u64 = all.filter_map(|sample| Some(sample.distribution()?.histogram.count())).sum();
    assert!(counted == made && made > 10_000, "{counted} of {made}");
    let opened = |row: &&BTreeMap<String, String>| row["metric"] == "kerno.file.opens";
    let opens: f64 = rows.iter().filter(opened).map(|row| row["value"].parse::<f64>().unwrap()).sum();
    let files = windows.iter().map(|window| window.file_audit.as_ref().unwrap().opens);
    assert!((opens - files.sum::<u64>() as f64).abs() < 0.5, "{opens}");
    assert!(rows.iter().any(|row| row.contains_key("label_unit")) && rows.iter().all(|row| row["host"] == "lab"));
}

#[test]
fn whole_windows_are_what_was_kept() {
    let (_directory, past, windows) = past();
    let (json, exported) = exported(&past, Table::Windows, Format::Ndjson);
    assert_eq!((exported.rows, exported.windows), (3, 3));
    let read: Vec<_> = json
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| saved::read_window(line).unwrap())
        .collect();
    assert_eq!(read, windows);
    let refused = export(&past, ALL, Table::Windows, Format::Parquet, &Redaction::off(), Vec::new()).unwrap_err();
    assert!(matches!(refused, ExportError::NoColumns));
}

#[test]
fn secrets_stay_here() {
    let directory = tempfile::tempdir().unwrap();
    let mut window = corpus("backup", 1);
    let process = window.processes.values_mut().next().unwrap();
    process.cmdline = "mysqldump --password=hunter2 --host=\"db\" shop".into();
    let (mut store, _) = Store::open(directory.path(), kerno_store::Settings::default()).unwrap();
    store.append(&window).unwrap();
    drop(store);
    let past = Past::of_store(directory.path()).unwrap();
    let exported = |redaction: &Redaction| {
        let mut bytes = Vec::new();
        export(&past, ALL, Table::Windows, Format::Ndjson, redaction, &mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    };
    assert!(exported(&Redaction::off()).contains("hunter2"));
    let hidden = exported(&Redaction::default());
    assert!(!hidden.contains("hunter2") && hidden.contains("--host=\\\"db\\\" shop"), "{hidden}");
    // All else is as it was.
    let mut read = saved::read_window(hidden.as_bytes()).unwrap();
    let pid = *window.processes.keys().next().unwrap();
    read.processes.get_mut(&pid).unwrap().cmdline = window.processes[&pid].cmdline.clone();
    assert_eq!(read, window);
}

#[test]
fn only_what_overlaps_the_time_is_exported() {
    let (_directory, past, windows) = past();
    let mut bytes = Vec::new();
    let from_ns = windows[1].span.end().unix_ns - 1;
    let exported = export(
        &past,
        Range { from_ns, to_ns: from_ns + 1 },
        Table::Samples,
        Format::Ndjson,
        &Redaction::off(),
        &mut bytes,
    )
    .unwrap();
    assert_eq!(exported.windows, 1);
    let nothing =
        export(&past, Range { from_ns: 5, to_ns: 6 }, Table::Samples, Format::Ndjson, &Redaction::off(), Vec::new())
            .unwrap_err();
    assert!(nothing.to_string().contains("nothing was observed then; the store has 2023-11-14"), "{nothing}");
}

#[test]
fn a_table_of_more_than_a_group_of_rows_is_whole() {
    let columns = || {
        vec![tables::Column::of_test("number", ColumnKind::Count), tables::Column::of_test("text", ColumnKind::Text)]
    };
    let mut bytes = Vec::new();
    let mut table = ParquetTable::new(columns(), &mut bytes).unwrap();
    let rows = 45_678;
    for number in 0..rows {
        let text = if number % 3 == 0 { tables::Cell::None } else { tables::Cell::Text(format!("{}", number % 7)) };
        table.add(vec![tables::Cell::Count(number), text]).unwrap();
    }
    table.finish().unwrap();
    let read = of_parquet(bytes);
    assert_eq!(read.len() as u64, rows);
    for (number, row) in read.iter().enumerate() {
        assert_eq!(row["number"], number.to_string());
        let expected = (number % 3 != 0).then(|| (number % 7).to_string());
        assert_eq!(row.get("text"), expected.as_ref());
    }
}

#[test]
fn the_page_has_every_column() {
    let page = format!("{ROOT}/docs/export.md");
    let text = std::fs::read_to_string(&page).unwrap();
    let (begin, end) = ("<!-- columns -->\n", "<!-- end of columns -->");
    let (before, rest) = text.split_once(begin).unwrap();
    let (_, after) = rest.split_once(end).unwrap();
    let mut expected = format!("{before}{begin}");
    for (title, table) in [("samples", Table::Samples), ("incidents", Table::Incidents)] {
        expected += &format!("\n### `{title}`\n\n| column | holds | what |\n|---|---|---|\n");
        for column in columns(table) {
            let kind = match column.kind {
                ColumnKind::Time => "time",
                ColumnKind::Number => "number",
                ColumnKind::Count => "whole number",
                ColumnKind::Text => "text",
            };
            expected += &format!("| `{}` | {kind} | {} |\n", column.name, column.about.replace('|', "\\|"));
        }
    }
    expected += &format!("\n{end}{after}");
    if std::env::var_os("KERNO_WRITE_DOCS").is_some() {
        std::fs::write(&page, &expected).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&page).unwrap(), expected, "KERNO_WRITE_DOCS=1 writes it");
}
