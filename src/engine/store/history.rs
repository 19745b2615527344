//! Removes closed sessions, with their traces and debits, after `history_days`.
//!
//! A pass removes at most 128 sessions, 1000 rows, or as many as 5 ms allow, in one transaction; the next pass starts at
//! least 200 ms later on the monotonic clock. It looks at the sessions that were opened first. If none of them is old
//! enough, it also looks at later ones, further on with each pass, because the time of the first ones may be wrong. Only
//! sessions that the engine has forgotten are removed: before, a message might be debited again, and (session, Message-ID)
//! must identify its earlier debit.
//!
//! Age is measured on the wall clock. If that has jumped ahead by more than a day, compared with the monotonic clock or
//! (after a start) with the latest session, nothing is removed for a day, so that an operator can correct it.

use super::writer::Tables;
use super::{StoreError, database};
use crate::charge::time::Time;
use crate::shm::clock;
use rusqlite::{Connection, OptionalExtension, Result};
use std::time::Duration;

const DAY_MS: i64 = 86_400_000;

/// Time between two passes while there is something to remove.
const PASS_INTERVAL: Duration = Duration::from_millis(200);

/// Time between two passes after one that found nothing.
const IDLE_PASS_INTERVAL: Duration = Duration::from_secs(10);

/// Sessions of a pass.
const PASS_SESSIONS_MAX: usize = 128;

/// Rows of a pass.
const PASS_ROWS_MAX: usize = 1000;

/// Duration of a pass, after which it begins with no further session.
const PASS_DURATION_MAX: Duration = Duration::from_millis(5);

/// Seconds for which nothing is removed after a jump of the wall clock.
const DISTRUST_SECONDS: u32 = 86_400;

/// State between passes.
#[derive(Default)]
pub(super) struct Cleanup {
    /// When the last pass was, on both clocks.
    last: Option<(Time, i64)>,
    /// The wall clock is not trusted until then.
    distrusted_until: Time,
    /// Last session that was looked at beyond the first ones.
    looked_at: i64,
}

/// Decides which closed sessions are old.
#[derive(Clone, Copy)]
pub struct Retention {
    /// Days for which closed sessions are kept.
    pub days: u32,
    /// Current time.
    pub now: Time,
    /// Current time, UNIX milliseconds.
    pub wall_ms: i64,
}

impl Tables {
    /// Runs a pass and returns when the next one is due.
    pub(super) fn remove_old(&mut self, retention: Retention) -> std::result::Result<Time, StoreError> {
        let Retention { days, now, wall_ms } = retention;
        if self.has_jumped(now, wall_ms)? {
            self.cleanup.distrusted_until = now.after_seconds(DISTRUST_SECONDS);
        }
        self.cleanup.last = Some((now, wall_ms));
        if now < self.cleanup.distrusted_until {
            return Ok(after(now, IDLE_PASS_INTERVAL));
        }
        let before = wall_ms.saturating_sub(i64::from(days) * DAY_MS);
        let error = |source| database::error(&self.database.path, source);
        let mut old = old_sessions(&self.database.connection, 0, before).map_err(error)?;
        if old.sessions.is_empty() {
            old = old_sessions(&self.database.connection, self.cleanup.looked_at, before).map_err(error)?;
            self.cleanup.looked_at = old.last.unwrap_or(0);
        }
        if old.sessions.is_empty() {
            return Ok(after(now, IDLE_PASS_INTERVAL));
        }
        self.transaction(|connection| remove(connection, &old.sessions))?;
        Ok(after(now, PASS_INTERVAL))
    }

    /// Whether the wall clock may be wrong. Only a jump against the monotonic clock is logged: after a start, a day
    /// without a session says nothing about the clock.
    fn has_jumped(&self, now: Time, wall_ms: i64) -> std::result::Result<bool, StoreError> {
        let is_beyond = |expected: i64| wall_ms > expected.saturating_add(DAY_MS);
        if let Some((then, wall)) = self.cleanup.last {
            let has_jumped = is_beyond(wall.saturating_add_unsigned(now.micros_since(then) / 1000));
            if has_jumped {
                log::warn!("the wall clock has jumped ahead by more than a day: no history is removed for a day");
            }
            return Ok(has_jumped);
        }
        let latest = latest(&self.database.connection);
        let latest = latest.map_err(|source| database::error(&self.database.path, source))?;
        Ok(latest.is_some_and(is_beyond))
    }
}

fn after(now: Time, interval: Duration) -> Time {
    Time(now.0.saturating_add(u64::try_from(interval.as_micros()).unwrap_or(u64::MAX)))
}

/// Returns when the latest session was opened or closed, UNIX milliseconds.
fn latest(connection: &Connection) -> Result<Option<i64>> {
    let sql = "SELECT max(opened_at, coalesce(closed_at, 0)) FROM sessions ORDER BY id DESC LIMIT 1";
    connection.query_row(sql, [], |row| row.get(0)).optional()
}

/// Result of `old_sessions`.
struct Old {
    /// Sessions to remove.
    sessions: Vec<i64>,
    /// Last session looked at; `None`: there are no more.
    last: Option<i64>,
}

/// Scans forgotten sessions with a larger id than `after`. The newest row is kept, because ids must not be reused.
fn old_sessions(connection: &Connection, after: i64, before: i64) -> Result<Old> {
    let mut statement = connection.prepare_cached(
        "SELECT id, coalesce(closed_at<?2, 0) AND NOT EXISTS(SELECT 1 FROM holds WHERE session=sessions.id) \
         FROM sessions WHERE id>?1 AND id<(SELECT max(id) FROM sessions) \
         AND NOT EXISTS(SELECT 1 FROM states WHERE session=sessions.id) ORDER BY id LIMIT ?3",
    )?;
    let rows = statement.query_map((after, before, PASS_SESSIONS_MAX as i64), |row| Ok((row.get(0)?, row.get(1)?)))?;
    let rows = rows.collect::<Result<Vec<(i64, bool)>>>()?;
    let last = rows.last().map(|(id, _)| *id);
    Ok(Old { sessions: rows.into_iter().filter_map(|(id, is_old)| is_old.then_some(id)).collect(), last })
}

/// Removes sessions with everything that belongs to them, within the limits of a pass.
fn remove(connection: &Connection, sessions: &[i64]) -> Result<()> {
    let begun = clock::now();
    let mut left = PASS_ROWS_MAX;
    for session in sessions {
        for sql in [
            "DELETE FROM trace_parts WHERE session=?1 \
             AND part IN (SELECT part FROM trace_parts WHERE session=?1 LIMIT ?2)",
            "DELETE FROM debits WHERE id IN (SELECT id FROM debits WHERE session=?1 LIMIT ?2)",
            "DELETE FROM balance_changes WHERE id IN (SELECT id FROM balance_changes WHERE session=?1 LIMIT ?2)",
            "DELETE FROM undebited WHERE session=?1 AND (message_id, at) IN \
             (SELECT message_id, at FROM undebited WHERE session=?1 LIMIT ?2)",
        ] {
            left -= connection.prepare_cached(sql)?.execute((session, left as i64))?.min(left);
            if left == 0 {
                return Ok(());
            }
        }
        connection.prepare_cached("DELETE FROM sessions WHERE id=?1")?.execute([session])?;
        left -= 1;
        if left == 0 || clock::since(begun) > PASS_DURATION_MAX {
            return Ok(());
        }
    }
    Ok(())
}
