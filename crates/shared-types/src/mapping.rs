//! Mappings: which row changes become which events.
