//! IMPURE: a copy of the sources in which every bug of the catalogue is planted and none is switched on, and the simulator
//! built from it.
//!
//! The sources themselves are never touched: no switch, no bug and no trace of them is in what is shipped. What is not
//! here: what the bugs are (`catalogue`), and the hunt for them (`super`).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::catalogue::{self, CatalogueError, Mutant, Test};

/// The variable that switches a bug on in the copy's simulator.
const SWITCH: &str = "RAFTWERK_PLANTED";
/// The variable that names the file into which a copy with mechanical mutants notes those that are reached.
const REACHED: &str = "RAFTWERK_REACHED";

/// What the switches of a copy do in a process of it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Switch<'a> {
    /// This bug is on; none if 0.
    On(u32),
    /// None is on, and what is reached goes into this file.
    Noting(&'a Path),
}

impl Switch<'_> {
    /// Sets it for a process that is to be started.
    pub(super) fn set(self, command: &mut Command) -> &mut Command {
        match self {
            Self::On(number) => command.env(SWITCH, number.to_string()).env_remove(REACHED),
            Self::Noting(file) => command.env_remove(SWITCH).env(REACHED, file),
        }
    }
}

/// Where the copy gets a module of switches: in its lowest crates.
pub(super) const PLANTED_AT: [&str; 2] = ["engine/frame/src/planted.rs", "net/src/planted.rs"];

/// Where it is made known: file, text to find, text to put there. The transport knows no other crate: it has a switch of its
/// own, of the same name.
pub(super) const MODULES: [(&str, &str, &str); 2] = [
    (
        "engine/frame/src/lib.rs",
        "extern crate alloc;\n",
        "extern crate alloc;\nextern crate self as raftwerk_frame;\n\npub mod planted;\n",
    ),
    (
        "net/src/lib.rs",
        "mod message;\n",
        "mod message;\nextern crate self as raftwerk_frame;\n\npub mod planted;\n",
    ),
];

/// That module.
const PLANTED: &str = r#"//! Which planted bug is switched on. Only in a copy that was made for hunting it.

use core::sync::atomic::{AtomicU32, Ordering};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Whether this bug is on.
#[inline]
pub fn is(number: u32) -> bool {
    // Tests have no main function that could switch it on.
    #[cfg(debug_assertions)]
    if NUMBER.load(Ordering::Relaxed) == 0 {
        extern crate std;
        let asked = std::env::var("RAFTWERK_PLANTED").ok().and_then(|number| number.parse().ok());
        NUMBER.store(asked.unwrap_or_default(), Ordering::Relaxed);
    }
    NUMBER.load(Ordering::Relaxed) == number
}

/// Switches a bug on, and every other off.
pub fn switch_on(number: u32) {
    NUMBER.store(number, Ordering::Relaxed);
}
"#;

/// Where the copy lies.
pub(super) struct Workshop {
    sources: PathBuf,
    build: PathBuf,
}

impl Workshop {
    /// Below a folder that may be made, and is kept: the next build goes faster.
    pub(super) fn new(folder: &Path) -> Self {
        Self { sources: folder.join("sources"), build: folder.join("build") }
    }

    /// Copies the checkout at `root` and plants the bugs in the copy.
    pub(super) fn plant(&self, root: &Path, mutants: &[Mutant]) -> Result<(), CatalogueError> {
        let mut planted = catalogue::plant(root, mutants)?;
        for (file, find, put) in switchboard() {
            replace_once(root, &mut planted, file, find, &put)?;
        }
        for module in PLANTED_AT {
            planted.insert(module.to_owned(), PLANTED.to_owned());
        }
        self.lay(root, planted)
    }

    /// Makes the copy a copy of the checkout at `root`, but for these files.
    pub(super) fn lay(&self, root: &Path, planted: BTreeMap<String, String>) -> Result<(), CatalogueError> {
        let mut kept = BTreeSet::new();
        for file in files_of(root)? {
            if !planted.contains_key(&file) {
                let from = root.join(&file);
                let bytes = fs::read(&from).map_err(CatalogueError::io(&from))?;
                write_if_new(&self.sources.join(&file), &bytes)?;
            }
            kept.insert(file);
        }
        for (file, text) in planted {
            write_if_new(&self.sources.join(&file), text.as_bytes())?;
            kept.insert(file);
        }
        for file in files_of(&self.sources)? {
            if !kept.contains(&file) {
                let path = self.sources.join(&file);
                fs::remove_file(&path).map_err(CatalogueError::io(&path))?;
            }
        }
        Ok(())
    }

    /// Where the copy is …
    pub(super) fn sources(&self) -> &Path {
        &self.sources
    }

    /// … and what is built from it.
    pub(super) fn target(&self) -> &Path {
        &self.build
    }

    /// Runs one test of the copy with a bug switched on, or with none if `number` is 0; whether it passed, and what it said.
    ///
    /// # Errors
    /// If there is no such test.
    pub(super) fn test(&self, test: &Test, number: u32) -> io::Result<(bool, String)> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["test", "--locked", "--package", &test.package])
            .args(test.program.as_ref().map_or(vec!["--lib"], |program| vec!["--test", program]))
            .arg("--manifest-path")
            .arg(self.sources.join("Cargo.toml"))
            .arg("--target-dir")
            .arg(&self.build)
            .args(["--", "--exact", &test.name])
            .env(SWITCH, number.to_string())
            .stdin(Stdio::null())
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if said.contains("running 1 test\n") {
            return Ok((output.status.success(), said));
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(format!("{} has not run one test {}:\n{errors}", test.package, test.name)))
    }

    /// Builds the copy's simulator; passes on each line of the compiler. Gives the binary.
    pub(super) fn build(&self, tell: impl Fn(&str)) -> io::Result<PathBuf> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut child = Command::new(cargo)
            .args(["build", "--release", "--locked", "--package", "raftwerk-sim"])
            .arg("--manifest-path")
            .arg(self.sources.join("Cargo.toml"))
            .arg("--target-dir")
            .arg(&self.build)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut said = Vec::new();
        for line in child.stderr.take().into_iter().flat_map(|out| BufReader::new(out).lines()) {
            let line = line?;
            tell(&line);
            said.push(line);
        }
        if !child.wait()?.success() {
            let errors = said.iter().skip_while(|line| !line.starts_with("error"));
            let errors: Vec<&str> = errors.map(String::as_str).collect();
            return Err(io::Error::other(format!("the copy does not build:\n{}", errors.join("\n"))));
        }
        Ok(self.build.join("release").join(format!("raftwerk-sim{}", std::env::consts::EXE_SUFFIX)))
    }
}

/// Puts a text in the place of another, which stands in the file exactly once.
pub(super) fn replace_once(
    root: &Path,
    planted: &mut BTreeMap<String, String>,
    file: &str,
    find: &str,
    put: &str,
) -> Result<(), CatalogueError> {
    let text = match planted.remove(file) {
        Some(text) => text,
        None => {
            let path = root.join(file);
            fs::read_to_string(&path).map_err(CatalogueError::io(&path))?
        }
    };
    let times = text.matches(find).count();
    if times != 1 {
        let (name, file, find) = ("the switch".to_owned(), file.to_owned(), find.to_owned());
        return Err(CatalogueError::NotOnce { name, file, times, find });
    }
    planted.insert(file.to_owned(), text.replacen(find, put, 1));
    Ok(())
}

/// What makes the bugs switchable: file, text to find, text to put there.
fn switchboard() -> [(&'static str, &'static str, String); 4] {
    let number = format!(
        "    let number = std::env::var(\"{SWITCH}\").ok().and_then(|number| number.parse().ok());\n    \
         raftwerk_frame::planted::switch_on(number.unwrap_or_default());\n"
    );
    let main = "fn main() -> ExitCode {\n";
    let on = format!("{main}{number}    raftwerk_net::planted::switch_on(number.unwrap_or_default());\n");
    // Real processes have the switch, too, for the tests of the copy.
    let process_main = "fn main() -> Result<(), Box<dyn Error>> {\n";
    let process_on = format!("{process_main}{number}");
    let [frame, net] = MODULES.map(|(file, find, put)| (file, find, put.to_owned()));
    [
        frame,
        net,
        ("tests/sim/src/main.rs", main, on),
        ("tests/src/bin/node_process.rs", process_main, process_on),
    ]
}

/// Every file below a folder, from there, with `/`; without hidden ones and build output. None if it is not there.
pub(super) fn files_of(root: &Path) -> Result<Vec<String>, CatalogueError> {
    let (mut files, mut folders) = (Vec::new(), vec![String::new()]);
    while let Some(folder) = folders.pop() {
        let path = root.join(&folder);
        let entries = match fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            listed => listed.map_err(CatalogueError::io(&path))?,
        };
        for entry in entries {
            let entry = entry.map_err(CatalogueError::io(&path))?;
            let kind = entry.file_type().map_err(CatalogueError::io(&path))?;
            let name = entry.file_name();
            if name == OsStr::new("target") || name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let Some(name) = name.to_str() else { continue };
            let whole = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
            if kind.is_dir() {
                folders.push(whole);
            } else if kind.is_file() {
                files.push(whole);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Writes a file unless it has these bytes already: the compiler goes by times.
fn write_if_new(path: &Path, bytes: &[u8]) -> Result<(), CatalogueError> {
    if fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(CatalogueError::io(folder))?;
    }
    fs::write(path, bytes).map_err(CatalogueError::io(path))
}
