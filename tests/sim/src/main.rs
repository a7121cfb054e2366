//! IMPURE: the command: one seed, a range, a hunt, or planted bugs; it prints the results as text or as JSON.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use raftwerk_sim::mutants::mechanical;
use raftwerk_sim::scenario::{self, Scenario};
use raftwerk_sim::{
    Catch, FaultKind, FaultSet, KeyValueSubject, Options, Profile, Quarry, Subject, hunt, hunt_by, mutants,
};

/// Lives through simulated clusters of the real engine, under faults, and checks everything it promises.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// One seed; ends with the hash over all its events
    #[arg(long, conflicts_with_all = ["seeds", "minutes"])]
    seed: Option<u64>,
    /// A range of seeds, A..B
    #[arg(long, value_parser = range)]
    seeds: Option<(u64, u64)>,
    /// Hunt for so many minutes, from the first seed of --seeds on, or from a fresh one
    #[arg(long)]
    minutes: Option<f64>,
    /// Named scenarios instead of faults at random: names, `all`, or `list`; seeds 0..1000 if none are given
    #[arg(long, value_delimiter = ',', value_parser = scenarios, conflicts_with_all = ["minutes", "profile", "nodes",
        "groups", "seconds", "without", "strikes", "shrink"])]
    scenario: Vec<Scenes>,
    /// How unkind the world is
    #[arg(long, value_enum, default_value = "swarm")]
    profile: Profile,
    /// Nodes, 1 to 9; drawn by the seed if not given
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=9))]
    nodes: Option<u8>,
    /// Groups, 1 to 64; drawn by the seed if not given
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=64))]
    groups: Option<u8>,
    /// Seconds of faults in the world's time; drawn by the seed if not given
    #[arg(long)]
    seconds: Option<u64>,
    /// Kinds of faults to leave out, by name
    #[arg(long, value_delimiter = ',', value_parser = kind)]
    without: Vec<FaultKind>,
    /// Of the strikes that the seed draws, only these
    #[arg(long, value_delimiter = ',')]
    strikes: Option<Vec<usize>>,
    /// Print what happens, line by line
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Drop faults from a failing seed for as long as it still fails in the same way
    #[arg(long, requires = "seed")]
    shrink: bool,
    /// How many violations are enough
    #[arg(long, default_value_t = 20)]
    violations: usize,
    /// Hunt planted bugs, all or those named, in a copy of the sources; --minutes is the limit for each, 10 if not given
    #[arg(long, num_args = 0.., value_name = "NAME", conflicts_with_all = ["seed", "seeds", "strikes", "without"])]
    mutants: Option<Vec<String>>,
    /// Only check that the copy with all planted bugs, or those named, compiles
    #[arg(long, requires = "mutants")]
    check: bool,
    /// Try mechanical mutants in a copy of the sources: of these rooms, or with this in their names, or all; --minutes is the
    /// limit of the lives for each, 1 if not given
    #[arg(long, num_args = 0.., value_name = "ROOM", conflicts_with_all = ["seed", "seeds", "strikes", "without", "mutants"])]
    mechanical: Option<Vec<String>>,
    /// What draws the mechanical mutants …
    #[arg(long, default_value_t = 1, requires = "mechanical")]
    draw: u64,
    /// … and how many of each room; the room's own number if not given
    #[arg(long, requires = "mechanical")]
    sample: Option<usize>,
    /// Machines read the last line
    #[arg(long)]
    json: bool,
    /// Threads; one per core if not given
    #[arg(long)]
    threads: Option<usize>,
}

fn range(text: &str) -> Result<(u64, u64), String> {
    let (from, to) = text.split_once("..").ok_or("a range looks like 0..1000")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text:?}: {error}"));
    let (from, to) = (number(from)?, number(to)?);
    if from < to { Ok((from, to)) } else { Err("a range begins before it ends".to_owned()) }
}

fn kind(name: &str) -> Result<FaultKind, String> {
    FaultKind::named(name).ok_or_else(|| {
        let names: Vec<&str> = FaultKind::ALL.iter().map(|kind| kind.name()).collect();
        format!("there is no fault {name:?}; there are {}", names.join(", "))
    })
}

fn print(line: &str) {
    // A reader that has gone away has seen enough.
    let _ = writeln!(std::io::stdout(), "{line}");
}

impl Arguments {
    fn options(&self) -> Options {
        Options {
            profile: self.profile,
            nodes: self.nodes.map(usize::from),
            groups: self.groups.map(usize::from),
            seconds: self.seconds,
            without: FaultSet::of(|kind| self.without.contains(&kind)),
            strikes: self.strikes.clone(),
            trace: self.trace.then_some(print as fn(&str)),
        }
    }

    fn threads(&self) -> usize {
        self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(names) = &arguments.mutants {
        if arguments.check {
            return check_mutants(names);
        }
        return hunt_mutants(names, &arguments);
    }
    if let Some(only) = &arguments.mechanical {
        return try_mechanical(only, &arguments);
    }
    let subject: Arc<dyn Subject> = Arc::new(KeyValueSubject::default());
    if !arguments.scenario.is_empty() {
        return play(&arguments);
    }
    let found = match arguments.seed {
        Some(seed) if arguments.shrink => raftwerk_sim::shrink(seed, &arguments.options(), &subject, print),
        Some(seed) => one(seed, &arguments, &subject),
        None => many(&arguments, &subject),
    };
    if arguments.json {
        print(&found.json());
    }
    if found.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Success only if every planted bug compiles.
fn check_mutants(names: &[String]) -> ExitCode {
    match mutants::check(names, print) {
        Ok(planted) => {
            print(&format!("{planted} planted bugs compile"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            print(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Success only if every planted bug was caught.
fn hunt_mutants(names: &[String], arguments: &Arguments) -> ExitCode {
    let at_most = Duration::from_secs_f64(arguments.minutes.unwrap_or(10.0).max(0.0) * 60.0);
    let wanted = mutants::Wanted { names: names.to_vec(), at_most, threads: arguments.threads() };
    match mutants::hunt_all(&wanted, print) {
        Ok(outcomes) => {
            print(&mutants::summary(&outcomes));
            if arguments.json {
                print(&mutants::json(&outcomes));
            }
            let all = outcomes.iter().all(|outcome| outcome.caught_by.is_some());
            if all { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            print(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Success only if no mechanical mutant was missed.
fn try_mechanical(only: &[String], arguments: &Arguments) -> ExitCode {
    let wanted = mechanical::Wanted {
        only: only.to_vec(),
        draw: arguments.draw,
        sample: arguments.sample,
        lives: Duration::from_secs_f64(arguments.minutes.unwrap_or(1.0).max(0.0) * 60.0),
        threads: arguments.threads(),
    };
    let words: Vec<String> = std::env::args().skip(1).collect();
    let command = format!("cargo run --release -p raftwerk-sim -- {}", words.join(" "));
    match mechanical::run_all(&wanted, &command, print) {
        Ok(score) => {
            print(&score.summary());
            if score.total().missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            print(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn one(seed: u64, arguments: &Arguments, subject: &Arc<dyn Subject>) -> Catch {
    let quarry =
        Quarry { from: seed, to: Some(seed + 1), at_most: None, threads: 1, violations_max: usize::MAX };
    let options = arguments.options();
    hunt(quarry, &options, subject, |report| {
        print(&format!(
            "seed {} · {} events · {:.1} s simulated · {} calls answered, {} unknown · {} entries applied · hash {:016x}",
            report.seed,
            report.events,
            report.simulated as f64 / 1e9,
            report.answered,
            report.unknown,
            report.applied,
            report.hash
        ));
        tell_violation(report.seed, report.violation.as_ref());
    })
}

/// What one name after `--scenario` asks for.
#[derive(Clone, Copy)]
enum Scenes {
    List,
    All,
    One(&'static Scenario),
}

fn scenarios(name: &str) -> Result<Scenes, String> {
    match name {
        "list" => Ok(Scenes::List),
        "all" => Ok(Scenes::All),
        name => Scenario::named(name).map(Scenes::One).ok_or_else(|| {
            let names: Vec<&str> = scenario::all().map(Scenario::name).collect();
            format!("there is no scenario {name:?}; there are all, list, {}", names.join(", "))
        }),
    }
}

/// Plays scenarios, one after the other, each with every seed.
fn play(arguments: &Arguments) -> ExitCode {
    if arguments.scenario.iter().any(|scenes| matches!(scenes, Scenes::List)) {
        for scenario in scenario::all() {
            print(&format!("{:22} {}", scenario.name(), scenario.tells()));
        }
        return ExitCode::SUCCESS;
    }
    let mut violations = 0;
    for scenes in &arguments.scenario {
        let chosen: Vec<&Scenario> = match scenes {
            Scenes::One(scenario) => vec![scenario],
            _ => scenario::all().collect(),
        };
        violations += chosen.into_iter().map(|scenario| play_one(scenario, arguments)).sum::<usize>();
    }
    if violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Plays one scenario; how many seeds broke a rule.
fn play_one(scenario: &Scenario, arguments: &Arguments) -> usize {
    let (from, to) = match arguments.seed {
        Some(seed) => (seed, seed.saturating_add(1)),
        None => arguments.seeds.unwrap_or((0, 1_000)),
    };
    let trace = arguments.trace.then_some(print as fn(&str));
    let quarry =
        Quarry { from, to: Some(to), at_most: None, threads: arguments.threads(), violations_max: 20 };
    let found = hunt_by(
        quarry,
        |seed| scenario.run(seed, trace),
        |report| {
            tell_violation(report.seed, report.violation.as_ref());
        },
    );
    print(&format!(
        "{:22} {} seeds · {} events · {:.0} s simulated · {} calls answered, {} unknown · {} violations · {:.1} s",
        scenario.name(),
        found.seeds,
        found.events,
        found.simulated as f64 / 1e9,
        found.answered,
        found.unknown,
        found.violations.len(),
        found.took.as_secs_f64()
    ));
    if arguments.json {
        print(&found.json());
    }
    found.violations.len()
}

fn tell_violation(seed: u64, violation: Option<&raftwerk_sim::Violation>) {
    if let Some(violation) = violation {
        print(&format!("VIOLATION in seed {seed}: {}\n  {}", violation.invariant, violation.what));
    }
}

fn many(arguments: &Arguments, subject: &Arc<dyn Subject>) -> Catch {
    let minutes = arguments.minutes.map(|minutes| Duration::from_secs_f64(minutes.max(0.0) * 60.0));
    let (from, to) = match (arguments.seeds, minutes) {
        (Some((from, to)), None) => (from, Some(to)),
        (Some((from, _)), Some(_)) => (from, None),
        (None, Some(_)) => (fresh_seed(), None),
        (None, None) => (0, Some(100)),
    };
    let quarry = Quarry {
        from,
        to,
        at_most: minutes,
        threads: arguments.threads(),
        violations_max: arguments.violations,
    };
    let bar = ProgressBar::new(to.map_or(minutes.map_or(0, |limit| limit.as_secs()), |to| to - from));
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} {elapsed}") {
        bar.set_style(style);
    }
    print(&format!("seeds from {from}, profile {:?}", arguments.profile).to_lowercase());
    let found = hunt(quarry, &arguments.options(), subject, |report| {
        match minutes {
            None => bar.inc(1),
            Some(_) => bar.set_position(bar.elapsed().as_secs()),
        }
        bar.suspend(|| tell_violation(report.seed, report.violation.as_ref()));
    });
    bar.finish_and_clear();
    summary(&found);
    found
}

/// A hunt without a range begins somewhere new every time, and prints where.
fn fresh_seed() -> u64 {
    use std::hash::BuildHasher;
    std::hash::RandomState::new().hash_one("a fresh seed") >> 24
}

fn summary(found: &Catch) {
    let faults: u64 = found.faults.iter().map(|(_, count)| count).sum();
    print(&format!(
        "{} seeds · {} events, {:.0} per second · {:.2} cluster-hours, {:.1} per minute · {} calls answered, {} unknown, {} reads \
         by lease · {faults} faults, {} loud stops · {} violations",
        found.seeds,
        found.events,
        found.events_per_second(),
        found.simulated as f64 / 3.6e12,
        found.hours_per_minute(),
        found.answered,
        found.unknown,
        found.leased_reads,
        found.loud_stops,
        found.violations.len()
    ));
}
