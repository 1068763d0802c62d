//! BTF as a table of types that can be taken apart and put together again. Format: Documentation/bpf/btf.rst in the kernel.

use anyhow::{Context, ensure};

const MAGIC: u16 = 0xeb9f;
const HEADER_BYTES: u32 = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub(super) enum Kind {
    Void,
    Int,
    Ptr,
    Array,
    Struct,
    Union,
    Enum,
    Fwd,
    Typedef,
    Volatile,
    Const,
    Restrict,
    Func,
    FuncProto,
    Var,
    DataSec,
    Float,
    DeclTag,
    TypeTag,
    Enum64,
}

impl Kind {
    const ALL: [Self; 20] = [
        Self::Void,
        Self::Int,
        Self::Ptr,
        Self::Array,
        Self::Struct,
        Self::Union,
        Self::Enum,
        Self::Fwd,
        Self::Typedef,
        Self::Volatile,
        Self::Const,
        Self::Restrict,
        Self::Func,
        Self::FuncProto,
        Self::Var,
        Self::DataSec,
        Self::Float,
        Self::DeclTag,
        Self::TypeTag,
        Self::Enum64,
    ];

    /// Words that follow the type, for each element and besides.
    const fn words(self) -> (usize, usize) {
        match self {
            Self::Struct | Self::Union | Self::DataSec | Self::Enum64 => (3, 0),
            Self::Enum | Self::FuncProto => (2, 0),
            Self::Array => (0, 3),
            Self::Int | Self::Var | Self::DeclTag => (0, 1),
            _ => (0, 0),
        }
    }

    /// Whether the word after the type's info is another type.
    pub(super) const fn refers(self) -> bool {
        matches!(
            self,
            Self::Ptr
                | Self::Typedef
                | Self::Volatile
                | Self::Const
                | Self::Restrict
                | Self::Func
                | Self::FuncProto
                | Self::Var
                | Self::DeclTag
                | Self::TypeTag
        )
    }
}

/// A type; names are in clear, types are places in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Type {
    pub(super) kind: Kind,
    pub(super) name: String,
    /// Bit-field sizes in a struct's offsets; signedness of an enum; union or struct of a forward declaration.
    pub(super) flag: bool,
    pub(super) size_or_type: u32,
    /// Of members, parameters and values.
    pub(super) elements: Vec<Element>,
    /// The words of an array or an int.
    pub(super) words: Vec<u32>,
    /// Linkage of a function, which stands where others have their number of elements.
    linkage: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) name: String,
    /// A member's type and offset, a parameter's type, a value's low and high word.
    pub(super) words: [u32; 2],
}

/// All types; the first is void.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) types: Vec<Type>,
}

impl Type {
    pub(super) fn new(kind: Kind, name: &str) -> Self {
        Self {
            kind,
            name: name.to_owned(),
            flag: false,
            size_or_type: 0,
            elements: Vec::new(),
            words: Vec::new(),
            linkage: 0,
        }
    }
}

impl Table {
    pub(super) fn parse(data: &[u8]) -> anyhow::Result<Self> {
        let word = |at: usize| word(data, at);
        ensure!(word(0)? & 0xffff == u32::from(MAGIC), "not BTF of this machine's byte order");
        let header = word(4)? as usize;
        let (types_at, types_len) = (header + word(8)? as usize, word(12)? as usize);
        let strings = header + word(16)? as usize;
        let text = |offset: u32| -> anyhow::Result<String> {
            let bytes = data.get(strings + offset as usize..).context("a name beyond the strings")?;
            let end = bytes.iter().position(|byte| *byte == 0).context("a name without end")?;
            Ok(std::str::from_utf8(bytes.get(..end).unwrap_or_default())?.to_owned())
        };
        let mut types = vec![Type::new(Kind::Void, "")];
        let mut at = types_at;
        while at < types_at + types_len {
            let info = word(at + 4)?;
            let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            let kind = *Kind::ALL.get(kind as usize).with_context(|| format!("types of an unknown kind {kind}"))?;
            let (each, besides) = kind.words();
            let mut read = Type::new(kind, &text(word(at)?)?);
            read.flag = info >> 31 == 1;
            read.size_or_type = word(at + 8)?;
            if kind == Kind::Func {
                read.linkage = info & 0xffff;
            }
            at += 12;
            for _ in 0..if each > 0 { count } else { 0 } {
                // The elements of a data section have no names and are not needed.
                let name = if kind == Kind::DataSec { String::new() } else { text(word(at)?)? };
                let second = if each > 2 { word(at + 8)? } else { 0 };
                read.elements.push(Element { name, words: [word(at + 4)?, second] });
                at += 4 * each;
            }
            for _ in 0..besides {
                read.words.push(word(at)?);
                at += 4;
            }
            types.push(read);
        }
        Ok(Self { types })
    }

    pub(super) fn get(&self, id: u32) -> anyhow::Result<&Type> {
        self.types.get(id as usize).with_context(|| format!("no type {id}"))
    }

    pub(super) fn to_bytes(&self) -> anyhow::Result<Vec<u8>> {
        let mut strings = Strings::default();
        let mut types = Vec::new();
        for kept in self.types.iter().skip(1) {
            let (each, _) = kept.kind.words();
            let count = u32::try_from(kept.elements.len())?.max(kept.linkage);
            let info = u32::from(kept.flag) << 31 | (kept.kind as u32) << 24 | count;
            types.extend([strings.add(&kept.name)?, info, kept.size_or_type]);
            for element in &kept.elements {
                types.push(strings.add(&element.name)?);
                types.extend(element.words.iter().take(each - 1));
            }
            types.extend(&kept.words);
        }
        let types_len = u32::try_from(4 * types.len())?;
        let strings_len = u32::try_from(strings.text.len())?;
        let mut out = Vec::new();
        // Magic, version 1, no flags; then lengths and offsets.
        for word in
            [u32::from(MAGIC) | 1 << 16, HEADER_BYTES, 0, types_len, types_len, strings_len].iter().chain(&types)
        {
            out.extend(word.to_ne_bytes());
        }
        out.extend(strings.text);
        Ok(out)
    }
}

#[derive(Debug)]
struct Strings {
    text: Vec<u8>,
    places: std::collections::HashMap<String, u32>,
}

impl Default for Strings {
    fn default() -> Self {
        Self { text: vec![0], places: [(String::new(), 0)].into() }
    }
}

impl Strings {
    fn add(&mut self, name: &str) -> anyhow::Result<u32> {
        if let Some(place) = self.places.get(name) {
            return Ok(*place);
        }
        let place = u32::try_from(self.text.len())?;
        self.text.extend(name.as_bytes());
        self.text.push(0);
        self.places.insert(name.to_owned(), place);
        Ok(place)
    }
}

/// The types that the CO-RE relocations of a `.BTF.ext` section are about.
pub(super) fn relocated_types(section: &[u8]) -> anyhow::Result<Vec<u32>> {
    let word = |at: usize| word(section, at);
    let header = word(4)? as usize;
    // Magic, version, header length; offset and length of functions, lines and relocations.
    let (mut at, len) = (header + word(24)? as usize, word(28)? as usize);
    let end = at + len;
    let mut types = Vec::new();
    if len == 0 {
        return Ok(types);
    }
    let record = word(at)? as usize;
    ensure!(record >= 16, "relocations of {record} bytes");
    at += 4;
    while at < end {
        let count = word(at + 4)? as usize;
        at += 8;
        for _ in 0..count {
            types.push(word(at + 4)?);
            at += record;
        }
    }
    Ok(types)
}

fn word(data: &[u8], at: usize) -> anyhow::Result<u32> {
    let bytes = data.get(at..).and_then(|rest| rest.first_chunk()).context("the BTF ends too early")?;
    Ok(u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_apart_and_put_together_again_is_the_same() {
        let kernel = Table::parse(&std::fs::read("/sys/kernel/btf/vmlinux").unwrap()).unwrap();
        // Data sections lose their elements' types, which nothing here keeps.
        let types = kernel.types.into_iter().filter(|kept| kept.kind != Kind::DataSec).collect();
        let kernel = Table { types };
        assert!(kernel.types.len() > 10_000);
        assert_eq!(Table::parse(&kernel.to_bytes().unwrap()).unwrap().types, kernel.types);
    }

    #[test]
    fn what_is_cut_off_is_an_error() {
        let kernel = std::fs::read("/sys/kernel/btf/vmlinux").unwrap();
        for len in [0, 3, 23, 25, 4096, kernel.len() / 2] {
            assert!(Table::parse(&kernel[..len]).is_err(), "{len} bytes");
        }
    }
}
