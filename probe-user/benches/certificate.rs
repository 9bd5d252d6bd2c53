//! A certificate for `localhost`, with a P-256 key.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Makes one: the files of the certificate and of its key.
pub(crate) fn make(directory: &Path) -> [PathBuf; 2] {
    let files = ["certificate.pem", "key.pem"].map(|name| directory.join(name));
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-days", "30", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"])
        .args(["-out".as_ref(), files[0].as_os_str(), "-keyout".as_ref(), files[1].as_os_str()])
        .output()
        .expect("openssl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    files
}
