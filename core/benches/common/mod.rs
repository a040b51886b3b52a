//! What both benchmarks need: options, the machine, medians, tables.

// Each benchmark compiles this module for itself and none uses all of it.
#![allow(dead_code)]

use std::{fs, process::Command};

/// The options behind `cargo bench --bench NAME --`.
pub(crate) struct Options {
    /// About 20 seconds instead of 3 minutes.
    pub(crate) quick: bool,
    /// Client and server on a CPU each in all tables.
    pub(crate) pin: bool,
    filters: Vec<String>,
}

impl Options {
    /// Reads the command line. Cargo's own `--bench` is passed over.
    pub(crate) fn parse(usage: &str) -> Options {
        let mut options = Options { quick: false, pin: false, filters: Vec::new() };
        for argument in std::env::args().skip(1) {
            match argument.as_str() {
                "--bench" => {}
                "--quick" => options.quick = true,
                "--pin" => options.pin = true,
                "--help" | "-h" => {
                    println!("{usage}");
                    std::process::exit(0);
                }
                flag if flag.starts_with('-') => {
                    eprintln!("unknown option {flag}\n{usage}");
                    std::process::exit(2);
                }
                filter => options.filters.push(filter.to_owned()),
            }
        }
        options
    }

    /// Whether something of this name is to be measured.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| name.contains(filter))
    }

    pub(crate) fn pick<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }
}

/// One line that says where the numbers come from.
pub(crate) fn machine() -> String {
    let output = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output();
        output.ok().map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown CPU", |line| line.trim_start_matches([' ', '\t', ':']));
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?").to_owned();
    format!(
        "machine: {cpus} x {model}; {}; {}; load before {load}",
        output("uname", &["-sr"]).unwrap_or_else(|| std::env::consts::OS.to_owned()),
        output("rustc", &["-V"]).unwrap_or_else(|| "rustc unknown".to_owned()),
    )
}

/// The middle value; NaN when there is none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match (values.len(), values.len() / 2) {
        (0, _) => f64::NAN,
        (len, half) if len % 2 == 1 => values[half],
        (_, half) => (values[half - 1] + values[half]) / 2.0,
    }
}

/// The value that this part of all is not above; NaN when there is none.
pub(crate) fn quantile(values: &[f64], part: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let at = (values.len() as f64 * part).ceil() as usize;
    values.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// (max - min) / median.
pub(crate) fn spread(values: &[f64]) -> f64 {
    let max = values.iter().copied().fold(f64::MIN, f64::max);
    let min = values.iter().copied().fold(f64::MAX, f64::min);
    (max - min) / median(values.iter().copied())
}

/// 1234567.8 as `1,234,568`; small values keep some digits.
pub(crate) fn number(value: f64) -> String {
    if value.is_nan() {
        return "–".to_owned();
    }
    if value < 10.0 {
        return format!("{value:.2}");
    }
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A Markdown table: the first column to the left, the others to the right.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(head: impl IntoIterator<Item = impl Into<String>>) -> Table {
        Table { rows: vec![head.into_iter().map(Into::into).collect()] }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    pub(crate) fn print(&self, title: &str) {
        if self.is_empty() {
            return;
        }
        println!("\n### {title}\n");
        let columns = self.rows[0].len();
        let width = |column: usize| {
            self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (at, row) in self.rows.iter().enumerate() {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(column, (cell, width))| match column {
                    0 => format!("{cell:width$}"),
                    _ => format!("{cell:>width$}"),
                })
                .collect();
            println!("| {} |", cells.join(" | "));
            if at == 0 {
                let rules: Vec<String> = widths
                    .iter()
                    .enumerate()
                    .map(|(column, width)| match column {
                        0 => "-".repeat(*width),
                        _ => format!("{}:", "-".repeat(width - 1)),
                    })
                    .collect();
                println!("| {} |", rules.join(" | "));
            }
        }
    }
}

/// One target of the issue.
pub(crate) struct Target {
    pub(crate) what: String,
    pub(crate) value: f64,
    pub(crate) bound: f64,
    /// Whether the value must not be below the bound, instead of not above it.
    pub(crate) at_least: bool,
}

impl Target {
    pub(crate) fn is_reached(&self) -> bool {
        match self.at_least {
            true => self.value >= self.bound,
            false => self.value <= self.bound,
        }
    }
}

pub(crate) fn print_targets(targets: &[Target]) {
    if targets.is_empty() {
        return;
    }
    let mut table = Table::new(["target", "bound", "measured", "verdict"]);
    for target in targets {
        let sign = if target.at_least { "≥" } else { "≤" };
        let verdict = if target.is_reached() { "reached" } else { "NOT reached" };
        table.row([
            target.what.clone(),
            format!("{sign} {}", number(target.bound)),
            number(target.value),
            verdict.to_owned(),
        ]);
    }
    table.print("Targets");
}
