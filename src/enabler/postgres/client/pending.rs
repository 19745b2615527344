//! The statement in progress: the server's messages from the request to ReadyForQuery.
//!
//! The transaction is committed between CommandComplete and ReadyForQuery. What fails there, or is reported there, decides
//! about the outcome, so there is none before ReadyForQuery.

use super::row::Row;
use super::server_error::{Report, ServerError};
use crate::charge::time::Time;
use fallible_iterator::FallibleIterator;
use postgres_protocol::Oid;
use postgres_protocol::message::backend::{Message, RowDescriptionBody};
use std::rc::Rc;

/// Maximum number of rows of a result.
pub const ROWS_MAX: usize = 65_536;

/// Maximum number of octets of all rows of a result.
pub const RESULT_OCTETS_MAX: usize = 64 << 20;

/// Maximum number of columns of a result.
pub const COLUMNS_MAX: usize = 64;

/// Octets that a row is counted for besides its values.
const ROW_OCTETS: usize = 32;

/// What the next message must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    ParseComplete,
    ParameterDescription,
    RowDescription,
    BindComplete,
    Rows,
    /// Only ReadyForQuery.
    Completed,
}

/// The statement in progress.
#[derive(Debug)]
pub struct Pending {
    step: Step,
    /// When the answer must be complete.
    pub until: Time,
    /// Types of the columns, once they are known.
    types: Option<Rc<[Oid]>>,
    rows: Vec<Row>,
    /// Octets of the rows.
    octets: usize,
    error: Option<ServerError>,
    is_not_replicated: bool,
}

/// Outcome of a statement.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It is executed and committed.
    Rows(Vec<Row>),
    /// It had no effect.
    Refused(ServerError),
    /// It may have been executed.
    Lost,
}

/// Progress of the statement.
#[derive(Debug)]
pub enum Progress {
    /// More messages follow.
    Continues,
    /// The statement is prepared, with columns of these types.
    Prepared(Rc<[Oid]>),
    /// It is complete.
    Finished(Outcome),
}

impl Pending {
    /// A statement that is parsed first.
    pub fn unprepared(until: Time) -> Pending {
        Pending::new(Step::ParseComplete, None, until)
    }

    /// A statement that the server knows.
    pub fn prepared(types: Rc<[Oid]>, until: Time) -> Pending {
        Pending::new(Step::BindComplete, Some(types), until)
    }

    fn new(step: Step, types: Option<Rc<[Oid]>>, until: Time) -> Pending {
        Pending { step, until, types, rows: Vec::new(), octets: 0, error: None, is_not_replicated: false }
    }

    /// Takes a NoticeResponse.
    pub fn notice(&mut self, report: &Report) {
        self.is_not_replicated |= report.is_not_replicated;
    }

    /// Takes a message, except NoticeResponse and ParameterStatus. An error ends the connection.
    pub fn message(&mut self, message: Message) -> Result<Progress, String> {
        self.step = match (self.step, message) {
            (Step::Completed, Message::ReadyForQuery(body)) => return self.finish(body.status()),
            (_, Message::ErrorResponse(body)) => {
                let report = Report::read(body.fields()).map_err(malformed)?;
                self.is_not_replicated |= report.is_not_replicated;
                self.error = Some(report.error);
                self.rows.clear();
                Step::Completed
            }
            (Step::ParseComplete, Message::ParseComplete) => Step::ParameterDescription,
            (Step::ParameterDescription, Message::ParameterDescription(_)) => Step::RowDescription,
            (Step::RowDescription, Message::RowDescription(body)) => return self.described(types_of(&body)?),
            (Step::RowDescription, Message::NoData) => return self.described(Rc::new([])),
            (Step::BindComplete, Message::BindComplete) => Step::Rows,
            (Step::Rows, Message::DataRow(body)) => {
                let row = self.types.as_ref().map(|types| Row::read(&body, types)).transpose().map_err(malformed)?;
                self.push(row, body.buffer().len())?;
                Step::Rows
            }
            (Step::Rows, Message::CommandComplete(_) | Message::EmptyQueryResponse) => Step::Completed,
            _ => return Err("a message that does not belong to the answer of a statement".into()),
        };
        Ok(Progress::Continues)
    }

    /// Returns the error that the server has reported.
    pub fn error(&self) -> Option<&ServerError> {
        self.error.as_ref()
    }

    fn described(&mut self, types: Rc<[Oid]>) -> Result<Progress, String> {
        self.types = Some(Rc::clone(&types));
        self.step = Step::BindComplete;
        Ok(Progress::Prepared(types))
    }

    fn push(&mut self, row: Option<Row>, octets: usize) -> Result<(), String> {
        self.octets = self.octets.saturating_add(octets + ROW_OCTETS);
        if self.rows.len() == ROWS_MAX || self.octets > RESULT_OCTETS_MAX {
            return Err(format!("a result of more than {ROWS_MAX} rows or {RESULT_OCTETS_MAX} octets"));
        }
        self.rows.extend(row);
        Ok(())
    }

    /// `status`: that of the transaction.
    fn finish(&mut self, status: u8) -> Result<Progress, String> {
        if status != b'I' {
            return Err("a statement that left a transaction open".into());
        }
        let outcome = match self.error.take() {
            _ if self.is_not_replicated => Outcome::Lost,
            Some(error) if error.is_fatal => Outcome::Lost,
            Some(error) => Outcome::Refused(error),
            None => Outcome::Rows(std::mem::take(&mut self.rows)),
        };
        Ok(Progress::Finished(outcome))
    }
}

fn types_of(body: &RowDescriptionBody) -> Result<Rc<[Oid]>, String> {
    let (mut types, mut fields) = (Vec::new(), body.fields());
    while let Some(field) = fields.next().map_err(|error| malformed(error.to_string()))? {
        if types.len() == COLUMNS_MAX {
            return Err(format!("a result of more than {COLUMNS_MAX} columns"));
        }
        types.push(field.type_oid());
    }
    Ok(types.into())
}

/// Returns the reason for closing a connection.
pub fn malformed(why: String) -> String {
    format!("malformed message: {why}")
}
