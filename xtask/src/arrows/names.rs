//! Which file each name in the code leads to.

use std::collections::BTreeSet;
use std::path::PathBuf;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, ImplItem, Item, ItemMod, Macro, Meta, Path};

use super::modules::{Id, Import, ROOT, Tree, is_test, plain};

/// A name may lead through so many imports.
const MAX_STEPS: usize = 32;

/// What a path leads to.
#[derive(Clone, Copy)]
enum Found {
    Module(Id),
    /// Something that is defined in this module, or in what is defined there.
    Item(Id),
}

/// From each file to those that define what it names. A re-export is followed to where the thing is defined; importing a module is
/// no arrow yet, only what is named through it.
pub(super) fn arrows(tree: &Tree) -> BTreeSet<(PathBuf, PathBuf)> {
    let mut finder = Finder { tree, module: ROOT, arrows: BTreeSet::new() };
    for (id, module) in tree.modules.iter().enumerate() {
        finder.module = id;
        module.imports.iter().filter(|import| import.name.is_some()).for_each(|import| finder.name(&import.path));
        module.items.iter().for_each(|item| finder.visit_item(item));
    }
    finder.arrows
}

struct Finder<'a> {
    tree: &'a Tree,
    /// Where the code that is visited stands.
    module: Id,
    arrows: BTreeSet<(PathBuf, PathBuf)>,
}

impl Finder<'_> {
    fn name(&mut self, path: &[String]) {
        if let Some(Found::Item(to)) = resolve(self.tree, self.module, path, MAX_STEPS) {
            let file = |id: Id| self.tree.modules[id].file.clone();
            self.arrows.insert((file(self.module), file(to)));
        }
    }

    /// Names in what a macro is given, as far as they look like paths.
    fn tokens(&mut self, tokens: TokenStream) {
        let (mut path, mut colons, mut is_member) = (Vec::new(), 0, false);
        for token in tokens {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.name(&std::mem::take(&mut path));
                    }
                    // What follows a dot is a member of something.
                    if !is_member && (colons == 2 || path.is_empty()) {
                        path.push(plain(&ident));
                    }
                    (colons, is_member) = (0, false);
                }
                other => {
                    self.name(&std::mem::take(&mut path));
                    colons = 0;
                    is_member = matches!(&other, TokenTree::Punct(punct) if punct.as_char() == '.');
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream());
                    }
                }
            }
        }
        self.name(&path);
    }

    /// Paths in the strings that serde takes, such as `with = "crate::text"`.
    fn strings(&mut self, tokens: TokenStream) {
        for token in tokens {
            if let TokenTree::Literal(literal) = token
                && let Ok(text) = syn::parse_str::<syn::LitStr>(&literal.to_string())
                && let Ok(path) = text.parse::<Path>()
            {
                self.visit_path(&path);
            }
        }
    }
}

impl<'a> Visit<'a> for Finder<'_> {
    fn visit_item(&mut self, item: &'a Item) {
        let attributes = match item {
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            // Already seen as imports.
            Item::Use(_) => return,
            _ => &Vec::new(),
        };
        if !is_test(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item(&mut self, item: &'a ImplItem) {
        if !matches!(item, ImplItem::Fn(item) if is_test(&item.attrs)) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, _: &'a ItemMod) {}

    fn visit_path(&mut self, path: &'a Path) {
        if path.leading_colon.is_none() {
            let names: Vec<_> = path.segments.iter().map(|segment| plain(&segment.ident)).collect();
            self.name(&names);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, called: &'a Macro) {
        self.visit_path(&called.path);
        self.tokens(called.tokens.clone());
    }

    fn visit_attribute(&mut self, attribute: &'a Attribute) {
        if let Meta::List(list) = &attribute.meta
            && list.path.is_ident("serde")
        {
            self.strings(list.tokens.clone());
        }
    }
}

/// Where a path leads from a module; `None` when it leaves the crate.
fn resolve(tree: &Tree, from: Id, path: &[String], steps: usize) -> Option<Found> {
    let (first, rest) = path.split_first()?;
    let steps = steps.checked_sub(1)?;
    let mut at = match first.as_str() {
        "crate" => Found::Module(ROOT),
        "self" => Found::Module(from),
        "super" => Found::Module(tree.modules[from].parent?),
        name => look_up(tree, from, name, steps)?,
    };
    for name in rest {
        let Found::Module(module) = at else { break };
        at = match name.as_str() {
            "super" => Found::Module(tree.modules[module].parent?),
            // What is not found is made by a macro, or comes from another crate through here.
            name => look_up(tree, module, name, steps).unwrap_or(Found::Item(module)),
        };
    }
    Some(at)
}

/// What a name stands for in a module.
fn look_up(tree: &Tree, module: Id, name: &str, steps: usize) -> Option<Found> {
    let steps = steps.checked_sub(1)?;
    let here = &tree.modules[module];
    if let Some(child) = here.children.get(name) {
        return Some(Found::Module(*child));
    }
    if here.defined.contains(name) {
        return Some(Found::Item(module));
    }
    let named = |import: &&Import| import.name.as_deref() == Some(name);
    // A name that is imported as itself would ask here again.
    let others = |import: &&Import| import.path.len() > 1 || import.path.first().is_none_or(|first| first != name);
    if let Some(import) = here.imports.iter().filter(named).find(others) {
        return resolve(tree, module, &import.path, steps);
    }
    let everything = here.imports.iter().filter(|import| import.name.is_none());
    for import in everything {
        if let Some(Found::Module(there)) = resolve(tree, module, &import.path, steps)
            && there != module
            && let Some(found) = look_up(tree, there, name, steps)
        {
            return Some(found);
        }
    }
    if here.has_macros { only_one_below(tree, module, name) } else { None }
}

/// A macro may re-export what the modules below define: the one that defines this, if it is only one.
fn only_one_below(tree: &Tree, module: Id, name: &str) -> Option<Found> {
    let is_below = |mut id: Id| {
        while let Some(parent) = tree.modules[id].parent {
            if parent == module {
                return true;
            }
            id = parent;
        }
        false
    };
    let mut defining = (0..tree.modules.len()).filter(|id| tree.modules[*id].defined.contains(name) && is_below(*id));
    let one = defining.next()?;
    defining.next().is_none().then_some(Found::Item(one))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// Arrows of a crate with these files, without the folder and `.rs`.
    fn arrows_of(files: &[(&str, &str)]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let tree = Tree::read(&folder.path().join("lib.rs")).unwrap();
        let short = |path: &Path| path.strip_prefix(folder.path()).unwrap().with_extension("").display().to_string();
        let others = arrows(&tree).into_iter().filter(|(from, to)| from != to);
        others.map(|(from, to)| format!("{} > {}", short(&from), short(&to))).collect()
    }

    #[test]
    fn a_re_export_is_followed_to_where_the_thing_is_defined() {
        let files = [
            ("lib.rs", "mod a; mod user;"),
            ("a/mod.rs", "mod b; mod c; pub use b::Thing; pub use c::*;"),
            ("a/b.rs", "pub struct Thing;"),
            ("a/c.rs", "pub struct Other; pub enum Kind { One }"),
            ("user.rs", "use crate::a::{Thing, Other as Else}; fn f() { g(crate::a::Kind::One) }"),
        ];
        assert_eq!(arrows_of(&files), ["a/mod > a/b", "user > a/b", "user > a/c"]);
    }

    #[test]
    fn a_module_that_is_imported_is_followed_where_it_is_used() {
        let files = [
            ("lib.rs", "mod a; mod b; mod user;"),
            ("a.rs", "pub fn f() {}"),
            ("b.rs", "pub fn g() {}"),
            ("user.rs", "use crate::{a, b}; use std::fs; fn h() { fs::read(\"\"); a::f() }"),
        ];
        assert_eq!(arrows_of(&files), ["user > a"]);
    }

    #[test]
    fn parents_inner_modules_macros_and_functions_are_looked_into() {
        let files = [
            ("lib.rs", "mod a; mod b; mod c; mod d; mod e;"),
            ("a.rs", "mod inner { fn f() { super::super::b::f() } }"),
            ("b.rs", "pub fn f() {}"),
            ("c.rs", "fn f() { println!(\"{}\", crate::b::f()); }"),
            ("d.rs", "fn f() { use crate::b; if true { b::f() } }"),
            ("e.rs", "#[derive(Serialize)] struct S { #[serde(with = \"crate::b::text\")] field: u8 }"),
        ];
        assert_eq!(arrows_of(&files), ["a > b", "c > b", "d > b", "e > b"]);
    }

    #[test]
    fn modules_that_a_macro_declares_are_found() {
        let files = [
            ("lib.rs", "mod all; mod user;"),
            ("all/mod.rs", "list! { one: One; two: Two; }"),
            ("all/one.rs", "pub struct One; pub struct Same;"),
            ("all/two/mod.rs", "pub struct Two; pub struct Same;"),
            // What macros make of it cannot be told, and then it is the module's.
            ("user.rs", "use crate::all::{One, two::Two, Same, Made};"),
        ];
        let of_the_user = ["user > all/mod", "user > all/one", "user > all/two/mod"];
        let of_the_list = ["all/mod > all/one", "all/mod > all/two/mod"];
        assert_eq!(arrows_of(&files), [&of_the_list[..], &of_the_user].concat());
    }

    #[test]
    fn tests_are_left_out() {
        let files = [
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "#[cfg(test)] mod tests { use crate::b::f; } #[cfg(test)] use crate::b::f;"),
            ("b.rs", "pub fn f() {} #[cfg(test)] #[path = \"b_tests.rs\"] mod tests;"),
            ("b_tests.rs", "use crate::a;"),
        ];
        assert!(arrows_of(&files).is_empty());
        let shipped =
            [("lib.rs", "mod a; mod b;"), ("a.rs", "#[cfg(not(test))] use crate::b::f;"), ("b.rs", "pub fn f() {}")];
        assert_eq!(arrows_of(&shipped), ["a > b"]);
    }
}
