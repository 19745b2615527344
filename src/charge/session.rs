//! One session of deferred message retrieval.
