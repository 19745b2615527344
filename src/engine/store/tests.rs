//! The file over its versions, and what is kept of closed sessions for how long.
