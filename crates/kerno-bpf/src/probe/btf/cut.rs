//! The part of a kernel's types that an object's relocations can ask for. aya-obj makes a value of every type it is given and looks at
//! all of them for each name, which takes tens of milliseconds an object with a hundred thousand types, and nothing with a thousand.

use std::collections::BTreeSet;

use super::{
    Btf, KIND_ARRAY, KIND_CONST, KIND_ENUM, KIND_ENUM64, KIND_FUNC_PROTO, KIND_PTR, KIND_RESTRICT, KIND_STRUCT,
    KIND_TYPE_TAG, KIND_TYPEDEF, KIND_UNION, KIND_VOLATILE, MAGIC, MalformedBtf, elements, is_definition, read_u32,
};

const HEADER_BYTES: usize = 24;

/// Why there is nothing to relocate against.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CutError {
    #[error("the kernel's types cannot be read")]
    Kernel(#[source] MalformedBtf),
    #[error("the object's types cannot be read")]
    Object(#[source] MalformedBtf),
    #[error("the types that were cut out cannot be read")]
    Cut(#[source] aya_obj::btf::BtfError),
}

impl Btf {
    /// What this object can be relocated against: every definition here of a name that it has, with all that it holds. What a pointer
    /// points to is there when it has a name of the object's, too. The numbers of types are others than here.
    pub(crate) fn relocatable(&self, object: &aya_obj::Object) -> Result<aya_obj::btf::Btf, CutError> {
        let own = object.btf.as_ref().map(aya_obj::btf::Btf::to_bytes).unwrap_or_default();
        let own = Self::parse(own).map_err(CutError::Object)?;
        let roots = own.own_definitions().map_err(CutError::Object)?;
        let cut = self.cut(roots).map_err(CutError::Kernel)?;
        aya_obj::btf::Btf::parse(&cut, aya::Endianness::default()).map_err(CutError::Cut)
    }

    fn own_definitions(&self) -> Result<BTreeSet<&[u8]>, MalformedBtf> {
        let mut names = BTreeSet::new();
        for id in self.ids() {
            if is_definition(self.kind(id)?.0) {
                names.insert(self.name_bytes(id)?);
            }
        }
        names.remove(&b""[..]);
        Ok(names)
    }

    fn ids(&self) -> impl Iterator<Item = u32> + use<> {
        1..u32::try_from(self.types.len()).unwrap_or(u32::MAX)
    }

    fn cut(&self, names: BTreeSet<&[u8]>) -> Result<Vec<u8>, MalformedBtf> {
        let mut kept = Kept { numbers: vec![0; self.types.len()], ids: Vec::new() };
        for name in names {
            self.definitions_of(name).for_each(|id| kept.add(id));
        }
        // What is added is looked at in its turn.
        let mut next = 0;
        while let Some(id) = kept.ids.get(next).copied() {
            next += 1;
            let (kind, count) = self.kind(id)?;
            if kind != KIND_PTR && refers(kind) {
                kept.add(self.size_or_type(id)?);
            }
            let at = self.at(id)?;
            for reference in references(kind, count) {
                kept.add(read_u32(&self.data, at + reference)?);
            }
        }
        // In the kernel's order: where a name is defined twice, relocations take the first.
        kept.ids.sort_unstable();
        for (number, id) in (1..).zip(&kept.ids) {
            kept.numbers[*id as usize] = number;
        }
        self.write(&kept)
    }

    fn write(&self, kept: &Kept) -> Result<Vec<u8>, MalformedBtf> {
        let (mut types, mut strings) = (Vec::new(), vec![0]);
        for id in &kept.ids {
            let at = self.at(*id)?;
            let (kind, count) = self.kind(*id)?;
            let bytes = 12 + elements(kind).map_or(0, |element| element.all(count));
            let from = types.len();
            types.extend(self.data.get(at..at + bytes).ok_or(MalformedBtf(at))?);
            let mut put = |place: usize, value: u32| {
                if let Some(word) = types.get_mut(from + place..from + place + 4) {
                    word.copy_from_slice(&value.to_ne_bytes());
                }
            };
            for place in names(kind, count) {
                let start = read_u32(&self.data, at + place)?;
                put(place, length(strings.len()));
                if start == 0 {
                    put(place, 0);
                    continue;
                }
                strings.extend(super::text(&self.data, self.strings, start)?);
                strings.push(0);
            }
            if refers(kind) {
                put(8, kept.number(self.size_or_type(*id)?));
            }
            for place in references(kind, count) {
                put(place, kept.number(read_u32(&self.data, at + place)?));
            }
        }
        let mut btf = Vec::with_capacity(HEADER_BYTES + types.len() + strings.len());
        btf.extend(MAGIC.to_ne_bytes());
        // The format's version, and no flags.
        btf.extend([1, 0]);
        for word in [HEADER_BYTES, 0, types.len(), types.len(), strings.len()] {
            btf.extend(length(word).to_ne_bytes());
        }
        btf.extend(types);
        btf.extend(strings);
        Ok(btf)
    }
}

/// Types that are kept.
struct Kept {
    /// Their new numbers, by the kernel's; 0: not kept.
    numbers: Vec<u32>,
    ids: Vec<u32>,
}

impl Kept {
    fn add(&mut self, id: u32) {
        if let Some(number @ 0) = self.numbers.get_mut(id as usize).filter(|_| id != 0) {
            *number = u32::MAX;
            self.ids.push(id);
        }
    }

    /// Void in the place of what is not kept.
    fn number(&self, id: u32) -> u32 {
        self.numbers.get(id as usize).copied().unwrap_or(0)
    }
}

/// Less than what the kernel's types take, which are counted in 32 bits.
fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// Whether the third word of a type is another type, and not a size.
const fn refers(kind: u32) -> bool {
    matches!(
        kind,
        KIND_PTR | KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG | KIND_FUNC_PROTO
    )
}

/// Where the types of a type's elements stand, from its begin.
fn references(kind: u32, count: usize) -> impl Iterator<Item = usize> {
    let (first, step, count) = match kind {
        KIND_STRUCT | KIND_UNION => (16, 12, count),
        KIND_FUNC_PROTO => (16, 8, count),
        // Of the elements and of the index.
        KIND_ARRAY => (12, 4, 2),
        _ => (0, 0, 0),
    };
    (0..count).map(move |i| first + step * i)
}

/// Where names stand.
fn names(kind: u32, count: usize) -> impl Iterator<Item = usize> {
    let (step, count) = match kind {
        KIND_STRUCT | KIND_UNION | KIND_ENUM64 => (12, count),
        KIND_ENUM | KIND_FUNC_PROTO => (8, count),
        _ => (0, 0),
    };
    std::iter::once(0).chain((0..count).map(move |i| 12 + step * i))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every instruction of every object comes out the same as with all of the kernel's types.
    #[test]
    fn what_is_cut_out_is_all_that_relocations_ask_for() {
        let data = std::fs::read("/sys/kernel/btf/vmlinux").unwrap();
        let whole = aya_obj::btf::Btf::parse(&data, aya::Endianness::default()).unwrap();
        let kernel = Btf::parse(data).unwrap();
        let mut relocations = 0;
        for object in crate::probe::kernels::committed_objects() {
            let [mut expected, mut found] = [(); 2].map(|()| aya_obj::Object::parse(&object).unwrap());
            let before = instructions(&expected);
            let cut = kernel.relocatable(&found).unwrap();
            let bytes = cut.to_bytes().len();
            assert!(bytes < kernel.data.len() / 4, "{bytes} bytes are too many to be worth it");
            expected.relocate_btf(&whole).unwrap();
            found.relocate_btf(&cut).unwrap();
            let [expected, found] = [expected, found].map(|object| instructions(&object));
            relocations += before.iter().zip(&found).filter(|(before, after)| before != after).count();
            assert_eq!(expected, found);
        }
        assert!(relocations > 500, "only {relocations} instructions changed");
    }

    fn instructions(object: &aya_obj::Object) -> Vec<(u8, i16, i32)> {
        let all = object.functions.values().flat_map(|function| &function.instructions);
        all.map(|instruction| (instruction.code, instruction.off, instruction.imm)).collect()
    }
}
