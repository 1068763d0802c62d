//! The CO-RE relocations of an object, and what became of them on a kernel.

use std::collections::HashMap;

use aya_obj::generated::bpf_core_relo_kind::{
    BPF_CORE_ENUMVAL_EXISTS, BPF_CORE_FIELD_EXISTS, BPF_CORE_TYPE_EXISTS, BPF_CORE_TYPE_ID_LOCAL,
};
use aya_obj::generated::bpf_insn;
use object::{Object as _, ObjectSection as _};

use crate::event::layout::elf_section;
use crate::probe::btf::Btf;
use crate::probe::error::chain;

pub(super) const INSTRUCTION_BYTES: usize = 8;

/// The call that a relocation without a target becomes (as libbpf does it), which the verifier refuses where it can be reached.
const POISON_CODE: u8 = 0x85;
const POISON: i32 = 0x0bad_2310;

/// From here on the poison of relocation 0, 1, ...: no helper has such a number.
const NUMBERED_POISON: i32 = 0x4000_0000;

/// A record of `.BTF.ext`.
#[derive(Clone, Debug)]
pub(super) struct Relocation {
    pub(super) section: usize,
    /// In bytes, from the section's begin.
    pub(super) offset: usize,
    pub(super) root: u32,
    pub(super) kind: u32,
    /// `task_struct.mm`
    pub(super) access: String,
    /// `src/engine/tasks.bpf.c:203: if (bpf_core_field_exists(old->rss_stat.count))`
    pub(super) line: String,
}

impl Relocation {
    /// Whether it only asks whether something is there: the answer of a kernel that has it not is 0.
    const fn asks(&self) -> bool {
        matches!(self.kind, BPF_CORE_FIELD_EXISTS | BPF_CORE_TYPE_EXISTS | BPF_CORE_ENUMVAL_EXISTS)
    }

    /// Whether it is about the object's own type and no kernel's.
    pub(super) const fn is_local(&self) -> bool {
        self.kind == BPF_CORE_TYPE_ID_LOCAL
    }
}

/// An object's own types and its relocations.
pub(super) struct Source {
    pub(super) btf: Btf,
    pub(super) relocations: Vec<Relocation>,
}

impl Source {
    pub(super) fn read(object: &[u8]) -> Self {
        let btf = Btf::parse(elf_section(object, ".BTF").to_vec()).unwrap();
        let extension = elf_section(object, ".BTF.ext");
        let sections = section_indices(object);
        let mut lines: HashMap<usize, Vec<[u32; 4]>> = HashMap::new();
        // Offset, file, text, line and column.
        records::<4>(extension, 16, |section, record| {
            lines.entry(sections[btf.text(section).unwrap()]).or_default().push(record)
        });
        let mut relocations = Vec::new();
        records::<4>(extension, 24, |section, [offset, root, access, kind]| {
            let section = sections[btf.text(section).unwrap()];
            let line = lines[&section].iter().rev().find(|line| line[0] <= offset).map_or_else(String::new, |line| {
                let [file, text] = [line[1], line[2]].map(|at| btf.text(at).unwrap());
                format!("{file}:{}: {}", line[3] >> 10, text.trim())
            });
            let access = btf.access(root, btf.text(access).unwrap()).unwrap();
            relocations.push(Relocation { section, offset: offset as usize, root, kind, access, line });
        });
        Self { btf, relocations }
    }
}

fn section_indices(object: &[u8]) -> HashMap<String, usize> {
    let file = object::File::parse(object).unwrap();
    file.sections().map(|section| (section.name().unwrap().to_owned(), section.index().0)).collect()
}

/// Calls `each` with the name of the section and the first words of each record of one of the tables of `.BTF.ext`, whose place and
/// length stand at `header_at`.
fn records<const N: usize>(extension: &[u8], header_at: usize, mut each: impl FnMut(u32, [u32; N])) {
    if extension.is_empty() {
        return;
    }
    let word = |at: usize| u32::from_ne_bytes(*extension[at..].first_chunk().unwrap());
    let mut at = word(4) as usize + word(header_at) as usize;
    let end = at + word(header_at + 4) as usize;
    if at == end {
        return;
    }
    let record = word(at) as usize;
    at += 4;
    while at < end {
        let (section, count) = (word(at), word(at + 4));
        at += 8;
        for _ in 0..count {
            each(section, std::array::from_fn(|i| word(at + 4 * i)));
            at += record;
        }
    }
}

/// Relocates the object as the loader does. Gives, for each relocation, whether the kernel has what it is about; each poison is
/// marked with its relocation's number.
pub(super) fn relocate(
    object: &mut aya_obj::Object,
    relocations: &[Relocation],
    kernel: &Btf,
) -> Result<Vec<bool>, String> {
    let kernel = kernel.relocatable(object).map_err(|error| chain(&error))?;
    object.relocate_btf(&kernel).map_err(|error| chain(&error))?;
    let outcome = |(number, relocation): (usize, &Relocation)| {
        let instruction = instruction_of(object, relocation);
        if instruction.code == POISON_CODE && instruction.imm == POISON {
            instruction.imm = NUMBERED_POISON + i32::try_from(number).unwrap();
            return false;
        }
        !relocation.asks() || instruction.imm != 0
    };
    Ok(relocations.iter().enumerate().map(outcome).collect())
}

fn instruction_of<'a>(object: &'a mut aya_obj::Object, relocation: &Relocation) -> &'a mut bpf_insn {
    let mut functions = object.functions.values_mut();
    let at = |function: &aya_obj::Function| {
        let inside = relocation.offset.checked_sub(function.section_offset)? / INSTRUCTION_BYTES;
        (function.section_index.0 == relocation.section && inside < function.instructions.len()).then_some(inside)
    };
    functions.find_map(|function| at(function).map(|inside| &mut function.instructions[inside])).unwrap()
}

/// The number of the relocation that this call is the poison of.
pub(super) fn poison_number(helper: i32) -> Option<usize> {
    helper.checked_sub(NUMBERED_POISON).filter(|number| *number >= 0).and_then(|number| usize::try_from(number).ok())
}
