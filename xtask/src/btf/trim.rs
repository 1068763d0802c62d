//! Which of a kernel's types are kept.

use std::collections::{BTreeSet, HashMap};

use super::table::{Kind, Table, Type};

/// Looked up by their names, whatever the programs relocate: what a program calls and which maps it has can then be checked, too.
const ALWAYS: [&str; 2] = ["bpf_func_id", "bpf_map_type"];

/// What is kept, by name.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// Structs, unions, enums and typedefs, without what CO-RE sets apart by three underscores.
    types: BTreeSet<String>,
    tracepoints: BTreeSet<String>,
    iterators: BTreeSet<String>,
}

impl Wanted {
    /// These types and all they hold or point to, as far as the object knows it.
    pub(super) fn add_types(&mut self, object: &Table, roots: BTreeSet<u32>) -> anyhow::Result<()> {
        let mut seen = BTreeSet::new();
        let mut open: Vec<u32> = roots.into_iter().collect();
        while let Some(id) = open.pop() {
            if id == 0 || !seen.insert(id) {
                continue;
            }
            let found = object.get(id)?;
            if is_definition(found.kind) || found.kind == Kind::Fwd {
                self.types.insert(without_flavour(&found.name).to_owned());
            }
            match found.kind {
                Kind::Struct | Kind::Union => open.extend(found.elements.iter().map(|member| member.words[0])),
                Kind::Array => open.extend(found.words.first()),
                kind if kind.refers() => open.push(found.size_or_type),
                _ => {}
            }
        }
        self.types.remove("");
        Ok(())
    }

    /// What a section of programs is attached to.
    pub(super) fn add_hook(&mut self, section: &str) {
        match section.split_once('/') {
            Some(("tp_btf", name)) => self.tracepoints.insert(name.to_owned()),
            Some(("iter", name)) => self.iterators.insert(name.to_owned()),
            _ => false,
        };
    }

    /// All names, as they stand in BTF.
    pub(super) fn names(&self) -> BTreeSet<String> {
        let tracepoints = self.tracepoints.iter().map(|name| format!("btf_trace_{name}"));
        let iterators =
            self.iterators.iter().flat_map(|name| [format!("bpf_iter_{name}"), format!("bpf_iter__{name}")]);
        let always = ALWAYS.iter().map(|name| (*name).to_owned());
        self.types.iter().cloned().chain(tracepoints).chain(iterators).chain(always).collect()
    }
}

/// What CO-RE looks a type up by.
fn without_flavour(name: &str) -> &str {
    name.split_once("___").map_or(name, |(name, _)| name)
}

const fn is_definition(kind: Kind) -> bool {
    matches!(kind, Kind::Struct | Kind::Union | Kind::Enum | Kind::Enum64 | Kind::Typedef)
}

/// BTF with all definitions of what is wanted, each with all its members, in the kernel's order.
pub(super) fn trim(kernel: &Table, wanted: &Wanted) -> anyhow::Result<Vec<u8>> {
    let names = wanted.names();
    let mut cut = Cut {
        kernel,
        names: &names,
        ids: HashMap::new(),
        forwards: HashMap::new(),
        kept: vec![Type::new(Kind::Void, "")],
    };
    for (id, found) in kernel.types.iter().enumerate().filter(|(_, found)| is_wanted(found, &names)) {
        cut.keep(u32::try_from(id)?, found.kind == Kind::Typedef && found.name.starts_with("btf_trace_"))?;
    }
    Table { types: cut.kept }.to_bytes()
}

/// Of functions only those of iterators are looked up by name.
fn is_wanted(found: &Type, names: &BTreeSet<String>) -> bool {
    (is_definition(found.kind) || found.kind == Kind::Func) && names.contains(without_flavour(&found.name))
}

/// A table that grows by what is kept.
struct Cut<'a> {
    kernel: &'a Table,
    names: &'a BTreeSet<String>,
    /// Places in the kernel's table, with or without prototypes, and in the new one.
    ids: HashMap<(u32, bool), u32>,
    forwards: HashMap<(String, bool), u32>,
    kept: Vec<Type>,
}

impl Cut<'_> {
    /// Keeps a type with all that its size and members need; `prototypes` also those that pointers point to.
    fn keep(&mut self, id: u32, prototypes: bool) -> anyhow::Result<u32> {
        if id == 0 {
            return Ok(0);
        }
        if let Some(new) = self.ids.get(&(id, prototypes)) {
            return Ok(*new);
        }
        let mut kept = self.kernel.get(id)?.clone();
        let place = self.kept.len();
        let new = u32::try_from(place)?;
        // Before its members: what points back to it finds it.
        self.ids.insert((id, prototypes), new);
        self.kept.push(Type::new(Kind::Void, ""));
        if kept.kind == Kind::Ptr {
            kept.size_or_type = self.keep_target(kept.size_or_type, prototypes)?;
        } else if kept.kind.refers() {
            kept.size_or_type = self.keep(kept.size_or_type, prototypes)?;
        }
        match kept.kind {
            Kind::Struct | Kind::Union | Kind::FuncProto => {
                for element in &mut kept.elements {
                    element.words[0] = self.keep(element.words[0], false)?;
                }
            }
            Kind::Array => {
                for word in kept.words.iter_mut().take(2) {
                    *word = self.keep(*word, false)?;
                }
            }
            _ => {}
        }
        if let Some(there) = self.kept.get_mut(place) {
            *there = kept;
        }
        Ok(new)
    }

    /// What a pointer points to: only its name when nobody may ask for more.
    fn keep_target(&mut self, id: u32, prototypes: bool) -> anyhow::Result<u32> {
        let mut at = id;
        loop {
            let target = self.kernel.get(at)?;
            match target.kind {
                Kind::Volatile | Kind::Const | Kind::Restrict | Kind::TypeTag | Kind::Typedef => {
                    at = target.size_or_type
                }
                Kind::Struct | Kind::Union if target.name.is_empty() => return Ok(0),
                Kind::Struct | Kind::Union if !is_wanted(target, self.names) => {
                    return self.forward(&target.name, target.kind == Kind::Union);
                }
                Kind::FuncProto if !prototypes => return Ok(0),
                _ => return self.keep(id, prototypes),
            }
        }
    }

    fn forward(&mut self, name: &str, is_union: bool) -> anyhow::Result<u32> {
        if let Some(new) = self.forwards.get(&(name.to_owned(), is_union)) {
            return Ok(*new);
        }
        let new = u32::try_from(self.kept.len())?;
        let mut forward = Type::new(Kind::Fwd, name);
        forward.flag = is_union;
        self.kept.push(forward);
        self.forwards.insert((name.to_owned(), is_union), new);
        Ok(new)
    }
}
