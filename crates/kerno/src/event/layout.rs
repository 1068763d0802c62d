//! The Rust mirrors against the C structs, through the BTF inside the committed objects.

use crate::probe::Btf;

/// Name, offset and size of each field of a mirror.
pub(crate) type Fields = &'static [(&'static str, usize, usize)];

/// Lists a mirror's fields for [`assert_matches`].
macro_rules! fields {
    ($type:ty: $($field:ident)+) => {
        const { &[$((stringify!($field), std::mem::offset_of!($type, $field), {
            // The size of a field, without an instance of the type.
            const fn size_of_field<S, F>(_: fn(&S) -> &F) -> usize {
                size_of::<F>()
            }
            size_of_field(|event: &$type| &event.$field)
        }),)+] }
    };
}
pub(crate) use fields;

/// Fails unless the struct `name` in the object's BTF is `size` bytes long and has just these fields at these places.
pub(crate) fn assert_matches(object: &[u8], name: &str, size: usize, fields: Fields) {
    let btf = Btf::parse(elf_section(object, ".BTF").to_vec()).unwrap();
    let (c_size, members) =
        btf.struct_layout(name).unwrap().unwrap_or_else(|| panic!("no struct {name} in the object"));
    let c_fields: Vec<_> = members.iter().map(|member| (member.name.as_str(), member.offset, member.size)).collect();
    assert_eq!(c_fields, fields, "fields of {name}: name, offset, size");
    assert_eq!(c_size, size, "size of {name}");
    assert_eq!(size % 8, 0, "{name} is a multiple of 8 bytes");
    let sum: usize = fields.iter().map(|(_, _, size)| size).sum();
    assert_eq!(sum, size, "{name} has implicit padding");
}

fn elf_section<'a>(object: &'a [u8], name: &str) -> &'a [u8] {
    let file = aya_obj::Object::parse(object);
    assert!(file.is_ok(), "the object parses");
    let word = |at: usize, bytes: usize| (0..bytes).map(|i| usize::from(object[at + i]) << (8 * i)).sum::<usize>();
    // ELF64 header: section table offset at 40, entry size at 58, count at 60, index of the name table at 62.
    let (table, entry, count, names) = (word(40, 8), word(58, 2), word(60, 2), word(62, 2));
    let section =
        |i: usize| (word(table + i * entry, 4), word(table + i * entry + 24, 8), word(table + i * entry + 32, 8));
    let (_, names_at, _) = section(names);
    (0..count)
        .map(section)
        .find(|(name_at, _, _)| {
            object[names_at + name_at..].starts_with(name.as_bytes()) && object[names_at + name_at + name.len()] == 0
        })
        .map(|(_, at, len)| &object[at..at + len])
        .unwrap_or_else(|| panic!("no section {name}"))
}

/// aya takes the first type of a name, so a name that the kernel defines twice could be relocated against the wrong one.
#[test]
fn no_type_that_the_programs_read_is_defined_twice_in_the_kernel() {
    let kernel = Btf::parse(std::fs::read("/sys/kernel/btf/vmlinux").unwrap()).unwrap();
    let mut checked = 0;
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/objects")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "o") {
            continue;
        }
        let object = Btf::parse(elf_section(&std::fs::read(&path).unwrap(), ".BTF").to_vec()).unwrap();
        for name in object.struct_names() {
            // A flavour (`request___v5`) is looked up by what stands before the underscores.
            let name = name.split("___").next().unwrap_or(name);
            assert!(kernel.struct_count(name) <= 1, "{}: struct {name} is ambiguous", path.display());
            checked += kernel.struct_count(name);
        }
    }
    assert!(checked > 5, "only {checked} kernel types found");
}
