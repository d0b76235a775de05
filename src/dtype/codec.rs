//! Codes to values and back.
