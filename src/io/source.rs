//! A model folder, opened for reading.
