use std::{cmp::Reverse, collections::BinaryHeap};

use super::*;

/// Units and a clock, without anything between them and who asks.
#[derive(Default)]
struct Field {
    units: Vec<Worker>,
    turn: Turn,
    now: u64,
    /// What is to be answered: when, by which unit, and when it was sent.
    due: BinaryHeap<Reverse<(u64, usize, u64)>>,
    times: Vec<u64>,
}

struct Worker {
    load: Load,
    waiting: usize,
    /// What its answers take, in nanoseconds; none while it is stopped.
    takes: Option<u64>,
    rejects: bool,
    asked: usize,
    /// What was sent while it was stopped.
    held: Vec<u64>,
}

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;

fn moment(nanos: u64) -> Moment {
    Moment::at(Duration::from_nanos(nanos))
}

impl Units for Field {
    fn count(&self) -> usize {
        self.units.len()
    }

    fn unit(&self, at: usize) -> UnitId {
        UnitId(at as u64)
    }

    fn load(&self, at: usize) -> &Load {
        &self.units[at].load
    }
}

impl Field {
    /// Units that answer in so many nanoseconds.
    fn new(takes: &[u64]) -> Field {
        let mut field = Field::default();
        for takes in takes {
            field.join(*takes);
        }
        field
    }

    fn join(&mut self, takes: u64) {
        let load = Load::of(&format!("unit {}", self.units.len()), "");
        load.set_open(true);
        let takes = Some(takes);
        self.units.push(Worker {
            load,
            waiting: 0,
            takes,
            rejects: false,
            asked: 0,
            held: Vec::new(),
        });
    }

    fn choose(&self, balance: &Balance) -> Option<usize> {
        self.choose_but(balance, &Tried::NONE)
    }

    fn choose_but(&self, balance: &Balance, tried: &Tried) -> Option<usize> {
        let wanted = Wanted { balance, takes_fields: false, tried };
        self.turn.choose(self, wanted, &|| moment(self.now)).unwrap()
    }

    fn ask(&mut self, balance: &Balance) -> usize {
        let at = self.choose(balance).unwrap();
        let worker = &mut self.units[at];
        worker.waiting += 1;
        worker.asked += 1;
        worker.load.note_asked(worker.waiting, nanos(moment(self.now)));
        match worker.takes {
            Some(takes) => self.due.push(Reverse((self.now + takes, at, self.now))),
            None => worker.held.push(self.now),
        }
        at
    }

    /// Until this time, with one request each `gap`.
    fn run(&mut self, balance: &Balance, gap: u64, until: u64) {
        while self.now + gap <= until {
            self.answer_until(self.now + gap);
            self.ask(balance);
        }
    }

    fn answer_until(&mut self, time: u64) {
        while let Some(Reverse((due, at, sent))) = self.due.peek().copied()
            && due <= time
        {
            self.due.pop();
            let worker = &mut self.units[at];
            worker.waiting -= 1;
            worker.load.set_waiting(worker.waiting);
            worker.load.note_answered(nanos(moment(sent)), worker.rejects, moment(due));
            self.times.push(due - sent);
        }
        self.now = time;
    }

    /// It answers what it has.
    fn go_on(&mut self, at: usize, takes: u64) {
        let worker = &mut self.units[at];
        worker.takes = Some(takes);
        for sent in std::mem::take(&mut worker.held) {
            self.due.push(Reverse((self.now + takes, at, sent)));
        }
    }

    fn asked(&mut self) -> Vec<usize> {
        self.units.iter_mut().map(|unit| std::mem::take(&mut unit.asked)).collect()
    }

    fn quantile(&mut self, quantile: f64) -> u64 {
        self.times.sort_unstable();
        self.times[(self.times.len() as f64 * quantile) as usize]
    }
}

fn choices(field: &Field, balance: &Balance, times: usize) -> Vec<Option<usize>> {
    (0..times).map(|_| field.choose(balance)).collect()
}

fn open(field: &Field, open: &[bool]) {
    for (unit, open) in field.units.iter().zip(open) {
        unit.load.set_open(*open);
    }
}

fn all() -> Vec<Balance> {
    let custom = Balance::custom(|candidates| Some(candidates.len() - 1));
    let all = [Balance::round_robin(), Balance::least_loaded(), Balance::key("k"), custom];
    let preferring = all.clone().map(|balance| balance.prefer("zone", "a"));
    all.into_iter().chain(preferring).collect()
}

#[test]
fn round_robin_takes_turns_and_passes_over_those_that_are_closing() {
    let field = Field::new(&[MS; 3]);
    let balance = Balance::round_robin();
    assert_eq!(choices(&field, &balance, 4), [Some(0), Some(1), Some(2), Some(0)]);
    let field = Field::new(&[MS; 3]);
    open(&field, &[true, false, true]);
    assert_eq!(choices(&field, &balance, 4), [Some(0), Some(2), Some(2), Some(0)]);
}

#[test]
fn none_is_chosen_that_is_closed_or_has_been_tried_or_does_not_take_headers() {
    for balance in all() {
        let field = Field::new(&[MS; 3]);
        field.units[1].load.set_fields(true);
        for _ in 0..20 {
            let wanted = Wanted { balance: &balance, takes_fields: true, tried: &Tried::NONE };
            assert_eq!(
                field.turn.choose(&field, wanted, &|| Moment::EPOCH).unwrap(),
                Some(1),
                "{balance:?}"
            );
        }
        let mut tried = Tried::NONE;
        tried.note(UnitId(2), &Error::unit_gone());
        open(&field, &[false, true, true]);
        for _ in 0..20 {
            assert_eq!(field.choose_but(&balance, &tried), Some(1), "{balance:?}");
        }
        open(&field, &[false; 3]);
        assert_eq!(field.choose(&balance), None, "{balance:?}");
        assert_eq!(Field::default().choose(&balance), None, "{balance:?}");
        let one = Field::new(&[MS]);
        assert_eq!(one.choose(&balance), Some(0), "{balance:?}");
        open(&one, &[false]);
        assert_eq!(one.choose(&balance), None, "{balance:?}");
    }
}

#[test]
fn equal_units_get_equal_shares() {
    for (takes, gap) in [(MS, 2 * MS), (5 * MS, MS), (50 * MS, MS), (MS / 10, MS / 100)] {
        let mut field = Field::new(&[takes; 4]);
        field.run(&Balance::least_loaded(), gap, 10_000 * gap);
        for asked in field.asked() {
            assert!((2_375..=2_625).contains(&asked), "{asked} with {takes}, {gap}");
        }
    }
}

#[test]
fn a_slow_unit_is_hardly_asked_and_has_its_share_soon_after_it_recovers() {
    for slow in [10 * MS, 50 * MS, SECOND] {
        let mut field = Field::new(&[slow, MS, MS, MS]);
        let balance = Balance::least_loaded();
        field.run(&balance, MS, 20 * SECOND);
        assert!(field.quantile(0.99) <= 2 * MS, "{}", field.quantile(0.99));
        field.units[0].takes = Some(MS);
        field.run(&balance, MS, 25 * SECOND);
        field.asked();
        field.run(&balance, MS, 35 * SECOND);
        let asked = field.asked()[0];
        assert!((2_375..=2_625).contains(&asked), "{asked} with {slow}");
    }
}

#[test]
fn a_stopped_unit_is_avoided_and_comes_back() {
    for (gap, takes) in [(MS, MS), (10 * MS, MS), (MS, 20 * MS)] {
        let mut field = Field::new(&[takes; 4]);
        let balance = Balance::least_loaded();
        field.run(&balance, gap, 5 * SECOND);
        field.units[1].takes = None;
        let running = field.units[1].waiting;
        field.asked();
        field.run(&balance, gap, 5 * SECOND + 900 * MS);
        let asked = field.asked()[1];
        // While its answers could not be there yet, nobody knew.
        assert!(asked <= 4 + running, "{asked} with {takes}, {gap}");
        field.run(&balance, gap, 65 * SECOND);
        let probes = field.asked()[1];
        assert!((5..=25).contains(&probes), "{probes} with {takes}, {gap}");
        field.go_on(1, takes);
        field.run(&balance, gap, 70 * SECOND);
        field.asked();
        field.run(&balance, gap, 80 * SECOND);
        let (asked, share) = (field.asked()[1], (10 * SECOND / gap / 4) as usize);
        assert!((share * 95 / 100..=share * 105 / 100).contains(&asked), "{asked} of {share}");
    }
}

#[test]
fn who_has_never_answered_is_taken_for_no_quicker_than_the_others() {
    // Those that are known are slow themselves, and many requests are made before anything else can be known.
    let balance = Balance::least_loaded();
    for idle in [0, 60 * SECOND] {
        let mut field = Field::new(&[20 * MS; 4]);
        field.run(&balance, MS, SECOND);
        field.answer_until(2 * SECOND + idle);
        field.asked();
        field.join(20 * MS);
        field.units[4].takes = None;
        for _ in 0..100 {
            field.ask(&balance);
        }
        let asked = field.asked();
        assert!(asked.iter().all(|asked| (15..=25).contains(asked)), "{asked:?} after {idle}");
    }
}

#[test]
fn a_slow_unit_that_is_tried_again_gets_one_request_at_a_time() {
    let mut field = Field::new(&[SECOND, 20 * MS, 20 * MS, 20 * MS]);
    let balance = Balance::least_loaded();
    field.run(&balance, MS, 10 * SECOND);
    field.asked();
    field.run(&balance, MS, 60 * SECOND);
    let asked = field.asked()[0];
    // Every few seconds, and one more before it is known to be silent.
    assert!(asked <= 60, "{asked}");
}

#[test]
fn a_unit_that_is_busy_with_something_long_is_not_forgotten() {
    let mut field = Field::new(&[MS; 4]);
    field.units[2].takes = None;
    let balance = Balance::least_loaded();
    while field.units[2].waiting == 0 {
        field.run(&balance, MS, field.now + MS);
    }
    field.units[2].takes = Some(MS);
    field.run(&balance, 10 * MS, 10 * SECOND);
    assert!(field.asked()[2] >= 9);
}

#[test]
fn keys_stay_where_they_are_and_a_fifth_unit_moves_a_fifth_of_them() {
    const KEYS: usize = 10_000;
    let places = |field: &Field| -> Vec<usize> {
        let place = |n: usize| field.choose(&Balance::key(format!("user {n}"))).unwrap();
        (0..KEYS).map(place).collect()
    };
    let mut field = Field::new(&[MS; 4]);
    let before = places(&field);
    assert_eq!(before, places(&field));
    for unit in 0..4 {
        let share = before.iter().filter(|at| **at == unit).count();
        assert!((KEYS * 22 / 100..=KEYS * 28 / 100).contains(&share), "{share}");
    }
    field.join(MS);
    let after = places(&field);
    let moved: Vec<_> = before.iter().zip(&after).filter(|(a, b)| a != b).collect();
    assert!(moved.iter().all(|(_, to)| **to == 4));
    assert!((KEYS * 15 / 100..=KEYS * 25 / 100).contains(&moved.len()), "{}", moved.len());
    // The keys of a unit that leaves are spread, all others stay.
    field.units[4].load.set_open(false);
    assert_eq!(places(&field), before);
}

#[test]
fn keys_follow_a_name_to_another_process_unless_another_has_it_too() {
    let places = |field: &Field| -> Vec<usize> {
        (0..1_000).map(|n: u32| field.choose(&Balance::key(n.to_le_bytes())).unwrap()).collect()
    };
    let named = |ids: [&str; 3], names: [&str; 3]| {
        let mut field = Field::new(&[MS; 3]);
        for (unit, (id, name)) in field.units.iter_mut().zip(ids.into_iter().zip(names)) {
            unit.load = Load::of(name, id);
            unit.load.set_open(true);
        }
        field
    };
    let before = named(["1", "2", "3"], ["a", "b", "c"]);
    let after = named(["4", "5", "6"], ["a", "b", "c"]);
    assert_eq!(places(&before), places(&after));
    let nameless = named(["1", "2", "3"], ["", "", ""]);
    let same = named(["1", "2", "3"], ["x", "x", "x"]);
    same.units.iter().for_each(|unit| unit.load.set_alike(true));
    assert_eq!(places(&nameless), places(&same));
    for unit in 0..3 {
        assert!(places(&same).iter().filter(|at| **at == unit).count() > 250);
    }
}

#[test]
fn those_with_a_tag_are_preferred_and_others_are_asked_when_there_are_none() {
    let mut field = Field::new(&[MS; 4]);
    for (unit, zone) in field.units.iter_mut().zip(["b", "a", "b", "a"]) {
        unit.load = Load::of("", "").with_tag("zone", zone);
        unit.load.set_open(true);
    }
    for balance in [Balance::round_robin(), Balance::least_loaded()] {
        let prefer = balance.prefer("zone", "a");
        let turns = choices(&field, &prefer, 4);
        assert_eq!(turns.iter().filter(|at| **at == Some(1)).count(), 2, "{turns:?}");
        assert_eq!(turns.iter().filter(|at| **at == Some(3)).count(), 2, "{turns:?}");
        let both = prefer.clone().prefer("rack", "7");
        let turns = choices(&field, &both, 4);
        assert_eq!(turns.iter().flatten().collect::<std::collections::HashSet<_>>().len(), 4);
        open(&field, &[true, false, true, false]);
        assert!(choices(&field, &prefer, 4).iter().all(|at| matches!(at, Some(0 | 2))));
        open(&field, &[true; 4]);
    }
    let keyed = Balance::round_robin().prefer("zone", "a").with_key("k");
    assert!(matches!(field.choose(&keyed), Some(1 | 3)));
}

#[test]
fn a_function_is_given_those_that_can_be_asked() {
    let mut field = Field::new(&[MS; 3]);
    field.units[2].load = Load::of("last", "id").with_tag("zone", "a");
    field.units[2].load.set_open(true);
    field.units[2].load.note_answered(
        nanos(moment(0)),
        false,
        moment(0) + Duration::from_millis(1),
    );
    field.units[2].load.note_asked(1, nanos(moment(MS)));
    field.now = MS;
    open(&field, &[false, true, true]);
    let seen = Balance::custom(|candidates| {
        let [first, last] = candidates else { return None };
        assert_eq!((first.unit, first.name, first.waiting), (UnitId(1), "unit 1", 0));
        assert_eq!((first.answer_time, first.tags.len()), (Duration::ZERO, 0));
        assert_eq!((last.unit, last.name, &**last.id), (UnitId(2), "last", "id"));
        assert_eq!((last.waiting, last.answer_time), (1, Duration::from_millis(1)));
        assert_eq!(last.tags.get("zone").map(String::as_str), Some("a"));
        Some(1)
    });
    assert_eq!(field.choose(&seen), Some(2));
    assert_eq!(field.choose(&Balance::custom(|_| None)), None);
    assert_eq!(field.choose(&Balance::custom(|all| Some(all.len()))), None);
    let failing = Balance::try_custom(|_| Err(Error::new(ErrorKind::InvalidArgument, "no")));
    let wanted = Wanted { balance: &failing, takes_fields: false, tried: &Tried::NONE };
    let chosen = field.turn.choose(&field, wanted, &|| Moment::EPOCH);
    assert_eq!(chosen.map_err(|error| error.kind()), Err(ErrorKind::InvalidArgument));
    // It is not asked where there is nothing to choose.
    assert_eq!(Field::default().choose(&failing), None);
}

#[test]
fn a_balance_has_a_name_in_other_languages() {
    let name = |name| format!("{:?}", Balance::named(name).unwrap().by);
    assert_eq!([name("round_robin"), name("round-robin")], ["round robin"; 2]);
    assert_eq!([name("least_loaded"), name("least-loaded")], ["least loaded"; 2]);
    let error = Balance::named("random").unwrap_err();
    assert_eq!(error.text(), r#"there is no balance "random""#);
    assert!(error.hint().unwrap().contains("least_loaded"));
    assert!(Balance::least_loaded().counts_requests() && !Balance::key("k").counts_requests());
}

/// All languages, and implementations that are to choose alike.
#[test]
fn keys_are_placed_as_the_table_says() {
    let table = include_str!("../../../../tests/data/key-placement.txt");
    let mut field = Field::new(&[MS; 4]);
    for (unit, name) in field.units.iter_mut().zip(["math-1", "math-2", "math-3", "math-4"]) {
        unit.load = Load::of(name, "");
        unit.load.set_open(true);
    }
    let lines = table.lines().filter(|line| !line.starts_with('#'));
    let rows: Vec<_> = lines.filter_map(|line| line.split_once(" -> ")).collect();
    assert_eq!(rows.len(), 100);
    for (key, name) in rows {
        let chosen = field.choose(&Balance::key(key)).unwrap();
        assert_eq!(format!("math-{}", chosen + 1), name, "{key}");
    }
}

/// Those that are not answered in time.
fn time_out(field: &mut Field, at: usize) {
    let now = moment(field.now);
    let worker = &mut field.units[at];
    worker.held.clear();
    let count = std::mem::take(&mut worker.waiting);
    worker.load.set_waiting(0);
    worker.load.note_unanswered(count, Duration::from_secs(1), now);
}

fn ejecting(failures: u32) -> Balance {
    Balance::round_robin().eject(Ejection { failures, ..Ejection::default() })
}

#[test]
fn a_unit_that_keeps_failing_is_left_out_tried_and_taken_back() {
    let mut field = Field::new(&[MS; 4]);
    let balance = ejecting(3);
    field.units[0].takes = None;
    field.run(&balance, MS, 12 * MS);
    assert_eq!(field.asked(), [3; 4]);
    field.now += SECOND;
    time_out(&mut field, 0);
    let out = field.now;
    assert_eq!(field.turn.take_changes(), []);
    field.run(&balance, MS, out + 4_999 * MS);
    assert_eq!(field.asked()[0], 0);
    assert!(field.turn.has_news());
    assert_eq!(field.turn.take_changes(), [(UnitId(0), true)]);
    // One request tells, and no other is risked meanwhile.
    field.run(&balance, MS, out + 7 * SECOND);
    assert_eq!(field.asked()[0], 1);
    let standings = balance.standings(&field, moment(field.now));
    assert_eq!(standings[0].ejected, Some(Duration::ZERO));
    assert_eq!((standings[0].unanswered, standings[0].waiting), (3, 1));
    assert!(standings[1..].iter().all(|unit| unit.ejected.is_none()));
    // It fails as well: twice as long.
    time_out(&mut field, 0);
    let out = field.now;
    field.run(&balance, MS, out + 9_999 * MS);
    assert_eq!(field.asked()[0], 0);
    // Whoever leaves out others sees no change.
    field.run(&ejecting(7), MS, out + 9_999 * MS + 10);
    assert_eq!(field.turn.take_changes(), []);
    let standings = balance.standings(&field, moment(field.now));
    assert!(standings[0].ejected.is_some_and(|left| left <= Duration::from_millis(2)));
    // It answers, and is as good as any.
    field.units[0].takes = Some(MS);
    field.run(&balance, MS, out + 11 * SECOND);
    field.asked();
    assert_eq!(field.turn.take_changes(), [(UnitId(0), false)]);
    field.run(&balance, MS, out + 12 * SECOND);
    assert_eq!(field.asked(), [250; 4]);
    assert_eq!(balance.standings(&field, moment(field.now))[0].unanswered, 0);
    // Those that are left out in another way from now on are told of.
    field.units[0].takes = None;
    let now = field.now;
    field.run(&balance, MS, now + 8 * MS);
    time_out(&mut field, 0);
    field.choose(&ejecting(1));
    assert_eq!(field.turn.take_changes(), [(UnitId(0), true)]);
}

#[test]
fn never_more_than_half_are_left_out() {
    let mut field = Field::new(&[MS; 5]);
    let balance = ejecting(1);
    for at in 0..5 {
        field.units[at].waiting = at + 1;
        time_out(&mut field, at);
        let ejected = balance.standings(&field, moment(field.now));
        let count = ejected.iter().filter(|unit| unit.ejected.is_some()).count();
        assert_eq!(count, (at + 1).min(2));
    }
    // Those that failed most.
    field.run(&balance, MS, 30 * MS);
    assert_eq!(field.asked(), [10, 10, 10, 0, 0]);
    let mut one = Field::new(&[MS]);
    one.units[0].waiting = 1;
    time_out(&mut one, 0);
    assert_eq!(one.choose(&balance), Some(0));
}

#[test]
fn rejections_count_where_they_are_said_to() {
    let mut field = Field::new(&[MS; 2]);
    field.units[1].rejects = true;
    let mut counts = Ejection { failures: 2, rejections: true, ..Ejection::default() };
    let balance = Balance::least_loaded().eject(counts);
    field.run(&balance, 2 * MS, SECOND);
    assert_eq!(field.asked()[1], 2);
    assert_eq!(balance.standings(&field, moment(field.now))[1].rejected, 2);
    counts.rejections = false;
    field.run(&Balance::least_loaded().eject(counts), 2 * MS, 2 * SECOND);
    assert!(field.asked()[1] > 200);
    // Answers end the row.
    field.units[1].rejects = false;
    field.run(&Balance::least_loaded(), 2 * MS, 3 * SECOND);
    assert_eq!(balance.standings(&field, moment(field.now))[1].rejected, 0);
}

#[test]
fn the_zone_of_those_that_are_left_out_spills_over() {
    let mut field = Field::new(&[MS; 4]);
    for (unit, zone) in field.units.iter_mut().zip(["a", "a", "b", "b"]) {
        unit.load = Load::of("", "").with_tag("zone", zone);
        unit.load.set_open(true);
    }
    let balance = ejecting(1).prefer("zone", "a");
    for at in [0, 1] {
        field.units[at].waiting = 1;
        time_out(&mut field, at);
    }
    field.run(&balance, MS, 20 * MS);
    assert_eq!(field.asked(), [0, 0, 10, 10]);
}
