//! Compiles each `.bpf.c` into a committed object, so that users need no clang.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use kerno_kit::clang::compile;
use kerno_kit::workspace::library;
use sha2::{Digest, Sha256};

const SUMS: &str = "SHA256SUMS";

pub(crate) fn run(check: bool) -> anyhow::Result<()> {
    let library = library();
    let objects = library.join("objects");
    let out = if check {
        std::env::temp_dir().join(format!("kerno-objects-{}", std::process::id()))
    } else {
        objects.clone()
    };
    fs::create_dir_all(&out)?;
    let result = compile_all(&library, &out).and_then(|()| if check { compare(&objects, &out) } else { Ok(()) });
    if check {
        fs::remove_dir_all(&out)?;
    }
    result
}

fn compile_all(library: &Path, out: &Path) -> anyhow::Result<()> {
    let mut sums = BTreeMap::new();
    for header in sorted(&library.join("src/bpf"))? {
        sums.insert(relative(library, &header)?, sha256(&header)?);
    }
    let mut folders = vec![
        library.join("src/engine"),
        library.join("src/calls"),
        library.join("src/why"),
        library.join("tests/kernel"),
    ];
    folders.extend(sorted(&library.join("src/signals"))?.into_iter().filter(|path| path.is_dir()));
    for folder in folders {
        for part in sorted(&folder)?.into_iter().filter(|path| path.extension().is_some_and(|e| e == "h" || e == "c")) {
            let source = relative(library, &part)?;
            if let Some(name) =
                part.file_name().and_then(|name| name.to_str()?.strip_suffix(".bpf.c").map(str::to_owned))
            {
                let object = out.join(format!("{name}.bpf.o"));
                compile(Path::new(&source), &object)?;
                sums.insert(format!("objects/{name}.bpf.o"), sha256(&object)?);
                println!("{name}.bpf.o {} bytes", fs::metadata(&object)?.len());
            }
            sums.insert(source, sha256(&part)?);
        }
    }
    let mut text = String::new();
    for (path, sum) in sums {
        writeln!(text, "{sum}  {path}")?;
    }
    fs::write(out.join(SUMS), text)?;
    Ok(())
}

fn compare(committed: &Path, rebuilt: &Path) -> anyhow::Result<()> {
    let names = |folder: &Path| -> anyhow::Result<Vec<_>> {
        Ok(sorted(folder)?.iter().filter_map(|path| path.file_name().map(|name| name.to_owned())).collect())
    };
    let mut stale = Vec::new();
    let (ours, theirs) = (names(committed)?, names(rebuilt)?);
    for name in ours.iter().chain(&theirs).collect::<std::collections::BTreeSet<_>>() {
        if fs::read(committed.join(name)).ok() != fs::read(rebuilt.join(name)).ok() {
            stale.push(name.to_string_lossy().into_owned());
        }
    }
    if !stale.is_empty() {
        bail!("stale in crates/kerno-bpf/objects: {}; run cargo xtask bpf and commit the result", stale.join(", "));
    }
    println!("all objects match their sources");
    Ok(())
}

pub(crate) fn sorted(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(folder)
        .with_context(|| format!("cannot list {}", folder.display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()?;
    paths.sort();
    Ok(paths)
}

fn relative(library: &Path, path: &Path) -> anyhow::Result<String> {
    Ok(path.strip_prefix(library)?.to_string_lossy().into_owned())
}

pub(crate) fn sha256(path: &Path) -> anyhow::Result<String> {
    let data = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut text = String::new();
    for byte in Sha256::digest(data) {
        write!(text, "{byte:02x}")?;
    }
    Ok(text)
}
