//! A certificate for everybody.

use std::{path::PathBuf, process::Command, sync::LazyLock};

use tempfile::TempDir;

pub(crate) struct Certificates {
    _directory: TempDir,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Certificates {
    /// One for `localhost` and a few made-up names, the same for all tests.
    pub(crate) fn get() -> &'static Self {
        static CERTIFICATES: LazyLock<Certificates> = LazyLock::new(Certificates::make);
        &CERTIFICATES
    }

    fn make() -> Self {
        let directory = tempfile::tempdir().expect("a directory for certificates");
        let certificate = directory.path().join("certificate.pem");
        let key = directory.path().join("key.pem");
        let output = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(["-nodes", "-days", "30", "-subj", "/CN=localhost"])
            .args(["-addext", "subjectAltName=DNS:localhost,DNS:a.test,DNS:b.test"])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .output()
            .expect("openssl runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self { _directory: directory, certificate, key }
    }
}
