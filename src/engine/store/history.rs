//! Closed sessions are kept for so many days, with their steps and debits; then they go, a few at a time.
//!
//! A pass takes 128 sessions or 1000 rows or five milliseconds at most, in a transaction of its own; the next one comes
//! no sooner than after 200 ms on the clock that nobody can step. It looks at the sessions that
//! were opened first; where none of them is old enough, it looks a little further, farther with each pass, for those whose
//! times were taken from a wrong clock. Only sessions that the engine has forgotten go: whatever may still be debited is
//! known by its (session, Message-ID).
//!
//! The day is told by the wall clock. Where that has jumped ahead by more than a day, against the other clock or (after a
//! start) against the latest session, nothing goes for a day: an operator can set it right, or it was wrong before.

use super::writer::Tables;
use super::{StoreError, database};
use crate::charge::time::Time;
use crate::shm::clock;
use rusqlite::{Connection, OptionalExtension, Result};
use std::time::Duration;

const DAY_MS: i64 = 86_400_000;

/// Between two passes, where the first has left something.
const SOON: Duration = Duration::from_millis(200);

/// Between two passes, where it has not.
const LATER: Duration = Duration::from_secs(10);

/// Sessions of a pass.
const SESSIONS: usize = 128;

/// Rows of a pass.
const ROWS: usize = 1000;

/// No session is begun after so much of a pass.
const SPAN: Duration = Duration::from_millis(5);

/// What the passes know of each other.
#[derive(Default)]
pub(super) struct Passes {
    /// When the last one was, on both clocks.
    last: Option<(Time, i64)>,
    /// The wall clock is not trusted until then.
    distrusted_until: Time,
    /// How far was looked where the first sessions are not old enough.
    looked: i64,
}

/// What a pass goes by.
#[derive(Clone, Copy)]
pub struct Pass {
    /// Days for which closed sessions are kept.
    pub days: u32,
    /// Now.
    pub now: Time,
    /// Now, UNIX milliseconds.
    pub wall_ms: i64,
}

impl Tables {
    /// Removes some of what was closed more than so many days ago; when to call it again.
    pub(super) fn remove_old(&mut self, pass: Pass) -> std::result::Result<Time, StoreError> {
        let Pass { days, now, wall_ms } = pass;
        if self.has_jumped(now, wall_ms)? {
            self.passes.distrusted_until = now.after_seconds(86_400);
        }
        self.passes.last = Some((now, wall_ms));
        if now < self.passes.distrusted_until {
            return Ok(after(now, LATER));
        }
        let before = wall_ms.saturating_sub(i64::from(days) * DAY_MS);
        let error = |source| database::error(&self.database.path, source);
        let mut old = old_sessions(&self.database.connection, 0, before).map_err(error)?;
        if old.sessions.is_empty() {
            old = old_sessions(&self.database.connection, self.passes.looked, before).map_err(error)?;
            self.passes.looked = old.last.unwrap_or(0);
        }
        if old.sessions.is_empty() {
            return Ok(after(now, LATER));
        }
        self.transaction(|connection| remove(connection, &old.sessions))?;
        // There may be more.
        Ok(after(now, SOON))
    }

    /// Whether the wall clock may be wrong. Only a jump against the other clock is reported: at a start, a day without a
    /// session says nothing about a clock.
    fn has_jumped(&self, now: Time, wall_ms: i64) -> std::result::Result<bool, StoreError> {
        let is_beyond = |expected: i64| wall_ms > expected.saturating_add(DAY_MS);
        if let Some((then, wall)) = self.passes.last {
            let has_jumped = is_beyond(wall.saturating_add_unsigned(now.micros_since(then) / 1000));
            if has_jumped {
                log::warn!("the wall clock has gone ahead by more than a day: no history is removed for a day");
            }
            return Ok(has_jumped);
        }
        let latest = latest(&self.database.connection);
        let latest = latest.map_err(|source| database::error(&self.database.path, source))?;
        Ok(latest.is_some_and(is_beyond))
    }
}

fn after(now: Time, span: Duration) -> Time {
    Time(now.0.saturating_add(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)))
}

/// When the latest session was opened or closed.
fn latest(connection: &Connection) -> Result<Option<i64>> {
    let sql = "SELECT max(opened_at, coalesce(closed_at, 0)) FROM sessions ORDER BY id DESC LIMIT 1";
    connection.query_row(sql, [], |row| row.get(0)).optional()
}

/// What a look at some sessions has found.
struct Old {
    /// Those that nobody needs any more.
    sessions: Vec<i64>,
    /// The last one looked at; `None`: there are no more.
    last: Option<i64>,
}

/// Looks at sessions behind this one, of those that the engine has forgotten. The latest of all stays: its number must not come again.
fn old_sessions(connection: &Connection, behind: i64, before: i64) -> Result<Old> {
    let mut statement = connection.prepare_cached(
        "SELECT id, coalesce(closed_at<?2, 0) AND NOT EXISTS(SELECT 1 FROM holds WHERE session=sessions.id) \
         FROM sessions WHERE id>?1 AND id<(SELECT max(id) FROM sessions) \
         AND NOT EXISTS(SELECT 1 FROM states WHERE session=sessions.id) ORDER BY id LIMIT ?3",
    )?;
    let rows = statement.query_map((behind, before, SESSIONS as i64), |row| Ok((row.get(0)?, row.get(1)?)))?;
    let rows = rows.collect::<Result<Vec<(i64, bool)>>>()?;
    let last = rows.last().map(|(id, _)| *id);
    Ok(Old { sessions: rows.into_iter().filter_map(|(id, is_old)| is_old.then_some(id)).collect(), last })
}

/// Removes sessions with all that is kept of them, as far as a pass goes.
fn remove(connection: &Connection, sessions: &[i64]) -> Result<()> {
    let begun = clock::now();
    let mut left = ROWS;
    for session in sessions {
        for sql in [
            "DELETE FROM trace_parts WHERE session=?1 AND part IN (SELECT part FROM trace_parts WHERE session=?1 LIMIT ?2)",
            "DELETE FROM debits WHERE id IN (SELECT id FROM debits WHERE session=?1 LIMIT ?2)",
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
        if left == 0 || clock::since(begun) > SPAN {
            return Ok(());
        }
    }
    Ok(())
}
