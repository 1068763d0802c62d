//! Compiles each `.bpf.c` into a committed object, so that users need no clang.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use sha2::{Digest, Sha256};

const CLANG: &str = "clang-19";
const STRIP: &str = "llvm-strip-19";
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

/// The library's folder: sources are named relative to it, so that the objects do not depend on where the checkout is.
pub(crate) fn library() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/kerno-bpf")
}

fn compile_all(library: &Path, out: &Path) -> anyhow::Result<()> {
    let mut sums = BTreeMap::new();
    for header in sorted(&library.join("src/bpf"))? {
        sums.insert(relative(library, &header)?, sha256(&header)?);
    }
    let mut folders = vec![library.join("src/engine"), library.join("tests/kernel")];
    folders.extend(sorted(&library.join("src/signals"))?.into_iter().filter(|path| path.is_dir()));
    for folder in folders {
        for part in sorted(&folder)?.into_iter().filter(|path| path.extension().is_some_and(|e| e == "h" || e == "c")) {
            let source = relative(library, &part)?;
            if let Some(name) =
                part.file_name().and_then(|name| name.to_str()?.strip_suffix(".bpf.c").map(str::to_owned))
            {
                let object = out.join(format!("{name}.bpf.o"));
                compile(library, &source, &object)?;
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

fn compile(library: &Path, source: &str, object: &Path) -> anyhow::Result<()> {
    let multiarch = format!("-I/usr/include/{}-linux-gnu", std::env::consts::ARCH);
    run_tool(
        Command::new(CLANG)
            .current_dir(library)
            .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-std=gnu11"])
            .args(["-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-Wno-missing-field-initializers"])
            .args(["-fdebug-compilation-dir=.", "-Isrc/bpf", &multiarch, "-c", source, "-o"])
            .arg(object),
    )?;
    // Drops DWARF, keeps BTF.
    run_tool(Command::new(STRIP).arg("-g").arg(object))
}

#[cfg(feature = "bench")]
/// Compiles a source that is not a signal's (a benchmark's) and returns the object.
pub(crate) fn compile_to_temp(source: &Path) -> anyhow::Result<Vec<u8>> {
    let object = std::env::temp_dir().join(format!("kerno-{}.bpf.o", std::process::id()));
    let compiled = compile(&library(), &source.to_string_lossy(), &object);
    let data = fs::read(&object);
    let _ = fs::remove_file(&object);
    compiled?;
    Ok(data?)
}

fn run_tool(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status =
        command.status().with_context(|| format!("cannot run {program}; install clang-19, llvm-19 and libbpf-dev"))?;
    ensure!(status.success(), "{program} failed");
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
