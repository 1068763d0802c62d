//! Reads BTF as far as it is needed: which tracepoints exist and with how many arguments, and the layout of structs.
//! Format: Documentation/bpf/btf.rst in the kernel.

#[cfg(test)]
pub(crate) mod describe;

use std::collections::HashMap;

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
const KIND_DECL_TAG: u32 = 17;
const KIND_TYPE_TAG: u32 = 18;
const KIND_ENUM64: u32 = 19;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed BTF at byte {0}")]
pub(crate) struct MalformedBtf(usize);

/// An index over BTF bytes.
#[derive(Debug, Default)]
pub(crate) struct Btf {
    data: Vec<u8>,
    strings: usize,
    /// Byte offset of each type; index 0 is void.
    types: Vec<usize>,
    typedefs: HashMap<String, u32>,
    structs: HashMap<String, Vec<u32>>,
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
        let word = |at: usize| read_u32(&data, at);
        if read_u16(&data, 0)? != MAGIC {
            return Err(MalformedBtf(0));
        }
        let header = word(4)? as usize;
        let (types_at, types_len) = (header + word(8)? as usize, word(12)? as usize);
        let strings = header + word(16)? as usize;
        let mut btf =
            Self { strings, types: vec![0], typedefs: HashMap::new(), structs: HashMap::new(), data: Vec::new() };
        let mut named = Vec::new();
        let mut at = types_at;
        while at < types_at + types_len {
            let info = word(at + 4)?;
            let (kind, vlen) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            if matches!(kind, KIND_TYPEDEF | KIND_STRUCT) {
                named.push((kind, u32::try_from(btf.types.len()).map_err(|_| MalformedBtf(at))?));
            }
            btf.types.push(at);
            at += 12
                + match kind {
                    KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
                    KIND_ARRAY => 12,
                    KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => 12 * vlen,
                    KIND_ENUM | KIND_FUNC_PROTO => 8 * vlen,
                    _ => 0,
                };
        }
        btf.data = data;
        for (kind, id) in named {
            let name = btf.name(id)?.to_owned();
            if kind == KIND_TYPEDEF {
                btf.typedefs.insert(name, id);
            } else if !name.is_empty() {
                btf.structs.entry(name).or_default().push(id);
            }
        }
        Ok(btf)
    }

    /// How many arguments the tracepoint has for a BTF program, `None` when this kernel does not have it.
    pub(crate) fn tracepoint_arity(&self, name: &str) -> Option<usize> {
        let typedef = *self.typedefs.get(&format!("btf_trace_{name}"))?;
        let proto = self.resolve(self.size_or_type(typedef).ok()?).ok()?;
        let (kind, vlen) = self.kind(proto).ok()?;
        // The first argument is the tracer's own context pointer, which programs do not see.
        (kind == KIND_FUNC_PROTO).then(|| vlen.saturating_sub(1))
    }

    /// How many arguments the kernel's function has, `None` when there is none of this name. Looks at every type.
    pub(crate) fn function_arity(&self, name: &str) -> Option<usize> {
        let ids = (1..self.types.len()).filter_map(|id| u32::try_from(id).ok());
        let mut functions = ids.filter(|id| self.kind(*id).is_ok_and(|(kind, _)| kind == KIND_FUNC));
        let function = functions.find(|id| self.name(*id) == Ok(name))?;
        let (kind, vlen) = self.kind(self.size_or_type(function).ok()?).ok()?;
        (kind == KIND_FUNC_PROTO).then_some(vlen)
    }

    /// Whether the kernel has this iterator (`bpf_iter_NAME` functions are found through their context struct).
    pub(crate) fn has_iterator(&self, name: &str) -> bool {
        self.structs.contains_key(&format!("bpf_iter__{name}"))
    }

    /// How many structs have this name: more than one makes a relocation ambiguous.
    pub(crate) fn struct_count(&self, name: &str) -> usize {
        self.structs.get(name).map_or(0, Vec::len)
    }

    /// The value of this name in any enum, including unnamed enums, which no relocation can find.
    pub(crate) fn enum_value(&self, name: &str) -> Option<u32> {
        let is_named = |at: usize| {
            let start = self.strings + read_u32(&self.data, at).ok()? as usize;
            let rest = self.data.get(start..)?.strip_prefix(name.as_bytes())?;
            (rest.first() == Some(&0)).then_some(at)
        };
        let enums = self.types.iter().skip(1).filter_map(|at| {
            let info = read_u32(&self.data, at + 4).ok()?;
            (info >> 24 & 0x1f == KIND_ENUM).then_some((at + 12, (info & 0xffff) as usize))
        });
        let mut values = enums.flat_map(|(first, count)| (0..count).map(move |i| first + 8 * i));
        read_u32(&self.data, values.find_map(is_named)? + 4).ok()
    }

    /// Size of a struct and its members, in declaration order.
    #[cfg(test)]
    pub(crate) fn struct_layout(&self, name: &str) -> Result<Option<(usize, Vec<Member>)>, MalformedBtf> {
        let Some(id) = self.structs.get(name).and_then(|ids| ids.first().copied()) else {
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
        self.types.get(id as usize).copied().ok_or(MalformedBtf(id as usize))
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

    fn name(&self, id: u32) -> Result<&str, MalformedBtf> {
        self.string(read_u32(&self.data, self.at(id)?)?)
    }

    fn string(&self, offset: u32) -> Result<&str, MalformedBtf> {
        let start = self.strings + offset as usize;
        let bytes = self.data.get(start..).ok_or(MalformedBtf(start))?;
        std::str::from_utf8(kerno_model::text::until_nul(bytes)).map_err(|_| MalformedBtf(start))
    }
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
