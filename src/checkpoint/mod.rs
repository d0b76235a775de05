//! A checkpoint: headers, config and names, no tensor bytes.
