//! The places of a source file at which it can be changed mechanically, found in its syntax tree.
//!
//! A place is named by file, function, kind, text and ordinal among those that are the same in all of these: so its
//! name outlives changes elsewhere. Each is changed by edits that never repeat what stands there, only wrap it: so
//! places may lie within each other and all be planted at once (`plant`).
//!
//! What is not here: tests, `const` and `static` items, what stands within a macro (assertions, tracing), and `Debug`
//! and `Display`: nothing of these is a place.

use std::collections::BTreeMap;
use std::ops::Range;

use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{BinOp, Block, Expr, ItemImpl, Lit, ReturnType, Signature, Stmt};

/// What is done at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A condition, or a part of a chain of conditions, is negated.
    Negated,
    /// An `if let` or `while let` never matches.
    Never,
    /// A comparison is shifted: `<` and `<=`, `>` and `>=`, `==` and `!=`.
    Shifted,
    /// `&&` and `||`.
    Joined,
    /// `min` and `max`.
    Bounded,
    /// `+ 1` and `- 1` are left out, of `saturating_add` and its kin, too.
    Uncounted,
    /// A statement is left out.
    Omitted,
}

impl Kind {
    /// As it stands in a name.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Negated => "negated",
            Self::Never => "never",
            Self::Shifted => "shifted",
            Self::Joined => "joined",
            Self::Bounded => "bounded",
            Self::Uncounted => "uncounted",
            Self::Omitted => "omitted",
        }
    }
}

/// What stands in an edit for "this change is switched on".
pub const IS_ON: &str = "{on}";
/// How much of a place's text is in its name.
const TEXT_CHARS_MAX: usize = 70;

/// Where an edit stands among others at the same position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Closes what was opened before the place: inner ones first.
    Closes,
    /// Opens: outer ones first.
    Opens,
    /// Takes the place of a token.
    Replaces,
}

/// One piece of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// What it replaces; empty where it only inserts.
    pub at: Range<usize>,
    /// What is put there, with [`IS_ON`].
    pub put: String,
    /// How it stands to others at the same position.
    pub side: Side,
}

/// A place at which a file can be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its name, unique and stable.
    pub name: String,
    /// The function that it is in.
    pub function: String,
    /// What is done there.
    pub kind: Kind,
    /// The whole of it, in bytes.
    pub at: Range<usize>,
    /// The keyword `const` of its function, which does not fit a switch.
    pub constness: Option<Range<usize>>,
    /// How it is changed.
    pub edits: Vec<Edit>,
}

/// Finds the places of a file.
///
/// # Errors
/// If the text is not Rust.
pub fn find(file: &str, text: &str) -> Result<Vec<Place>, syn::Error> {
    let tree = syn::parse_file(text)?;
    let mut finder =
        Finder { file, text, path: Vec::new(), constness: None, places: Vec::new(), times: BTreeMap::new() };
    finder.visit_file(&tree);
    Ok(finder.places)
}

struct Finder<'a> {
    file: &'a str,
    text: &'a str,
    path: Vec<String>,
    constness: Option<Range<usize>>,
    places: Vec<Place>,
    /// How many places of the same name there were.
    times: BTreeMap<String, usize>,
}

fn range(of: &impl Spanned) -> Range<usize> {
    of.span().byte_range()
}

fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let is_cfg_test = attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"));
        is_cfg_test || attribute.path().is_ident("test")
    })
}

/// Whether a condition holds a `let` that binds what comes after it.
fn has_let(condition: &Expr) -> bool {
    match condition {
        Expr::Let(_) => true,
        Expr::Binary(binary) => has_let(&binary.left) || has_let(&binary.right),
        _ => false,
    }
}

/// Whether a negation of it would be the same as shifting it.
fn is_equality(condition: &Expr) -> bool {
    matches!(condition, Expr::Binary(binary) if matches!(binary.op, BinOp::Eq(_) | BinOp::Ne(_)))
}

fn is_one(expression: &Expr) -> bool {
    matches!(expression, Expr::Lit(literal) if matches!(&literal.lit, Lit::Int(int) if int.base10_digits() == "1"))
}

/// Whether leaving it out leaves out an effect.
fn is_effect(expression: &Expr) -> bool {
    match expression {
        Expr::Call(_) | Expr::MethodCall(_) | Expr::Await(_) | Expr::Try(_) => true,
        Expr::Assign(assign) => !matches!(*assign.left, Expr::Infer(_)),
        Expr::Binary(binary) => is_assignment(&binary.op),
        _ => false,
    }
}

const fn is_assignment(operator: &BinOp) -> bool {
    matches!(
        operator,
        BinOp::AddAssign(_)
            | BinOp::SubAssign(_)
            | BinOp::MulAssign(_)
            | BinOp::DivAssign(_)
            | BinOp::RemAssign(_)
            | BinOp::BitXorAssign(_)
            | BinOp::BitAndAssign(_)
            | BinOp::BitOrAssign(_)
            | BinOp::ShlAssign(_)
            | BinOp::ShrAssign(_)
    )
}

impl Finder<'_> {
    fn add(&mut self, kind: Kind, at: Range<usize>, edits: Vec<Edit>) {
        let function = self.path.join("::");
        let words: Vec<&str> = self.text[at.clone()].split_whitespace().collect();
        let text: String = words.join(" ").chars().take(TEXT_CHARS_MAX).collect();
        let mut name = format!("{} {function} {} `{text}`", self.file, kind.label());
        let times = self.times.entry(name.clone()).or_default();
        *times += 1;
        if *times > 1 {
            name = format!("{name} {times}");
        }
        self.places.push(Place { name, function, kind, at, constness: self.constness.clone(), edits });
    }

    /// A place that is wrapped: something before it, something after it.
    fn wrap(&mut self, kind: Kind, at: Range<usize>, before: &str, after: &str) {
        let edits = vec![opens(at.start, before), closes(at.end, after)];
        self.add(kind, at, edits);
    }

    fn negate(&mut self, condition: &Expr) {
        if !is_equality(condition) {
            self.wrap(Kind::Negated, range(condition), "({on} ^ (", "))");
        }
    }

    /// The condition of an `if`, a `while` or an arm.
    fn condition(&mut self, condition: &Expr) {
        if !has_let(condition) {
            return self.negate(condition);
        }
        let mut parts = Vec::new();
        flatten(condition, &mut parts);
        if parts.iter().all(|part| matches!(part, Expr::Let(_))) {
            let at = range(condition);
            let edits = vec![closes(at.end, " && !{on}")];
            return self.add(Kind::Never, at, edits);
        }
        for part in parts {
            if !matches!(part, Expr::Let(_)) {
                self.negate(part);
            }
        }
    }

    fn binary(&mut self, binary: &syn::ExprBinary) {
        let (whole, operator) = (range(binary), range(&binary.op));
        let shifted = match binary.op {
            BinOp::Lt(_) => ("<", "<="),
            BinOp::Le(_) => ("<=", "<"),
            BinOp::Gt(_) => (">", ">="),
            BinOp::Ge(_) => (">=", ">"),
            BinOp::Eq(_) | BinOp::Ne(_) => return self.wrap(Kind::Shifted, whole, "({on} ^ (", "))"),
            BinOp::And(_) | BinOp::Or(_) => return self.join(binary),
            BinOp::Add(_) | BinOp::Sub(_) if is_one(&binary.right) => {
                return self.uncount(whole, &binary.right);
            }
            _ => return,
        };
        // Both sides are looked at once, and by reference, as an operator does.
        let after =
            format!(")) {{ (l, r) => if {{on}} {{ l {} r }} else {{ l {} r }} }})", shifted.1, shifted.0);
        let edits = vec![
            opens(whole.start, "(match (&("),
            Edit { at: operator, put: "), &(".to_owned(), side: Side::Replaces },
            closes(whole.end, &after),
        ];
        self.add(Kind::Shifted, whole, edits);
    }

    /// The right side is evaluated where the changed operator would evaluate it.
    fn join(&mut self, binary: &syn::ExprBinary) {
        if has_let(&binary.left) || has_let(&binary.right) {
            return;
        }
        let whole = range(binary);
        let (between, after) = match binary.op {
            BinOp::And(_) => (") {", "} else { {on} })"),
            _ => (") { !{on} } else {", "})"),
        };
        let edits = vec![
            opens(whole.start, "(if {on} ^ ("),
            Edit { at: range(&binary.op), put: between.to_owned(), side: Side::Replaces },
            closes(whole.end, after),
        ];
        self.add(Kind::Joined, whole, edits);
    }

    fn uncount(&mut self, whole: Range<usize>, one: &Expr) {
        let at = range(one);
        let put = format!("(if {{on}} {{ 0 }} else {{ {} }})", &self.text[at.clone()]);
        self.add(Kind::Uncounted, whole, vec![Edit { at, put, side: Side::Replaces }]);
    }

    fn bound(&mut self, call: &syn::ExprMethodCall, argument: &Expr) {
        let (this, other) = if call.method == "min" { ("min", "max") } else { ("max", "min") };
        let (whole, receiver, argument) = (range(call), range(&*call.receiver), range(argument));
        let after = format!(") {{ (l, r) => if {{on}} {{ l.{other}(r) }} else {{ l.{this}(r) }} }})");
        let edits = vec![
            opens(whole.start, "(match ("),
            Edit { at: receiver.end..argument.start, put: ", ".to_owned(), side: Side::Replaces },
            Edit { at: argument.end..whole.end, put: after, side: Side::Replaces },
        ];
        self.add(Kind::Bounded, whole, edits);
    }

    fn omit(&mut self, at: Range<usize>) {
        self.wrap(Kind::Omitted, at, "if !{on} { ", " }");
    }

    /// What ends a block of the value `()`.
    fn end_of_nothing(&mut self, expression: &Expr) {
        match expression {
            Expr::If(branch) => {
                self.ends_with_nothing(&branch.then_branch);
                if let Some((_, otherwise)) = &branch.else_branch {
                    self.end_of_nothing(otherwise);
                }
            }
            Expr::Match(cases) => cases.arms.iter().for_each(|arm| self.end_of_nothing(&arm.body)),
            Expr::Block(block) => self.ends_with_nothing(&block.block),
            effect if is_effect(effect) => self.omit(range(effect)),
            _ => {}
        }
    }

    fn ends_with_nothing(&mut self, block: &Block) {
        if let Some(Stmt::Expr(expression, None)) = block.stmts.last() {
            self.end_of_nothing(expression);
        }
    }

    /// Goes into a function.
    fn enter(&mut self, signature: &Signature, block: &Block) {
        let constness = signature.constness.as_ref().map(range);
        let before = std::mem::replace(&mut self.constness, constness);
        self.path.push(signature.ident.to_string());
        if matches!(signature.output, ReturnType::Default) {
            self.ends_with_nothing(block);
        }
        self.visit_block(block);
        self.path.pop();
        self.constness = before;
    }
}

fn opens(at: usize, put: &str) -> Edit {
    Edit { at: at..at, put: put.to_owned(), side: Side::Opens }
}

fn closes(at: usize, put: &str) -> Edit {
    Edit { at: at..at, put: put.to_owned(), side: Side::Closes }
}

/// The parts of a chain of conditions.
fn flatten<'a>(condition: &'a Expr, parts: &mut Vec<&'a Expr>) {
    match condition {
        Expr::Binary(binary) if matches!(binary.op, BinOp::And(_)) => {
            flatten(&binary.left, parts);
            flatten(&binary.right, parts);
        }
        part => parts.push(part),
    }
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !is_for_tests(&module.attrs) {
            self.path.push(module.ident.to_string());
            visit::visit_item_mod(self, module);
            self.path.pop();
        }
    }

    fn visit_item_impl(&mut self, block: &'ast ItemImpl) {
        let of = block.trait_.as_ref().and_then(|(path, _)| path.segments.last());
        let of = of.map(|segment| segment.ident.to_string());
        let is_shown = of.as_ref().is_some_and(|name| name == "Debug" || name == "Display");
        if is_shown || is_for_tests(&block.attrs) {
            return;
        }
        let name = match &*block.self_ty {
            syn::Type::Path(path) => path.path.segments.last().map(|segment| segment.ident.to_string()),
            _ => None,
        };
        self.path.push(name.unwrap_or_else(|| "_".to_owned()));
        visit::visit_item_impl(self, block);
        self.path.pop();
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        if !is_for_tests(&function.attrs) {
            self.enter(&function.sig, &function.block);
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        if !is_for_tests(&function.attrs) {
            self.enter(&function.sig, &function.block);
        }
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(block) = &function.default {
            self.enter(&function.sig, block);
        }
    }

    fn visit_block(&mut self, block: &'ast Block) {
        for (at, statement) in block.stmts.iter().enumerate() {
            match statement {
                Stmt::Expr(effect, Some(_)) if is_effect(effect) => self.omit(range(statement)),
                Stmt::Expr(expression, None) if at + 1 < block.stmts.len() => self.end_of_nothing(expression),
                _ => {}
            }
        }
        visit::visit_block(self, block);
    }

    fn visit_expr_if(&mut self, branch: &'ast syn::ExprIf) {
        self.condition(&branch.cond);
        visit::visit_expr_if(self, branch);
    }

    fn visit_expr_while(&mut self, circle: &'ast syn::ExprWhile) {
        self.condition(&circle.cond);
        self.ends_with_nothing(&circle.body);
        visit::visit_expr_while(self, circle);
    }

    fn visit_expr_for_loop(&mut self, circle: &'ast syn::ExprForLoop) {
        self.ends_with_nothing(&circle.body);
        visit::visit_expr_for_loop(self, circle);
    }

    fn visit_expr_loop(&mut self, circle: &'ast syn::ExprLoop) {
        self.ends_with_nothing(&circle.body);
        visit::visit_expr_loop(self, circle);
    }

    fn visit_pat_guard(&mut self, guard: &'ast syn::PatGuard) {
        self.condition(&guard.guard);
        visit::visit_pat_guard(self, guard);
    }

    fn visit_expr_binary(&mut self, binary: &'ast syn::ExprBinary) {
        self.binary(binary);
        visit::visit_expr_binary(self, binary);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        if let Some(argument) = call.args.first().filter(|_| call.args.len() == 1) {
            let name = call.method.to_string();
            if name == "min" || name == "max" {
                self.bound(call, argument);
            } else if is_one(argument) && (name.ends_with("_add") || name.ends_with("_sub")) {
                self.uncount(range(call), argument);
            }
        }
        visit::visit_expr_method_call(self, call);
    }

    // Nothing in these is evaluated while the engine runs.
    fn visit_item_const(&mut self, _: &'ast syn::ItemConst) {}
    fn visit_item_static(&mut self, _: &'ast syn::ItemStatic) {}
    fn visit_impl_item_const(&mut self, _: &'ast syn::ImplItemConst) {}
    fn visit_trait_item_const(&mut self, _: &'ast syn::TraitItemConst) {}
    fn visit_expr_const(&mut self, _: &'ast syn::ExprConst) {}
    fn visit_type(&mut self, _: &'ast syn::Type) {}
    fn visit_item_enum(&mut self, _: &'ast syn::ItemEnum) {}
    fn visit_expr_repeat(&mut self, repeat: &'ast syn::ExprRepeat) {
        self.visit_expr(&repeat.expr);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        let places = find("a.rs", text).unwrap();
        places.into_iter().map(|place| place.name.strip_prefix("a.rs ").unwrap().to_owned()).collect()
    }

    #[test]
    fn conditions_comparisons_and_statements_are_places() {
        let text = "
            impl Lane {
                fn poll(&mut self, at: u64) -> u64 {
                    if self.is_open() { self.close(); }
                    while at >= self.end { self.grow()?; }
                    self.count += 1;
                    let last = at.min(self.end - 1);
                    if last == at || last > 7 { return last; }
                    last.saturating_add(1)
                }
            }";
        let wanted = [
            "negated `self.is_open()`",
            "omitted `self.close();`",
            "negated `at >= self.end`",
            "shifted `at >= self.end`",
            "omitted `self.grow()?;`",
            "omitted `self.count += 1;`",
            "bounded `at.min(self.end - 1)`",
            "uncounted `self.end - 1`",
            "negated `last == at || last > 7`",
            "joined `last == at || last > 7`",
            "shifted `last == at`",
            "shifted `last > 7`",
            "uncounted `last.saturating_add(1)`",
        ];
        let mut found = names(text);
        found.sort();
        let mut wanted = wanted.map(|name| format!("Lane::poll {name}"));
        wanted.sort();
        assert_eq!(found, wanted);
    }

    #[test]
    fn what_binds_is_never_negated() {
        assert_eq!(
            names("fn f() { if let Some(a) = b { g(a); } }"),
            ["f never `let Some(a) = b`", "f omitted `g(a);`"]
        );
        let chain = "fn f() -> u8 { if c && let Some(a) = b && a == d { a } else { 0 } }";
        assert_eq!(names(chain), ["f negated `c`", "f shifted `a == d`"]);
    }

    #[test]
    fn a_call_that_ends_a_block_of_no_value_is_a_statement() {
        let text = "fn f(a: A) { match a { A::B => b(), A::C if c => { d() } _ => {} } }";
        assert_eq!(names(text), ["f omitted `b()`", "f omitted `d()`", "f negated `c`"]);
        assert!(names("fn f(a: A) -> u8 { match a { A::B => b(), _ => d() } }").is_empty());
        // Whether it is left out by its function's end, or by its own semicolon, it is so once.
        assert_eq!(names("fn f() { for a in b { c(a) } d(); e() }").len(), 3);
    }

    #[test]
    fn tests_constants_macros_and_what_prints_are_no_places() {
        let none = [
            "#[cfg(test)] mod tests { fn f() { g(); } }",
            "#[test] fn f() { g(); }",
            "const A: u8 = 1 + 1; static B: [u8; 2 + 1] = [0; 1 + 1];",
            "impl fmt::Debug for A { fn fmt(&self) { g(); } }",
            "fn f() { assert!(a < b); debug!(c == d); let x = 1; }",
        ];
        for text in none {
            assert_eq!(names(text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn names_do_not_depend_on_lines_and_tell_equals_apart() {
        let one = names("fn f() { g(a); g(a); }");
        assert_eq!(one, ["f omitted `g(a);`", "f omitted `g(a);` 2"]);
        assert_eq!(names("fn e() {}\n\nfn f() {\n    g(a);\n    g(\n a);\n}").len(), 2);
        assert_eq!(names("use x;\n\nfn f() {\n    g(a);\n\n    g(a);\n}"), one);
    }
}
