//! Role and event names, told to JavaScript once each.

use rustc_hash::FxHashMap;

/// Pairs that are remembered. Remote peers choose the names, so there must be a limit; further pairs
/// are told each time.
const MAX_PAIRS: u32 = 1024;
/// Bytes of a pair that is remembered.
const MAX_LEN: usize = 512;

/// How JavaScript is told the names of something that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// It knows them by this number.
    Known(u32),
    /// It learns them now, and will know them by this number.
    New(u32),
    /// It is told them this once.
    Once,
}

/// The names of what came in.
#[derive(Debug, Default)]
pub(crate) struct Names {
    by_role: FxHashMap<Box<str>, FxHashMap<Box<str>, u32>>,
    count: u32,
}

impl Names {
    pub(crate) fn tell(&mut self, role: &str, event: &str) -> Told {
        if let Some(number) = self.by_role.get(role).and_then(|events| events.get(event)) {
            return Told::Known(*number);
        }
        if self.count == MAX_PAIRS || role.len() + event.len() > MAX_LEN {
            return Told::Once;
        }
        let number = self.count;
        self.count += 1;
        self.by_role.entry(role.into()).or_default().insert(event.into(), number);
        Told::New(number)
    }
}

/// The names of what goes out, numbered by JavaScript.
#[derive(Debug, Default)]
pub(crate) struct Routes(Vec<(Box<str>, Box<str>)>);

impl Routes {
    pub(crate) fn add(&mut self, role: String, event: String) -> u32 {
        self.0.push((role.into(), event.into()));
        (self.0.len() - 1) as u32
    }

    pub(crate) fn get(&self, number: u32) -> Option<(&str, &str)> {
        self.0.get(number as usize).map(|(role, event)| (&**role, &**event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_told_once_and_the_table_is_bounded() {
        let mut names = Names::default();
        assert_eq!(names.tell("r", "e"), Told::New(0));
        assert_eq!(names.tell("r", "e"), Told::Known(0));
        assert_eq!(names.tell("r", &"x".repeat(MAX_LEN)), Told::Once);
        for n in 1..MAX_PAIRS {
            assert_eq!(names.tell("r", &n.to_string()), Told::New(n));
        }
        assert_eq!(names.tell("r", "one too many"), Told::Once);
        assert_eq!(names.tell("r", "e"), Told::Known(0));
    }
}
