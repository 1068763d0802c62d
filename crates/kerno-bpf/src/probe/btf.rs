//! As much of BTF as is needed: which tracepoints there are and with how many arguments, the layout of structs, and what relocations
//! need of the kernel's types. Format: Documentation/bpf/btf.rst in the kernel.

mod cut;
#[cfg(test)]
pub(crate) mod describe;

use std::ops::Deref;

use memmap2::Mmap;

const MAGIC: u16 = 0xeb9f;

const KIND_INT: u32 = 1;
const KIND_PTR: u32 = 2;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_RESTRICT: u32 = 11;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_FLOAT: u32 = 16;
const KIND_DECL_TAG: u32 = 17;
const KIND_TYPE_TAG: u32 = 18;
const KIND_ENUM64: u32 = 19;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed BTF at byte {0}")]
pub(crate) struct MalformedBtf(usize);

/// Where BTF lies.
#[derive(Debug)]
pub(super) enum Bytes {
    Read(Vec<u8>),
    /// The kernel's own (Linux 6.16), which never changes.
    Mapped(Mmap),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Read(bytes) => bytes,
            Self::Mapped(bytes) => bytes,
        }
    }
}

/// An index over BTF bytes: a hundred thousand types and more are passed once, and only what is asked for is looked at.
#[derive(Debug)]
pub(crate) struct Btf {
    data: Bytes,
    strings: usize,
    /// Byte offset of each type; index 0 is void.
    types: Vec<u32>,
    definitions: Definitions,
}

/// Where definitions are found by their names, without what CO-RE sets apart by three underscores: a hash table of type numbers, in
/// which a search goes on from place to place until a free one.
#[derive(Debug, Default)]
struct Definitions {
    /// Upper half of the hash, and the type; 0: free. A power of two of places.
    places: Vec<(u32, u32)>,
}

impl Definitions {
    fn with_room_for(count: usize) -> Self {
        Self { places: vec![(0, 0); (2 * count).next_power_of_two()] }
    }

    fn insert(&mut self, hash: u64, id: u32) {
        let mask = self.places.len() - 1;
        let mut at = Self::first(hash, mask);
        while self.places[at].1 != 0 {
            at = (at + 1) & mask;
        }
        self.places[at] = (Self::tag(hash), id);
    }

    /// Types whose names may have this hash, in the order of their numbers.
    fn candidates(&self, hash: u64) -> impl Iterator<Item = u32> {
        let mask = self.places.len() - 1;
        let from = Self::first(hash, mask);
        (0..self.places.len())
            .map(move |step| self.places[(from + step) & mask])
            .take_while(|(_, id)| *id != 0)
            .filter(move |(tag, _)| *tag == Self::tag(hash))
            .map(|(_, id)| id)
    }

    #[allow(clippy::cast_possible_truncation, reason = "the lower half")]
    const fn first(hash: u64, mask: usize) -> usize {
        hash as usize & mask
    }

    #[allow(clippy::cast_possible_truncation, reason = "the upper half")]
    const fn tag(hash: u64) -> u32 {
        (hash >> 32) as u32
    }
}

/// A name up to its end, and up to three underscores.
fn without_flavour(name: &[u8]) -> &[u8] {
    let flavour = name.windows(3).position(|window| window == b"___");
    flavour.map_or(name, |at| &name[..at])
}

/// FNV-1a, with its halves mixed: names are short.
fn hash(name: &[u8]) -> u64 {
    let mixed = name
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    mixed ^ mixed >> 29
}

/// What can be looked up by name: what relocations begin with, and the typedefs of tracepoints.
const fn is_definition(kind: u32) -> bool {
    matches!(kind, KIND_INT | KIND_STRUCT | KIND_UNION | KIND_ENUM | KIND_TYPEDEF | KIND_FLOAT | KIND_ENUM64)
}

/// A member of a struct, in bytes.
#[cfg(test)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) offset: usize,
    pub(crate) size: usize,
}

impl Btf {
    pub(crate) fn parse(data: Vec<u8>) -> Result<Self, MalformedBtf> {
        Self::index(Bytes::Read(data))
    }

    pub(super) fn index(data: Bytes) -> Result<Self, MalformedBtf> {
        let bytes = &*data;
        let word = |at: usize| read_u32(bytes, at);
        if read_u16(bytes, 0)? != MAGIC {
            return Err(MalformedBtf(0));
        }
        let header = word(4)? as usize;
        let (types_at, types_len) = (header + word(8)? as usize, word(12)? as usize);
        let strings = header + word(16)? as usize;
        // A type takes 12 bytes and more, and names are in the kernel's data once and for all.
        let mut types = Vec::with_capacity(types_len / 20 + 1);
        types.push(0);
        let mut named = Vec::new();
        let mut at = types_at;
        while at < types_at + types_len {
            let (name, info) = (word(at)?, word(at + 4)?);
            let (kind, vlen) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            let id = u32::try_from(types.len()).map_err(|_| MalformedBtf(at))?;
            if name != 0 && is_definition(kind) {
                named.push((hash(without_flavour(text(bytes, strings, name)?)), id));
            }
            types.push(u32::try_from(at).map_err(|_| MalformedBtf(at))?);
            at += 12 + elements(kind).map_or(0, |element| element.all(vlen));
        }
        let mut definitions = Definitions::with_room_for(named.len() + 1);
        for (hash, id) in named {
            definitions.insert(hash, id);
        }
        Ok(Self { strings, types, definitions, data })
    }

    /// Definitions of this name, and of those that CO-RE takes for the same, in the order of their numbers.
    fn definitions_of(&self, name: &[u8]) -> impl Iterator<Item = u32> {
        let name = without_flavour(name);
        self.definitions
            .candidates(hash(name))
            .filter(move |id| self.name_bytes(*id).is_ok_and(|other| without_flavour(other) == name))
    }

    /// Definitions of exactly this name.
    fn named(&self, kind: u32, name: &str) -> impl Iterator<Item = u32> {
        self.definitions_of(name.as_bytes()).filter(move |id| {
            self.kind(*id).is_ok_and(|(found, _)| found == kind) && self.name_bytes(*id) == Ok(name.as_bytes())
        })
    }

    /// The type that a program at this tracepoint is loaded for; `None` when this kernel does not have it.
    pub(crate) fn tracepoint_id(&self, name: &str) -> Option<u32> {
        self.named(KIND_TYPEDEF, &format!("btf_trace_{name}")).next()
    }

    /// How many arguments the tracepoint has for a BTF program, `None` when this kernel does not have it.
    pub(crate) fn tracepoint_arity(&self, name: &str) -> Option<usize> {
        let typedef = self.tracepoint_id(name)?;
        let proto = self.resolve(self.size_or_type(typedef).ok()?).ok()?;
        let (kind, vlen) = self.kind(proto).ok()?;
        // The first argument is the tracer's own context pointer, which programs do not see.
        (kind == KIND_FUNC_PROTO).then(|| vlen.saturating_sub(1))
    }

    /// The kernel's function of this name. Looks at every type.
    pub(crate) fn function_id(&self, name: &str) -> Option<u32> {
        let is_named = |at: usize| read_u32(&self.data, at).is_ok_and(|start| self.reads(start, name));
        let is_function = |at: usize| read_u32(&self.data, at + 4).is_ok_and(|info| info >> 24 & 0x1f == KIND_FUNC);
        let found = self.types.iter().skip(1).position(|at| is_function(*at as usize) && is_named(*at as usize))?;
        u32::try_from(found + 1).ok()
    }

    /// How many arguments the kernel's function has, `None` when there is none of this name.
    pub(crate) fn function_arity(&self, name: &str) -> Option<usize> {
        let (kind, vlen) = self.kind(self.size_or_type(self.function_id(name)?).ok()?).ok()?;
        (kind == KIND_FUNC_PROTO).then_some(vlen)
    }

    /// The type that an iterator's program is loaded for.
    pub(crate) fn iterator_id(&self, name: &str) -> Option<u32> {
        self.function_id(&format!("bpf_iter_{name}"))
    }

    /// Whether the kernel has this iterator (`bpf_iter_NAME` functions are found through their context struct).
    pub(crate) fn has_iterator(&self, name: &str) -> bool {
        self.struct_count(&format!("bpf_iter__{name}")) > 0
    }

    /// How many structs have this name: more than one makes a relocation ambiguous.
    pub(crate) fn struct_count(&self, name: &str) -> usize {
        self.named(KIND_STRUCT, name).count()
    }

    /// The value of this name in any enum, including unnamed enums, which no relocation can find.
    pub(crate) fn enum_value(&self, name: &str) -> Option<u32> {
        let is_named = |at: usize| read_u32(&self.data, at).is_ok_and(|start| self.reads(start, name));
        let enums = self.types.iter().skip(1).filter_map(|at| {
            let at = *at as usize;
            let info = read_u32(&self.data, at + 4).ok()?;
            (info >> 24 & 0x1f == KIND_ENUM).then_some((at + 12, (info & 0xffff) as usize))
        });
        let mut values = enums.flat_map(|(first, count)| (0..count).map(move |i| first + 8 * i));
        let found = values.find(|at| is_named(*at))?;
        read_u32(&self.data, found + 4).ok()
    }

    /// Size of a struct and its members, in declaration order.
    #[cfg(test)]
    pub(crate) fn struct_layout(&self, name: &str) -> Result<Option<(usize, Vec<Member>)>, MalformedBtf> {
        let Some(id) = self.named(KIND_STRUCT, name).next() else {
            return Ok(None);
        };
        let at = self.at(id)?;
        let (_, vlen) = self.kind(id)?;
        let mut members = Vec::new();
        for i in 0..vlen {
            let member = at + 12 + 12 * i;
            members.push(Member {
                name: self.string(read_u32(&self.data, member)?)?.to_owned(),
                offset: (read_u32(&self.data, member + 8)? & 0xff_ffff) as usize / 8,
                size: self.size(read_u32(&self.data, member + 4)?, 0)?,
            });
        }
        Ok(Some((self.size_or_type(id)? as usize, members)))
    }

    #[cfg(test)]
    fn size(&self, id: u32, depth: usize) -> Result<usize, MalformedBtf> {
        let id = self.resolve(id)?;
        let at = self.at(id)?;
        match self.kind(id)?.0 {
            KIND_PTR => Ok(8),
            KIND_ARRAY if depth < 8 => {
                Ok(self.size(read_u32(&self.data, at + 12)?, depth + 1)? * read_u32(&self.data, at + 20)? as usize)
            }
            _ => Ok(self.size_or_type(id)? as usize),
        }
    }

    /// Follows typedefs, qualifiers and type tags to the type itself; the typedef of a tracepoint is a pointer to a prototype.
    fn resolve(&self, mut id: u32) -> Result<u32, MalformedBtf> {
        for _ in 0..32 {
            match self.kind(id)?.0 {
                KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG => {
                    id = self.size_or_type(id)?
                }
                KIND_PTR if self.kind(self.size_or_type(id)?)?.0 == KIND_FUNC_PROTO => id = self.size_or_type(id)?,
                _ => return Ok(id),
            }
        }
        Err(MalformedBtf(self.at(id)?))
    }

    fn at(&self, id: u32) -> Result<usize, MalformedBtf> {
        self.types.get(id as usize).map(|at| *at as usize).ok_or(MalformedBtf(id as usize))
    }

    fn kind(&self, id: u32) -> Result<(u32, usize), MalformedBtf> {
        if id == 0 {
            return Ok((0, 0));
        }
        let info = read_u32(&self.data, self.at(id)? + 4)?;
        Ok((info >> 24 & 0x1f, (info & 0xffff) as usize))
    }

    fn size_or_type(&self, id: u32) -> Result<u32, MalformedBtf> {
        read_u32(&self.data, self.at(id)? + 8)
    }

    fn name_bytes(&self, id: u32) -> Result<&[u8], MalformedBtf> {
        text(&self.data, self.strings, read_u32(&self.data, self.at(id)?)?)
    }

    /// Whether a string is this one.
    fn reads(&self, start: u32, name: &str) -> bool {
        let rest = self.data.get(self.strings + start as usize..).and_then(|rest| rest.strip_prefix(name.as_bytes()));
        rest.is_some_and(|rest| rest.first() == Some(&0))
    }

    #[cfg(test)]
    fn name(&self, id: u32) -> Result<&str, MalformedBtf> {
        self.string(read_u32(&self.data, self.at(id)?)?)
    }

    #[cfg(test)]
    fn string(&self, offset: u32) -> Result<&str, MalformedBtf> {
        let bytes = text(&self.data, self.strings, offset)?;
        std::str::from_utf8(bytes).map_err(|_| MalformedBtf(self.strings + offset as usize))
    }
}

/// What follows the first 12 bytes of a type.
struct Elements {
    /// Of each one.
    bytes: usize,
    /// One, and not as many as the type says.
    is_one: bool,
}

impl Elements {
    const fn all(&self, count: usize) -> usize {
        if self.is_one { self.bytes } else { self.bytes * count }
    }
}

const fn elements(kind: u32) -> Option<Elements> {
    match kind {
        KIND_INT | KIND_VAR | KIND_DECL_TAG => Some(Elements { bytes: 4, is_one: true }),
        KIND_ARRAY => Some(Elements { bytes: 12, is_one: true }),
        KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => Some(Elements { bytes: 12, is_one: false }),
        KIND_ENUM | KIND_FUNC_PROTO => Some(Elements { bytes: 8, is_one: false }),
        _ => None,
    }
}

/// A string without its end, which it must have.
fn text(data: &[u8], strings: usize, offset: u32) -> Result<&[u8], MalformedBtf> {
    let start = strings + offset as usize;
    let bytes = data.get(start..).ok_or(MalformedBtf(start))?;
    let length = bytes.iter().position(|byte| *byte == 0).ok_or(MalformedBtf(start))?;
    Ok(&bytes[..length])
}

fn read_u32(data: &[u8], at: usize) -> Result<u32, MalformedBtf> {
    let bytes = data.get(at..).and_then(|rest| rest.first_chunk()).ok_or(MalformedBtf(at))?;
    Ok(u32::from_ne_bytes(*bytes))
}

fn read_u16(data: &[u8], at: usize) -> Result<u16, MalformedBtf> {
    let bytes = data.get(at..).and_then(|rest| rest.first_chunk()).ok_or(MalformedBtf(at))?;
    Ok(u16::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncated_or_garbled_btf_is_an_error_and_no_panic() {
        assert_eq!(Btf::parse(Vec::new()).unwrap_err(), MalformedBtf(0));
        assert!(Btf::parse(vec![0; 64]).is_err());
        let kernel = std::fs::read("/sys/kernel/btf/vmlinux").unwrap();
        for len in [3, 10, 24, 25, 4096, kernel.len() / 2] {
            assert!(Btf::parse(kernel[..len].to_vec()).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn the_running_kernel_has_the_tracepoints_with_their_arguments() {
        let kernel = Btf::parse(std::fs::read("/sys/kernel/btf/vmlinux").unwrap()).unwrap();
        assert_eq!(kernel.tracepoint_arity("sys_enter"), Some(2));
        assert_eq!(kernel.tracepoint_arity("inet_sock_set_state"), Some(3));
        assert_eq!(kernel.tracepoint_arity("no_such_event"), None);
        assert_eq!(kernel.function_arity("fd_install"), Some(2));
        assert_eq!(kernel.function_arity("no_such_function"), None);
        assert!(kernel.has_iterator("task_file"));
        assert!(!kernel.has_iterator("no_such_iterator"));
        assert_eq!(kernel.struct_count("task_struct"), 1);
        assert_eq!(kernel.enum_value("BPF_MAP_TYPE_HASH"), Some(1));
        assert_eq!(kernel.enum_value("BPF_MAP_TYPE_HAS"), None);
    }
}
