//! The executor: evaluates a plan tile by tile into fixed places, and remembers what is done.

pub mod journal;
