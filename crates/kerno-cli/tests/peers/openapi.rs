//! What Schemathesis makes of the OpenAPI document and of what answers.

use std::process::Command;

use crate::component::component;
use crate::daemon::{Daemon, Leak, config, directory, until};
use crate::support::{alone, run, text};

#[test]
fn answers_are_as_the_document_says() {
    let _alone = alone();
    let directory = directory();
    let file = config(
        &directory,
        "[[objective]]\nname = 'room'\nmetric = 'kerno_memory_available_bytes'\nabove = '1MiB'\nshare = '99 %'\n",
    );
    let daemon = Daemon::start(&directory, &["--config", &file]);
    // Something to tell.
    let _leak = Leak::start();
    until("no incident", || (!daemon.incidents().is_empty()).then_some(()));
    let library = component("schemathesis");
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", &library).env("PYTHONDONTWRITEBYTECODE", "1").current_dir(directory.path());
    command.args(["-m", "schemathesis.cli", "run", &format!("http://{}/api/v1/openapi.json", daemon.http)]);
    // A stream without end; and a document cannot say that one parameter must be before another.
    command.args(["--exclude-path", "/api/v1/events", "--exclude-checks", "positive_data_acceptance"]);
    command.args(["--max-examples", "10", "--seed", "1", "--request-timeout", "20", "--no-color"]);
    let output = run(&mut command);
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}{}", text(&output.stderr));
    let cases = said.lines().find_map(|line| line.trim().split_once(" generated, ")).expect("it says how many");
    println!("{} cases, {}", cases.0, cases.1);
    assert!(cases.0.parse::<u32>().unwrap() > 100, "{said}");
    daemon.stop();
}
