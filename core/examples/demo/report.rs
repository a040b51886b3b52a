//! What a person sees.

use std::{
    io::{IsTerminal, stdout},
    time::Instant,
};

use crate::Result;

/// Prints the story and counts the checks.
pub(crate) struct Report {
    begun: Instant,
    chapters: usize,
    checks: usize,
    colours: bool,
}

impl Report {
    pub(crate) fn new() -> Report {
        let colours = stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Report { begun: Instant::now(), chapters: 0, checks: 0, colours }
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A new part of the story.
    pub(crate) fn chapter(&mut self, title: &str) {
        self.chapters += 1;
        let title = format!("{}. {title}", self.chapters);
        println!("\n{}", self.paint("1", &title));
    }

    /// Something that somebody does.
    pub(crate) fn tell(&self, who: &str, what: &str) {
        println!("   {who:<9}{what}");
    }

    /// A verified step.
    pub(crate) fn check(&mut self, holds: bool, what: &str) -> Result<()> {
        if !holds {
            return Err(format!("this should be so, but is not: {what}").into());
        }
        self.checks += 1;
        println!("   {} {what}", self.paint("32", "✓"));
        Ok(())
    }

    /// The summary.
    pub(crate) fn end(&self, outcome: &Result<()>) {
        let seconds = self.begun.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => {
                let all = format!("All {} checks passed", self.checks);
                println!("\n{} in {seconds:.1} s.", self.paint("1;32", &all));
            }
            Err(error) => {
                println!("   {} {error}", self.paint("31", "✗"));
                let failed = self.paint("1;31", "FAILED");
                println!("\n{failed} after {} checks and {seconds:.1} s.", self.checks);
            }
        }
    }
}
