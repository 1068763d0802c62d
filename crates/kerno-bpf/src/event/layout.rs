//! The Rust mirrors against the C structs, through the BTF inside the committed objects.

use object::{Object as _, ObjectSection as _};

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

/// The bytes of a section, empty when the object has none of that name.
pub(crate) fn elf_section<'a>(object: &'a [u8], name: &str) -> &'a [u8] {
    let file = object::File::parse(object).unwrap();
    file.section_by_name(name).map_or(&[], |section| section.data().unwrap())
}
