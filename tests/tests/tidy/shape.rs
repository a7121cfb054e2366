//! The shape of the code, read from syntax trees: the size of structures, what signatures take, which modules need each other, how much is
//! asserted, how folders are filled. A figure is that of today: a change that betters one writes it down in `tidy.rs`.

use std::collections::{BTreeMap, BTreeSet};

use syn::visit::{self, Visit};

use super::tree::Source;

const FIELDS_MAX: usize = 20;
const FILES_MAX: usize = 12;

/// A figure of all sources, and what it may be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Figure {
    pub(crate) what: &'static str,
    pub(crate) found: Vec<String>,
}

fn is_of_product(file: &Source) -> bool {
    let crates = ["engine/", "net/src/", "wal/src/"];
    crates.iter().any(|krate| file.path.starts_with(krate))
        && file.path.contains("src/")
        && file.path.ends_with(".rs")
        && !file.is_test()
}

/// What one file's syntax tree shows. Unit tests at its end are left out.
#[derive(Default)]
struct Shape {
    large: Vec<String>,
    switches: Vec<String>,
    functions: usize,
    assertions: usize,
    /// Paths that begin in the crate, by their words.
    uses: BTreeSet<Vec<String>>,
    /// How many modules inside the file enclose what is looked at.
    depth: usize,
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::Path(path) => path.is_ident("test"),
        syn::Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
        syn::Meta::NameValue(_) => false,
    })
}

fn is_bool(ty: &syn::Type) -> bool {
    matches!(ty, syn::Type::Path(path) if path.path.is_ident("bool"))
}

/// Structures that only list what can be set or was counted.
fn is_list(name: &str) -> bool {
    ["Config", "Options", "Settings", "Stats", "Metrics", "Counters"].iter().any(|end| name.ends_with(end))
}

impl Shape {
    fn signature(&mut self, signature: &syn::Signature) {
        self.functions += 1;
        let takes = signature.inputs.iter().filter(|input| match input {
            syn::FnArg::Typed(typed) => is_bool(&typed.ty),
            syn::FnArg::Receiver(_) => false,
        });
        let returns = match &signature.output {
            syn::ReturnType::Type(_, ty) => matches!(&**ty, syn::Type::Tuple(tuple)
                if tuple.elems.iter().filter(|ty| is_bool(ty)).count() > 1),
            syn::ReturnType::Default => false,
        };
        if takes.count() > 0 || returns {
            self.switches.push(signature.ident.to_string());
        }
    }

    fn tree(&mut self, before: &[String], tree: &syn::UseTree) {
        let joined = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.tree(&joined(&path.ident), &path.tree),
            syn::UseTree::Name(name) => self.used(joined(&name.ident)),
            syn::UseTree::Rename(rename) => self.used(joined(&rename.ident)),
            syn::UseTree::Glob(_) => self.used(before.to_vec()),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(before, tree)),
        }
    }

    fn used(&mut self, path: Vec<String>) {
        if self.depth == 0 && matches!(path.first().map(String::as_str), Some("crate" | "super" | "self")) {
            self.uses.insert(path);
        }
    }
}

impl<'ast> Visit<'ast> for Shape {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test(&item.attrs) {
            self.depth += 1;
            visit::visit_item_mod(self, item);
            self.depth -= 1;
        }
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        if item.fields.len() > FIELDS_MAX && !is_list(&item.ident.to_string()) {
            self.large.push(format!("{}, {} fields", item.ident, item.fields.len()));
        }
        visit::visit_item_struct(self, item);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !is_test(&item.attrs) {
            self.signature(&item.sig);
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_test(&item.attrs) {
            self.signature(&item.sig);
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        self.signature(&item.sig);
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        let name = item.path.segments.last().map(|segment| segment.ident.to_string()).unwrap_or_default();
        // In debug builds only is no assertion where it counts.
        self.assertions += usize::from(name.starts_with("assert"));
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !is_test(&item.attrs) {
            self.tree(&[], &item.tree);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.used(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }
}

fn shape(file: &Source) -> Result<Shape, String> {
    let tree = syn::parse_file(&file.text).map_err(|error| format!("{}: {error}", file.path))?;
    let mut shape = Shape::default();
    shape.visit_file(&tree);
    Ok(shape)
}

/// A file's crate and its module's path in it.
fn module_of(path: &str) -> Option<(String, Vec<String>)> {
    let (krate, inside) = path.split_once("/src/")?;
    let mut words: Vec<String> = inside.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if matches!(words.last().map(String::as_str), Some("mod" | "lib")) {
        words.pop();
    }
    Some((krate.to_owned(), words))
}

/// Which module a path names, seen from another: the longest beginning of it that is one.
fn named(from: &[String], path: &[String], modules: &BTreeSet<Vec<String>>) -> Option<Vec<String>> {
    let mut at = from.to_vec();
    let mut words = path.iter().peekable();
    while let Some(word) = words.peek() {
        match word.as_str() {
            "crate" => at.clear(),
            "super" => drop(at.pop()),
            "self" => {}
            _ => break,
        }
        words.next();
    }
    for word in words {
        at.push(word.clone());
        if !modules.contains(&at) {
            at.pop();
            break;
        }
    }
    (at != from && modules.contains(&at)).then_some(at)
}

/// Modules that need each other without one being the other's parent, crate by crate.
fn circles(shapes: &[(&Source, Shape)]) -> Vec<String> {
    let mut crates: BTreeMap<String, Vec<(Vec<String>, &Shape)>> = BTreeMap::new();
    for (file, shape) in shapes {
        if let Some((krate, module)) = module_of(&file.path) {
            crates.entry(krate).or_default().push((module, shape));
        }
    }
    let mut found = Vec::new();
    for (krate, files) in crates {
        let modules: BTreeSet<Vec<String>> = files.iter().map(|(module, _)| module.clone()).collect();
        let arrows = files.iter().map(|(module, shape)| {
            let named = shape.uses.iter().filter_map(|path| named(module, path, &modules));
            let strangers = named.filter(|to| !to.starts_with(module) && !module.starts_with(to));
            (module.clone(), strangers.collect::<BTreeSet<_>>())
        });
        let arrows: BTreeMap<_, _> = arrows.collect();
        let reached: BTreeMap<_, _> =
            modules.iter().map(|module| (module, all_behind(module, &arrows))).collect();
        let is_in_circle = |module: &&Vec<String>| reached[module].contains(*module);
        found.extend(
            modules.iter().filter(is_in_circle).map(|module| format!("{krate}: {}", module.join("::"))),
        );
    }
    found
}

/// Every module that one needs, and those need.
fn all_behind(
    module: &Vec<String>,
    arrows: &BTreeMap<Vec<String>, BTreeSet<Vec<String>>>,
) -> BTreeSet<Vec<String>> {
    let mut seen = BTreeSet::new();
    let mut open = vec![module];
    while let Some(next) = open.pop() {
        for to in arrows.get(next).into_iter().flatten() {
            if seen.insert(to.clone()) {
                open.push(to);
            }
        }
    }
    seen
}

/// Folders with too many files, and files that carry a sibling's name in front.
fn folders(files: &[&Source]) -> (Vec<String>, Vec<String>) {
    let mut folders: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for file in files {
        let (folder, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
        folders.entry(folder).or_default().push(name.trim_end_matches(".rs"));
    }
    let full = folders.iter().filter(|(_, names)| names.len() > FILES_MAX);
    let full = full.map(|(folder, names)| format!("{folder}, {} files", names.len())).collect();
    let mut prefixed = Vec::new();
    for (folder, names) in &folders {
        let is_prefixed = |name: &&&str| {
            names.iter().any(|other| name.strip_prefix(other).is_some_and(|rest| rest.starts_with('_')))
        };
        prefixed.extend(names.iter().filter(is_prefixed).map(|name| format!("{folder}/{name}")));
    }
    (full, prefixed)
}

/// All figures of these files, and per 1,000 functions how many assertions raft and the log have.
pub(crate) fn figures(files: &[Source]) -> Result<(Vec<Figure>, usize), String> {
    let product: Vec<&Source> = files.iter().filter(|file| is_of_product(file)).collect();
    let shapes = product.iter().map(|file| Ok((*file, shape(file)?)));
    let shapes = shapes.collect::<Result<Vec<_>, String>>()?;
    let named = |part: fn(&Shape) -> &Vec<String>| {
        let of = |(file, shape): &(&Source, Shape)| {
            part(shape).iter().map(|name| format!("{}: {name}", file.path)).collect::<Vec<_>>()
        };
        shapes.iter().flat_map(of).collect::<Vec<_>>()
    };
    let (full, prefixed) = folders(&product);
    let asserted = shapes
        .iter()
        .filter(|(file, _)| ["engine/raft/", "wal/"].iter().any(|room| file.path.starts_with(room)))
        .fold((0, 0), |(functions, assertions), (_, shape)| {
            (functions + shape.functions, assertions + shape.assertions)
        });
    let figures = vec![
        Figure { what: "structures with more than 20 fields", found: named(|shape| &shape.large) },
        Figure { what: "functions that take or return bare booleans", found: named(|shape| &shape.switches) },
        Figure { what: "modules in circles", found: circles(&shapes) },
        Figure { what: "folders of more than 12 files", found: full },
        Figure { what: "files with a sibling's name in front", found: prefixed },
    ];
    Ok((figures, asserted.1 * 1000 / asserted.0.max(1)))
}

/// Each figure finds its own kind of fault, and nothing in good code.
pub(crate) fn try_them() {
    let file = |path: &str, text: &str| Source { path: path.to_owned(), text: text.to_owned() };
    let fields: String = (0..=FIELDS_MAX).map(|at| format!("f{at}: u8,")).collect();
    let files = [
        file(
            "wal/src/lib.rs",
            "mod a; mod b; mod c; mod a_b; fn f() { assert!(true); } fn g(_: u8, is_h: bool) {}",
        ),
        file(
            "wal/src/a.rs",
            &format!("use crate::b::B; struct A {{ {fields} }} struct AStats {{ {fields} }}"),
        ),
        file("wal/src/b.rs", "pub struct B; fn f() -> (bool, bool) { super::c::f(); (true, true) }"),
        file(
            "wal/src/c.rs",
            "use super::{a, lib}; #[cfg(test)] mod tests { fn f(_: bool) {} use crate::d; }",
        ),
        file("wal/src/a_b.rs", "use crate::a::A;"),
        file("wal/src/tests/e.rs", "fn f(_: bool) {}"),
    ];
    let (figures, asserted) = figures(&files).expect("they parse");
    let found: Vec<Vec<String>> = figures.into_iter().map(|figure| figure.found).collect();
    let expected = [
        vec!["wal/src/a.rs: A, 21 fields"],
        vec!["wal/src/b.rs: f", "wal/src/lib.rs: g"],
        vec!["wal: a", "wal: b", "wal: c"],
        vec![],
        vec!["wal/src/a_b"],
    ];
    let sorted = |mut lists: Vec<Vec<String>>| {
        lists.iter_mut().for_each(|list| list.sort());
        lists
    };
    assert_eq!(sorted(found), expected);
    assert_eq!(asserted, 333);
    assert!(super::shape::figures(&[file("wal/src/a.rs", "fn {")]).is_err());
}
