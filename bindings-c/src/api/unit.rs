//! Connected remote peers.

use std::{ffi::c_char, os::raw::c_void, time::Duration};

use engine::Unit;

use crate::{
    border::{
        enter::enter,
        failure::{Failure, Status, roletalk_status},
        handles::roletalk_unit,
        memory::{check_out, copy_text, put},
        sized::{self, sized},
        units::{self, LentUnit},
        values::{roletalk_pair, roletalk_string},
    },
    callbacks::frame,
    runtime::wait::{Limit, block_on},
};

/// Calls a function for each unit, with a handle that is valid during the call.
pub(crate) fn visit(
    units: Vec<Unit>,
    visitor: roletalk_unit_visitor,
    user_data: *mut c_void,
) -> Result<(), Failure> {
    let visitor = visitor.ok_or_else(|| Failure::null("visitor"))?;
    for unit in units {
        let lent = LentUnit::new(unit);
        // SAFETY: function and argument were given together, and no lock is held.
        unsafe { visitor(user_data, lent.handle()) };
    }
    Ok(())
}

/// Called for each unit, on the caller's thread. The unit is borrowed.
pub type roletalk_unit_visitor =
    Option<unsafe extern "C" fn(user_data: *mut c_void, unit: roletalk_unit)>;

/// What is known of a unit. Valid during the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_unit_info {
    /// The size of this struct in the library.
    pub struct_size: usize,
    /// The remote peer's id, unique for its lifetime.
    pub id: roletalk_string,
    /// Its name; may be empty.
    pub name: roletalk_string,
    /// Whether it wants to be told of others: 1 or 0.
    pub friendly: i32,
    /// Whether a connection is open: 1 or 0.
    pub open: i32,
    /// The operating system that it runs on.
    pub os: roletalk_string,
    /// What it runs in.
    pub runtime: roletalk_string,
    /// The version of the protocol that it speaks.
    pub protocol: roletalk_string,
    /// Its clock when it connected, in milliseconds since 1970. Go counts in units of 10 ms.
    pub time: u64,
    /// How long it had been running when it connected, in milliseconds. Go counts in units of 10 ms.
    pub uptime: u64,
    /// Its tags, as they were when it connected.
    pub tags: *const roletalk_pair,
    /// How many tags.
    pub tag_count: usize,
    /// The roles that it serves now.
    pub roles: *const roletalk_string,
    /// How many roles.
    pub role_count: usize,
}

/// Called with what is known of a unit, on the caller's thread.
pub type roletalk_unit_info_visitor =
    Option<unsafe extern "C" fn(user_data: *mut c_void, info: *const roletalk_unit_info)>;

/// Counters of a unit since it connected. Set `struct_size` before.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_unit_stats {
    /// sizeof(roletalk_unit_stats).
    pub struct_size: usize,
    /// One-way messages sent.
    pub messages_sent: u64,
    /// One-way messages received.
    pub messages_received: u64,
    /// One-way messages dropped because too many handlers were running.
    pub messages_dropped: u64,
    /// Requests sent, stream openings included.
    pub requests_sent: u64,
    /// Requests received, stream openings included.
    pub requests_received: u64,
    /// Requests rejected because too many handlers were running.
    pub requests_shed: u64,
    /// Requests sent that wait for an answer.
    pub waiting: u64,
    /// Handlers that are running, deferred contexts included.
    pub running: u64,
    /// Streams that are open or being opened.
    pub streams: u64,
    /// Stream bytes sent.
    pub stream_bytes_sent: u64,
    /// Stream bytes received.
    pub stream_bytes_received: u64,
    /// Microseconds from the last answered request to its answer; -1 before the first.
    pub last_answer_us: i64,
    /// Microseconds that the last ping took on the fastest connection; -1 before the first.
    pub round_trip_us: i64,
    /// Open connections.
    pub connections: u64,
    /// Bytes of what those running handlers were called with.
    pub running_bytes: u64,
    /// Requests received that were not begun, since their time was up or their requester had given up.
    pub requests_expired: u64,
    /// Requests sent that were given up, of which the other side was told.
    pub cancels_sent: u64,
    /// Requests received of which the other side told that they were given up, whether or not they were still
    /// running.
    pub cancels_received: u64,
    /// Messages, requests and answers whose headers and trace context were left out, since the other side does not
    /// take them.
    pub fields_left_out: u64,
    /// Requests received that were not begun, since they came after the roles were withdrawn.
    pub requests_turned_away: u64,
    /// Requests sent that the other side has surely not begun, and that went on to another unit.
    pub requests_rerouted: u64,
    /// Microseconds that its answers take, smoothed, a second at most: what the choice of the least loaded unit counts
    /// with; -1 before the first.
    pub answer_time_us: i64,
    /// What the unit called and the policy did not allow.
    pub denied: u64,
}

/// Counters of one connection of a unit. Set `struct_size` before.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_connection_stats {
    /// sizeof(roletalk_connection_stats).
    pub struct_size: usize,
    /// The connection's number, never used again.
    pub connection: u64,
    /// roletalk frames sent, or waiting to be written.
    pub frames_sent: u64,
    /// roletalk frames received.
    pub frames_received: u64,
    /// Bytes of WebSocket frames sent, or waiting to be written.
    pub bytes_sent: u64,
    /// Bytes of roletalk frames received.
    pub bytes_received: u64,
    /// Bytes that wait to be written.
    pub queued: u64,
    /// Microseconds that the last ping took; -1 before the first answer.
    pub round_trip_us: i64,
}

sized!(roletalk_unit_info roletalk_unit_stats roletalk_connection_stats);

fn micros(time: Option<Duration>) -> i64 {
    time.map_or(-1, |time| i64::try_from(time.as_micros()).unwrap_or(i64::MAX))
}

/// Another handle of the same unit, to be freed with roletalk_unit_free.
///
/// Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_unit_clone(
    unit: roletalk_unit,
    clone: *mut roletalk_unit,
) -> roletalk_status {
    enter(|| {
        check_out(clone, "clone")?;
        let handle = units::insert(units::get(unit)?);
        // SAFETY: the contract of pointers in the header's introduction.
        unsafe { put(clone, handle, "clone") }
    })
}

/// Frees a handle. The unit stays connected.
///
/// Errors: ROLETALK_STATUS_INVALID_ARGUMENT for a handle that a callback borrows. Any thread, also inside
/// callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_unit_free(unit: roletalk_unit) -> roletalk_status {
    enter(|| units::free(unit))
}

/// Copies the remote peer's id, unique for its lifetime, to `buffer`, without a zero at the end, and
/// its length to `len`, which may be NULL.
///
/// Errors: ROLETALK_STATUS_TOO_LARGE when the buffer is too small (`len` is set). Any thread, also inside
/// callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_unit_id(
    unit: roletalk_unit,
    buffer: *mut c_char,
    capacity: usize,
    len: *mut usize,
) -> roletalk_status {
    // SAFETY: the contract of pointers in the header's introduction.
    enter(|| unsafe { copy_text(&units::get(unit)?.id(), buffer, capacity, len) })
}

/// Copies the remote peer's name as roletalk_unit_id does its id; it may be empty.
///
/// Errors, threads and callbacks as roletalk_unit_id.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_unit_name(
    unit: roletalk_unit,
    buffer: *mut c_char,
    capacity: usize,
    len: *mut usize,
) -> roletalk_status {
    // SAFETY: the contract of pointers in the header's introduction.
    enter(|| unsafe { copy_text(&units::get(unit)?.name(), buffer, capacity, len) })
}

/// Calls `visitor` once, before this returns, with all that is known of the unit.
///
/// Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_unit_describe(
    unit: roletalk_unit,
    visitor: roletalk_unit_info_visitor,
    user_data: *mut c_void,
) -> roletalk_status {
    enter(|| {
        let unit = units::get(unit)?;
        let visitor = visitor.ok_or_else(|| Failure::null("visitor"))?;
        let (id, name, meta, tags, roles) =
            (unit.id(), unit.name(), unit.meta(), unit.tags(), unit.roles());
        let pair = |(key, value): (&String, &String)| roletalk_pair {
            key: roletalk_string::lend(key),
            value: roletalk_string::lend(value),
        };
        let tags: Vec<_> = tags.iter().map(pair).collect();
        let roles_lent: Vec<_> = roles.iter().map(|role| roletalk_string::lend(role)).collect();
        let info = roletalk_unit_info {
            struct_size: size_of::<roletalk_unit_info>(),
            id: roletalk_string::lend(&id),
            name: roletalk_string::lend(&name),
            friendly: i32::from(unit.is_friendly()),
            open: i32::from(unit.is_open()),
            os: roletalk_string::lend(&meta.os),
            runtime: roletalk_string::lend(&meta.runtime),
            protocol: roletalk_string::lend(&meta.protocol),
            time: meta.time,
            uptime: meta.uptime,
            tags: tags.as_ptr(),
            tag_count: tags.len(),
            roles: roles_lent.as_ptr(),
            role_count: roles_lent.len(),
        };
        // SAFETY: function and argument were given together; the view points into local variables,
        // and no lock is held.
        unsafe { visitor(user_data, &info) };
        Ok(())
    })
}

/// Whether a connection is open: 1 or 0.
///
/// Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_unit_is_open(
    unit: roletalk_unit,
    open: *mut i32,
) -> roletalk_status {
    // SAFETY: the contract of pointers in the header's introduction.
    enter(|| unsafe { put(open, i32::from(units::get(unit)?.is_open()), "open") })
}

/// Closes all connections to the unit with code 4000. The addresses that were dialed for them are not
/// dialed again; the remote peer may come back if it has dialed this one. Returns once they are
/// closed, at the latest after two seconds; inside a callback it does not wait. The handle stays
/// valid.
///
/// Any thread, also inside callbacks.
#[unsafe(no_mangle)]
pub extern "C" fn roletalk_unit_disconnect(unit: roletalk_unit) -> roletalk_status {
    enter(|| {
        let unit = units::get(unit)?;
        let limit = if frame::in_callback() { Limit::Now } else { Limit::Never };
        // What is not to be waited for has begun all the same.
        let _ = block_on(None, limit, unit.close());
        Ok(())
    })
}

/// Counters. `stats->struct_size` must be set.
///
/// Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_unit_get_stats(
    unit: roletalk_unit,
    stats: *mut roletalk_unit_stats,
) -> roletalk_status {
    enter(|| {
        let unit = units::get(unit)?;
        let known = unit.stats();
        let value = roletalk_unit_stats {
            struct_size: size_of::<roletalk_unit_stats>(),
            messages_sent: known.messages_sent,
            messages_received: known.messages_received,
            messages_dropped: known.messages_dropped,
            requests_sent: known.requests_sent,
            requests_received: known.requests_received,
            requests_shed: known.requests_shed,
            waiting: known.waiting as u64,
            running: known.running as u64,
            streams: known.streams as u64,
            stream_bytes_sent: known.stream_bytes_sent,
            stream_bytes_received: known.stream_bytes_received,
            last_answer_us: micros(known.last_answer),
            round_trip_us: micros(unit.round_trip()),
            connections: known.connections.len() as u64,
            running_bytes: known.running_bytes as u64,
            requests_expired: known.requests_expired,
            cancels_sent: known.cancels_sent,
            cancels_received: known.cancels_received,
            fields_left_out: known.fields_left_out,
            requests_turned_away: known.requests_turned_away,
            requests_rerouted: known.requests_rerouted,
            answer_time_us: micros(known.answer_time),
            denied: known.denied,
        };
        // SAFETY: the contract of pointers in the header's introduction.
        unsafe { sized::write(stats, &value) }
    })
}

/// Counters of one of the unit's connections: `at` counts from 0.
///
/// Errors: ROLETALK_STATUS_END when there are not so many. Any thread, also inside callbacks.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roletalk_unit_get_connection_stats(
    unit: roletalk_unit,
    at: usize,
    stats: *mut roletalk_connection_stats,
) -> roletalk_status {
    enter(|| {
        let known = units::get(unit)?.stats();
        let none = || Failure::new(Status::End, "The unit has not so many connections");
        let known = known.connections.get(at).ok_or_else(none)?;
        let value = roletalk_connection_stats {
            struct_size: size_of::<roletalk_connection_stats>(),
            connection: known.conn.0,
            frames_sent: known.frames_sent,
            frames_received: known.frames_received,
            bytes_sent: known.bytes_sent,
            bytes_received: known.bytes_received,
            queued: known.queued as u64,
            round_trip_us: micros(known.round_trip),
        };
        // SAFETY: the contract of pointers in the header's introduction.
        unsafe { sized::write(stats, &value) }
    })
}

#[cfg(test)]
mod tests {
    use engine::{ConnectionStats, Measure, Quantity, UnitStats};

    const HEADER: &str = include_str!("../../include/roletalk.h");

    /// The fields of a struct in the header.
    fn fields(of: &str) -> Vec<&'static str> {
        let end = format!("}} {of};");
        let end = HEADER.find(&end).expect("the struct");
        let begin = HEADER[..end].rfind('{').expect("its beginning");
        let lines = HEADER[begin..end].lines().map(str::trim);
        lines.filter_map(|line| line.strip_suffix(';')).collect()
    }

    fn check(of: &str, all: &[Quantity], more: &[&str]) {
        let fields = fields(of);
        let field = |counter: &Quantity| match counter.measure {
            Measure::Time => format!("int64_t {}_us", counter.name),
            _ => format!("uint64_t {}", counter.name),
        };
        let expected = all.iter().map(field).chain(more.iter().map(|more| (*more).to_owned()));
        let missing: Vec<_> = expected.filter(|field| !fields.contains(&field.as_str())).collect();
        assert!(missing.is_empty(), "{of} lacks {missing:?}");
        assert_eq!(fields.len(), all.len() + more.len(), "{fields:?}");
    }

    #[test]
    fn every_counter_of_the_engine_is_here() {
        let more = ["size_t struct_size", "int64_t round_trip_us", "uint64_t connections"];
        check("roletalk_unit_stats", UnitStats::ALL, &more);
        let more = ["size_t struct_size", "uint64_t connection"];
        check("roletalk_connection_stats", ConnectionStats::ALL, &more);
    }
}
