//! What relocations are about, in words, and what a kernel has of it.

use std::collections::HashMap;

use super::{
    Btf, KIND_ARRAY, KIND_ENUM, KIND_ENUM64, KIND_FUNC_PROTO, KIND_PTR, KIND_STRUCT, KIND_TYPEDEF, KIND_UNION,
    MalformedBtf, read_u32,
};

/// What CO-RE looks a type up by.
pub(crate) fn without_flavour(name: &str) -> &str {
    name.split_once("___").map_or(name, |(name, _)| name)
}

impl Btf {
    /// A string of the object, which `.BTF.ext` refers to.
    pub(crate) fn text(&self, offset: u32) -> Result<&str, MalformedBtf> {
        self.string(offset)
    }

    /// Kind and name of a type.
    pub(crate) fn kind_and_name(&self, id: u32) -> Result<(u32, &str), MalformedBtf> {
        Ok((self.kind(id)?.0, self.name(id)?))
    }

    /// How many definitions there are of each kind and name, whatever their flavours.
    pub(crate) fn definitions(&self) -> HashMap<(u32, &str), usize> {
        let mut definitions = HashMap::new();
        for id in 1..u32::try_from(self.types.len()).unwrap() {
            let (kind, name) = self.kind_and_name(id).unwrap();
            *definitions.entry((kind, without_flavour(name))).or_insert(0) += 1;
        }
        definitions
    }

    /// What a relocation accesses: `task_struct.thread_info.status`, `mm_struct.rss_stat[0].count`, `bpf_func_id.BPF_FUNC_loop`.
    pub(crate) fn access(&self, root: u32, access: &str) -> Result<String, MalformedBtf> {
        let mut text = self.name(root)?.to_owned();
        let mut id = self.resolve(root)?;
        let mut indices = access.split(':').map(|index| index.parse::<usize>().unwrap());
        let first = indices.next().unwrap();
        if let (KIND_ENUM | KIND_ENUM64, _) = self.kind(id)? {
            return Ok(format!("{text}.{}", self.values_of(id)?[first].0));
        }
        if first > 0 {
            text += &format!("[{first}]");
        }
        for index in indices {
            let at = self.at(id)?;
            let next = match self.kind(id)?.0 {
                KIND_STRUCT | KIND_UNION => {
                    let member = at + 12 + 12 * index;
                    let name = self.string(read_u32(&self.data, member)?)?;
                    if !name.is_empty() {
                        text += &format!(".{name}");
                    }
                    read_u32(&self.data, member + 4)?
                }
                KIND_ARRAY => {
                    text += &format!("[{index}]");
                    read_u32(&self.data, at + 12)?
                }
                _ => return Err(MalformedBtf(at)),
            };
            id = self.resolve(next)?;
        }
        Ok(text)
    }

    /// The values of an enum by their names; none when there is no such enum.
    pub(crate) fn values(&self, name: &str) -> HashMap<&str, u32> {
        let ids = 1..u32::try_from(self.types.len()).unwrap();
        ids.filter(|id| self.kind_and_name(*id) == Ok((KIND_ENUM, name)))
            .flat_map(|id| self.values_of(id).unwrap())
            .collect()
    }

    fn values_of(&self, id: u32) -> Result<Vec<(&str, u32)>, MalformedBtf> {
        let at = self.at(id)?;
        let (kind, count) = self.kind(id)?;
        let size = if kind == KIND_ENUM64 { 12 } else { 8 };
        let value = |i| {
            let element = at + 12 + size * i;
            Ok((self.string(read_u32(&self.data, element)?)?, read_u32(&self.data, element + 4)?))
        };
        (0..count).map(value).collect()
    }

    /// What a tracepoint's argument points to: a struct's name; `None` when it is no pointer to one.
    pub(crate) fn tracepoint_argument(&self, tracepoint: &str, index: usize) -> Option<&str> {
        let typedef = self.tracepoint_id(tracepoint)?;
        let proto = self.resolve(typedef).ok()?;
        let (KIND_FUNC_PROTO, count) = self.kind(proto).ok()? else { return None };
        // The tracer's own context pointer comes first.
        let parameter = self.at(proto).ok()? + 12 + 8 * (index + 1);
        let pointer = (index + 1 < count).then(|| self.resolve(read_u32(&self.data, parameter + 4).ok()?).ok())??;
        let (KIND_PTR, _) = self.kind(pointer).ok()? else { return None };
        let target = self.resolve(self.size_or_type(pointer).ok()?).ok()?;
        let (KIND_STRUCT, _) = self.kind(target).ok()? else { return None };
        self.name(target).ok()
    }
}

/// As people write it.
pub(crate) const fn kind_name(kind: u32) -> &'static str {
    match kind {
        KIND_STRUCT => "struct",
        KIND_UNION => "union",
        KIND_ENUM | KIND_ENUM64 => "enum",
        KIND_TYPEDEF => "typedef",
        _ => "type",
    }
}
