//! The modules of a crate: their files, what is defined in them and what they import. Tests are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, ItemUse, Meta, UseTree};

/// The place of a module in a [`Tree`].
pub(super) type Id = usize;

/// The module that everything else is in.
pub(super) const ROOT: Id = 0;

/// All modules of a library or program.
pub(super) struct Tree {
    pub(super) modules: Vec<Module>,
}

/// A module, in a file of its own or not.
pub(super) struct Module {
    /// Names from the crate's root on; none for the root itself.
    path: Vec<String>,
    pub(super) file: PathBuf,
    pub(super) parent: Option<Id>,
    pub(super) children: BTreeMap<String, Id>,
    /// Names of what is defined here, other than modules.
    pub(super) defined: BTreeSet<String>,
    /// What names are imported, also within functions.
    pub(super) imports: Vec<Import>,
    /// Whether a macro may define more than can be read here.
    pub(super) has_macros: bool,
    /// Everything in it but modules and tests.
    pub(super) items: Vec<Item>,
}

/// A name that a `use` brings in.
#[derive(Clone)]
pub(super) struct Import {
    /// `None`: all that the path has.
    pub(super) name: Option<String>,
    pub(super) path: Vec<String>,
}

impl Tree {
    /// Reads a crate from its first file on.
    pub(super) fn read(root: &Path) -> anyhow::Result<Self> {
        let mut tree = Self { modules: Vec::new() };
        let folder = root.parent().context("a file is in a folder")?;
        tree.add_file(Vec::new(), None, root, folder)?;
        Ok(tree)
    }

    /// Each file with the module that it is.
    pub(super) fn files(&self) -> impl Iterator<Item = (&Path, &[String])> {
        let is_file = |module: &&Module| module.parent.is_none_or(|parent| self.modules[parent].file != module.file);
        self.modules.iter().filter(is_file).map(|module| (module.file.as_path(), module.path.as_slice()))
    }

    /// `folder` is where its parts are.
    fn add_file(&mut self, path: Vec<String>, parent: Option<Id>, file: &Path, folder: &Path) -> anyhow::Result<Id> {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let parsed = syn::parse_file(&text).with_context(|| file.display().to_string())?;
        self.add(path, parent, file, folder, parsed.items)
    }

    fn add(
        &mut self,
        path: Vec<String>,
        parent: Option<Id>,
        file: &Path,
        folder: &Path,
        items: Vec<Item>,
    ) -> anyhow::Result<Id> {
        let id = self.modules.len();
        let (parts, items): (Vec<_>, Vec<_>) =
            items.into_iter().filter(|item| !is_test(attributes(item))).partition(|item| matches!(item, Item::Mod(_)));
        let mut imports = Imports::default();
        items.iter().for_each(|item| imports.visit_item(item));
        let calls: Vec<_> = items.iter().filter_map(unnamed_macro).cloned().collect();
        self.modules.push(Module {
            path,
            file: file.to_owned(),
            parent,
            children: BTreeMap::new(),
            defined: items.iter().filter_map(name).collect(),
            imports: imports.found,
            has_macros: !calls.is_empty(),
            items,
        });
        for part in parts {
            let Item::Mod(part) = part else { continue };
            self.add_part(id, file, folder, part)?;
        }
        // A macro may declare modules: those whose files are where it would look for them.
        for name in calls.into_iter().flat_map(words) {
            if !self.modules[id].children.contains_key(&name)
                && let Some((file, folder)) = find(folder, &name)
            {
                self.add_child(id, &name, &file, &folder)?;
            }
        }
        Ok(id)
    }

    fn add_part(&mut self, parent: Id, file: &Path, folder: &Path, part: ItemMod) -> anyhow::Result<()> {
        let name = plain(&part.ident);
        if let Some((_, items)) = part.content {
            let child = self.add(self.path_of(parent, &name), Some(parent), file, &folder.join(&name), items)?;
            self.modules[parent].children.insert(name, child);
            return Ok(());
        }
        let named = part.attrs.iter().find_map(path_attribute);
        let found = match named {
            // Relative to the file, and as if it were called mod.rs.
            Some(path) => {
                let there = file.with_file_name(path);
                let folder = there.parent().unwrap_or(folder).to_owned();
                Some((there, folder))
            }
            None => find(folder, &name),
        };
        let Some((there, folder)) = found else { bail!("{} has no file for mod {name}", file.display()) };
        self.add_child(parent, &name, &there, &folder)
    }

    fn add_child(&mut self, parent: Id, name: &str, file: &Path, folder: &Path) -> anyhow::Result<()> {
        let child = self.add_file(self.path_of(parent, name), Some(parent), file, folder)?;
        self.modules[parent].children.insert(name.to_owned(), child);
        Ok(())
    }

    fn path_of(&self, parent: Id, name: &str) -> Vec<String> {
        self.modules[parent].path.iter().cloned().chain([name.to_owned()]).collect()
    }
}

/// The file of a module and the folder of its parts.
fn find(folder: &Path, name: &str) -> Option<(PathBuf, PathBuf)> {
    let parts = folder.join(name);
    [folder.join(format!("{name}.rs")), parts.join("mod.rs")]
        .into_iter()
        .find(|file| file.is_file())
        .map(|file| (file, parts))
}

/// Whether something is only there in tests.
pub(super) fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let Meta::List(list) = &attribute.meta else { return attribute.path().is_ident("test") };
        let words: Vec<_> = words(list.tokens.clone()).collect();
        list.path.is_ident("cfg") && words.iter().any(|word| word == "test") && words.iter().all(|word| word != "not")
    })
}

fn path_attribute(attribute: &Attribute) -> Option<String> {
    let Meta::NameValue(value) = &attribute.meta else { return None };
    match &value.value {
        syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) if value.path.is_ident("path") => {
            Some(text.value())
        }
        _ => None,
    }
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn name(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(plain(ident))
}

/// What a macro is given that stands where items do.
fn unnamed_macro(item: &Item) -> Option<&TokenStream> {
    match item {
        Item::Macro(item) if item.ident.is_none() => Some(&item.mac.tokens),
        _ => None,
    }
}

/// A name without `r#`.
pub(super) fn plain(ident: &proc_macro2::Ident) -> String {
    let name = ident.to_string();
    name.strip_prefix("r#").unwrap_or(&name).to_owned()
}

/// All names in it, at any depth.
fn words(tokens: TokenStream) -> Box<dyn Iterator<Item = String>> {
    Box::new(tokens.into_iter().flat_map(|token| match token {
        TokenTree::Ident(ident) => Box::new(std::iter::once(plain(&ident))),
        TokenTree::Group(group) => words(group.stream()),
        _ => Box::new(std::iter::empty()) as Box<dyn Iterator<Item = String>>,
    }))
}

/// Gathers what is imported.
#[derive(Default)]
struct Imports {
    found: Vec<Import>,
}

impl<'a> Visit<'a> for Imports {
    fn visit_item(&mut self, item: &'a Item) {
        if !is_test(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'a ItemUse) {
        if item.leading_colon.is_none() {
            flatten(&item.tree, &mut Vec::new(), &mut self.found);
        }
    }
}

fn flatten(tree: &UseTree, path: &mut Vec<String>, into: &mut Vec<Import>) {
    let mut add = |name: Option<String>, path: &[String]| into.push(Import { name, path: path.to_vec() });
    match tree {
        UseTree::Path(part) => {
            path.push(plain(&part.ident));
            flatten(&part.tree, path, into);
            path.pop();
        }
        // `use a::{self}` brings in a.
        UseTree::Name(leaf) if leaf.ident == "self" => add(path.last().cloned(), path),
        UseTree::Rename(leaf) if leaf.ident == "self" => add(Some(plain(&leaf.rename)), path),
        UseTree::Name(leaf) => add(Some(plain(&leaf.ident)), &[path.as_slice(), &[plain(&leaf.ident)]].concat()),
        UseTree::Rename(leaf) => add(Some(plain(&leaf.rename)), &[path.as_slice(), &[plain(&leaf.ident)]].concat()),
        UseTree::Glob(_) => add(None, path),
        UseTree::Group(group) => group.items.iter().for_each(|tree| flatten(tree, path, into)),
    }
}
