//! What the fuzz targets share.

pub mod code;
pub mod file;
pub mod heap;
