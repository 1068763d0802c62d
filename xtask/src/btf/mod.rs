//! Takes from the kernels of the matrix as much BTF as the programs can be checked against, so that the tests need no such kernel.

mod table;
mod trim;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use flate2::{Compression, GzBuilder};
use kerno_kit::workspace::library;
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

use crate::bpf::{sha256, sorted};
use crate::vm;
use table::Table;
use trim::Wanted;

/// What a stored kernel may take at most, compressed.
const MAX_BYTES: usize = 100_000;

pub(crate) fn run() -> anyhow::Result<()> {
    let library = library();
    let folder = library.join("tests/btf");
    fs::create_dir_all(&folder)?;
    let wanted = wanted(&library.join("objects"))?;
    let kernels = vm::unpack()?;
    for old in sorted(&folder)? {
        fs::remove_file(old)?;
    }
    let mut rows = String::new();
    for kernel in &kernels {
        let image = fs::read(&kernel.vmlinux)?;
        let table = Table::parse(&section(&image, ".BTF").with_context(|| kernel.release.clone())?)?;
        let trimmed = trim::trim(&table, &wanted).with_context(|| kernel.release.clone())?;
        // No time and no name in the header: the same kernel gives the same file.
        let packed = {
            let mut encoder = GzBuilder::new().write(Vec::new(), Compression::best());
            std::io::Write::write_all(&mut encoder, &trimmed)?;
            encoder.finish()?
        };
        ensure!(packed.len() <= MAX_BYTES, "{}: {} bytes are too many to store", kernel.release, packed.len());
        println!("{}  {} bytes, of {}", kernel.release, packed.len(), trimmed.len());
        fs::write(folder.join(format!("{}.btf.gz", kernel.release)), packed)?;
        for package in &kernel.packages {
            let name = package.file_name().and_then(|name| name.to_str()).context("a package has a name")?;
            // apt writes the colon of an epoch and such as %3a.
            writeln!(rows, "| {} | {} | `{}` |", kernel.release, name.replace("%3a", ":"), sha256(package)?)?;
        }
    }
    let names: String = wanted.names().iter().fold(String::new(), |text, name| text + name + "\n");
    fs::write(folder.join("NAMES"), names)?;
    fs::write(folder.join("README.md"), README.replace("{rows}", &rows))?;
    Ok(())
}

const README: &str = "\
# Types of the kernels that people run

Written by `cargo xtask btf`; not to be edited. Each `RELEASE.btf.gz` is a part of the BTF of one of Debian's kernels: all
definitions of the types listed in `NAMES` with all their members, the types these hold by value, the tracepoints' and iterators'
prototypes, and the enums of helpers and map types. What pointers to other types point to is left out. Look inside with
`zcat FILE > kernel.btf; bpftool btf dump file kernel.btf`.

The kernels come from these packages (https://packages.debian.org; older ones: https://snapshot.debian.org), and so are under
the kernel's licence, GPL-2.0-only:

| release | package | SHA-256 |
|---|---|---|
{rows}";

/// What the committed objects name, and types that hold by value or point to what they name.
fn wanted(objects: &Path) -> anyhow::Result<Wanted> {
    let mut wanted = Wanted::default();
    for path in sorted(objects)?.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "o")) {
        let data = fs::read(&path)?;
        let place = || path.display().to_string();
        let table = Table::parse(&section(&data, ".BTF").with_context(place)?)?;
        let mut roots = BTreeSet::new();
        if let Ok(extension) = section(&data, ".BTF.ext") {
            roots.extend(table::relocated_types(&extension).with_context(place)?);
        }
        wanted.add_types(&table, roots).with_context(place)?;
        let file = object::File::parse(data.as_slice())?;
        for symbol in file.symbols().filter(object::ObjectSymbol::is_global) {
            let Some(index) = symbol.section_index() else { continue };
            wanted.add_hook(file.section_by_index(index)?.name()?);
        }
    }
    Ok(wanted)
}

fn section(file: &[u8], name: &str) -> anyhow::Result<Vec<u8>> {
    let file = object::File::parse(file)?;
    let section = file.section_by_name(name).with_context(|| format!("no section {name}"))?;
    Ok(section.data()?.to_vec())
}
