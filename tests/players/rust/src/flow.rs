//! Numbered requests, each of which is accounted for.

use std::{collections::BTreeMap, ops::Range, sync::Mutex, time::Duration};

use futures_util::future::join_all;
use roletalk::{Destination, ErrorKind, Unit};
use serde_json::{Value, json};

use crate::streams::lock;

pub(crate) struct Flow<'d> {
    pub(crate) destination: &'d Destination,
    pub(crate) event: &'d str,
    /// None for the next in turn.
    pub(crate) unit: Option<Unit>,
    /// The least that a payload is long, in bytes.
    pub(crate) size: usize,
    pub(crate) timeout: Option<Duration>,
}

#[derive(Default)]
struct Account {
    answered: usize,
    failed: Vec<usize>,
    wrong: Vec<usize>,
    by: BTreeMap<String, usize>,
    errors: BTreeMap<&'static str, usize>,
}

impl Flow<'_> {
    /// Asks with all of the numbers, with so many at a time.
    pub(crate) async fn run(&self, numbers: Range<usize>, in_flight: usize) -> Value {
        let numbers = Mutex::new(numbers);
        let account = Mutex::new(Account::default());
        join_all((0..in_flight).map(|_| self.ask(&numbers, &account))).await;
        let Account { answered, failed, wrong, by, errors } = &*lock(&account);
        json!({ "answered": answered, "failed": failed, "wrong": wrong, "by": by, "errors": errors })
    }

    /// Takes one number after the other.
    async fn ask(&self, numbers: &Mutex<Range<usize>>, account: &Mutex<Account>) {
        let next = || lock(numbers).next();
        while let Some(number) = next() {
            let mut payload = format!("{number} ");
            payload.extend(std::iter::repeat_n(' ', self.size.saturating_sub(payload.len())));
            let mut request = self.destination.request(self.event, payload);
            if let Some(unit) = &self.unit {
                request = request.to(unit);
            }
            if let Some(timeout) = self.timeout {
                request = request.timeout(timeout);
            }
            let answer = request.await;
            let mut account = lock(account);
            match answer.map(|answer| answer.parse::<String>()) {
                Ok(text) => account.add(number, &text.unwrap_or_default()),
                Err(error) => account.fail(number, error.kind()),
            }
        }
    }
}

impl Account {
    fn add(&mut self, number: usize, answer: &str) {
        let (answered, name) = answer.split_once(' ').unwrap_or_default();
        if answered == number.to_string() {
            self.answered += 1;
        } else {
            self.wrong.push(number);
        }
        *self.by.entry(name.to_owned()).or_default() += 1;
    }

    fn fail(&mut self, number: usize, kind: ErrorKind) {
        self.failed.push(number);
        *self.errors.entry(kind.name()).or_default() += 1;
    }
}
