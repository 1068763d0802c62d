//! Compiling eBPF programs. One compiler and one set of flags for all: committed objects must not depend on the machine.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::workspace;

const CLANG: &str = "clang-19";
const STRIP: &str = "llvm-strip-19";

/// Compiles a source, named relative to the library's folder or absolute, into an object.
///
/// # Errors
///
/// When a tool is missing or the source does not compile.
pub fn compile(source: &Path, object: &Path) -> Result<()> {
    let multiarch = format!("-I/usr/include/{}-linux-gnu", std::env::consts::ARCH);
    run_tool(
        Command::new(CLANG)
            .current_dir(workspace::library())
            .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-std=gnu11"])
            .args(["-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-Wno-missing-field-initializers"])
            .args(["-fdebug-compilation-dir=.", "-Isrc/bpf", &multiarch, "-c"])
            .arg(source)
            .arg("-o")
            .arg(object),
    )?;
    // Drops DWARF, keeps BTF. Places in the programs are in .BTF.ext itself: its relocations, which can be as long as all the rest, add nothing.
    run_tool(Command::new(STRIP).args(["-g", "--remove-section=.rel.BTF.ext"]).arg(object))
}

/// Compiles a source that is not one of the library's, and gives the object's bytes.
///
/// # Errors
///
/// As [`compile`].
pub fn compile_to_memory(source: &Path) -> Result<Vec<u8>> {
    let object = tempfile::NamedTempFile::new()?;
    compile(source, object.path())?;
    Ok(std::fs::read(object.path())?)
}

fn run_tool(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status =
        command.status().with_context(|| format!("cannot run {program}; install clang-19, llvm-19 and libbpf-dev"))?;
    ensure!(status.success(), "{program} failed");
    Ok(())
}
